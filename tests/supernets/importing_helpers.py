"""A checkpoint as the Once-for-All authors publish theirs, and the forms that it comes in.

The fixtures serve the modules that import them.
"""

import pytest
import torch
from torch import nn

from supernets import Supernet
from tests.supernets.helpers import relative
from tests.supernets.ofa_reference import SIZE, calibrate_theirs, legacy, their_net

CLASSES = 10  # a small head keeps the files small


@pytest.fixture(name="theirs", scope="module")
def their_network():
    net = their_net("mobilenetv3-w1.2", classes=CLASSES)
    calibrate_theirs(net)
    return net


@pytest.fixture(name="state")
def their_state(theirs):
    return {name: tensor.clone() for name, tensor in theirs.state_dict().items()}


@pytest.fixture(name="file")
def their_file(tmp_path, state):
    """Named as published: without an ending, and with a dot in the name."""
    file = tmp_path / "ofa_mbv3_d234_e346_k357_w1.2"
    torch.save({"state_dict": state}, file)
    return file


def agrees(net: Supernet, theirs: nn.Module) -> bool:
    x = torch.randn(2, 3, SIZE, SIZE)
    theirs.set_max_net()
    with torch.no_grad():
        expected = theirs(x)
        return relative(net.eval()(x, net.space.largest), expected) < 1e-5


SAVED = {
    "wrapped": lambda state, file: torch.save({"state_dict": state, "epoch": 3}, file),
    "bare": torch.save,
    "legacy-names": lambda state, file: torch.save({"state_dict": legacy(state)}, file),
    "before-zip": lambda state, file: torch.save(
        {"state_dict": state}, file, _use_new_zipfile_serialization=False
    ),
}
