"""Networks for tests: randomised everywhere, because default initialisation hides errors."""

import random

import torch
from torch import Tensor

from supernets.calibration import calibrate
from supernets.ofa_mobilenetv3 import MobileNetV3Definition, OFAMobileNetV3
from supernets.space import Subnet
from supernets.supernet import Preprocessing

SMALL = MobileNetV3Definition(
    num_classes=7,
    in_channels=1,
    image_size=16,
    stem_width=8,
    first_width=8,
    stage_widths=(16, 24, 24),
    strides=(1, 2, 1),
    activations=("relu", "h_swish", "h_swish"),
    squeezes=(False, True, True),
    final_width=48,
    feature_width=40,
    expands=(2, 3, 6),
    depths=(1, 2, 3),
)


def small_net(seed: int = 0, definition: MobileNetV3Definition = SMALL) -> OFAMobileNetV3:
    """A small member of the family in float64, every parameter random, in evaluation mode."""
    torch.manual_seed(seed)
    size = definition.image_size
    step = Preprocessing(size, size, definition.in_channels, (0.5,), (0.5,))
    net = OFAMobileNetV3(definition, preprocessing=step)
    randomise(net, seed)
    return net.double().eval()


@torch.no_grad()
def randomise(net: torch.nn.Module, seed: int) -> None:
    """Unit-gain convolutions, random norms and kernel matrices: no two channels are alike then."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in net.named_parameters():
        if tensor.dim() == 4:
            torch.nn.init.kaiming_normal_(tensor, nonlinearity="relu", generator=generator)
        elif "norm" in name and name.endswith("weight"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif "transforms" in name:
            noise = torch.empty_like(tensor).normal_(0.0, 0.1, generator=generator)
            tensor.copy_(torch.eye(len(tensor), dtype=tensor.dtype) + noise)
        else:
            tensor.normal_(0.0, 0.3, generator=generator)


def images(net: OFAMobileNetV3, count: int, seed: int = 0) -> Tensor:
    step = net.preprocessing
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(
        count, step.channels, step.height, step.width, dtype=torch.float64, generator=generator
    )


def calibrated(net: OFAMobileNetV3, count: int, seed: int = 0) -> list[Subnet]:
    """The smallest, the largest and ``count`` random subnets, each with its own statistics."""
    rng = random.Random(seed)
    subnets = [net.space.smallest, net.space.largest]
    subnets += [net.space.sample(rng) for _ in range(count)]
    for index, subnet in enumerate(subnets):
        calibrate(net, [subnet], [images(net, 8, seed=100 + index)])
    return subnets


def relative(a: Tensor, b: Tensor) -> float:
    """Norm of the difference over the norm of ``b``."""
    return float((a - b).norm() / b.norm())
