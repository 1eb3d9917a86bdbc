"""A subnet of any convolutional supernet as a program, read off its own forward pass.

The pass runs once on the meta device, where tensors have shapes but no values, and what it computes
from the image becomes steps over the arena. So a family, or a user's module, is written once.
"""

import torch

from kernels.program import Program
from supernets.lowering_rules import RULES
from supernets.recording import NotLowered, Recorder
from supernets.space import Subnet
from supernets.stored_weights import Skeleton

_BATCH = 2  # images in the pass: one could be taken for a dimension that broadcasts


def lower(skeleton: Skeleton, subnet: Subnet, size: tuple[int, int] | None = None) -> Program:
    """What the subnet computes for images of ``size`` (height, width), by default the net's own.

    No two steps are fused, and no tensor has values: each is a view of `Skeleton.place(it).whole`.
    Two images are passed, and any number of them is taken to go the same way. Raises `NotLowered`
    with the reason.
    """
    net = skeleton.net
    height, width = size or (net.preprocessing.height, net.preprocessing.width)
    shape = (_BATCH, net.preprocessing.channels, height, width)
    # Inference mode would hand over composite ops whole.
    with torch.inference_mode(False), torch.no_grad():
        image = torch.empty(shape, dtype=skeleton.dtype, device="meta")
        recorder = Recorder(skeleton, image, RULES)
        try:
            with recorder:
                logits = net.run(image, subnet, recorder.normalise)
            return recorder.program(logits)
        except Exception as error:
            # Anybody's forward pass: whatever it raises, it does not run without values.
            refusal = error if isinstance(error, NotLowered) else recorder.refusal
            reason = f"it does not run without values: {error!r}" if refusal is None else refusal
            raise NotLowered(f"{net.name} is no program of our kernels: {reason}") from error
