"""Register a supernet of one's own, calibrate it, measure it, save it, and get it back.

The network is one elastic convolution on two classes of noise: the smallest thing with all parts.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from supernets import (
    Preprocessing,
    SearchSpace,
    Subnet,
    Supernet,
    TrainOptions,
    calibrate,
    create_supernet,
    evaluate,
    register_supernet,
    save,
    train,
)
from supernets.norms.statistics import Normalisation
from supernets.operators import SubnetNorm, WeightSlice
from supernets.space import Dimension


class Tiny(Supernet):
    """4, 8 or 16 channels."""

    def __init__(self, num_classes: int) -> None:
        space = SearchSpace("tiny", [Dimension("width", 1, (4, 8, 16))])
        preprocessing = Preprocessing(8, 8, 1, mean=(0.5,), std=(0.25,))
        super().__init__("tiny", space, preprocessing, ["dark", "bright"])
        self.conv = WeightSlice(1, 16, kernel=3)
        self.norm = SubnetNorm(0, 16)
        self.head = WeightSlice(16, num_classes, bias=True)

    def run(self, x: Tensor, subnet: Subnet, normalise: Normalisation) -> Tensor:
        """Logits; the width is an argument, nothing is stored."""
        y = torch.relu(self.norm(self.conv(x, int(subnet["width"][0])), normalise))
        return self.head(y.amax((2, 3), keepdim=True)).flatten(1)

    def extract(self, subnet: Subnet) -> nn.Module:
        """Not offered by this one; serving does not need it."""
        raise TypeError(f"{self.name} has no extracted form")

    def definition(self) -> dict[str, Any]:
        """What `tiny` is called with to build this again."""
        return {"num_classes": len(self.labels)}


@register_supernet()
def tiny(*, num_classes: int = 2) -> Tiny:
    """The constructor; its name is the supernet's."""
    return Tiny(num_classes)


def batch(step: int) -> tuple[Tensor, Tensor]:
    """32 noisy images, the bright ones a little brighter."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(0, 2, (32,), generator=generator)
    noise = torch.randn(32, 1, 8, 8, generator=generator)
    return noise + labels[:, None, None, None], labels


def main() -> None:
    """Train, calibrate, save, measure; `superserve serve` would take the result."""
    torch.manual_seed(0)
    net = create_supernet("tiny")
    train(net, lambda first: (batch(i) for i in range(first, 60)), TrainOptions(steps=60))
    subnets = list(net.space)
    calibrate(net, subnets, [batch(1000 + i)[0] for i in range(8)])
    file = Path(tempfile.mkdtemp()) / "tiny.safetensors"
    save(net, file)
    held_out = [batch(2000 + i) for i in range(16)]
    card = evaluate(file, "tiny", subnets, held_out, "synthetic noise, held out")
    for entry in card.subnets:
        print(f"{entry.config}: {entry.accuracy:.1f} ± {entry.standard_error:.1f} %")
    print(f"superserve serve --supernet tiny --plugins MODULE --checkpoint {file}")


if __name__ == "__main__":
    main()
