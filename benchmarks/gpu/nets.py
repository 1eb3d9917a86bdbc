"""The nets that are measured: everything in them random, so that no two channels are alike.

A fresh net hides errors: its residual blocks do nothing, its norms change nothing. Here weights,
norms and kernel matrices are random, and every subnet has statistics of its own. Weights are
numbers of bfloat16, so that the types differ in their arithmetic and not in their weights.
"""

import copy
import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.settings import Settings
from kernels.runners import Kernels
from supernets import create_supernet, extract
from supernets.calibration import calibrate
from supernets.checkpoint import active_channels
from supernets.norms.statistics import LayerStatistics, SubnetStatistics
from supernets.ofa_mobilenetv3 import MobileNetV3Definition, OFAMobileNetV3
from supernets.ofa_resnet50 import OFAResNet50, ResNet50Definition
from supernets.resident_programs import ResidentPrograms
from supernets.space import Subnet
from supernets.supernet import Supernet

NOISE = 8  # images that the statistics are of

_SMALL = MobileNetV3Definition(
    num_classes=16,
    image_size=32,
    stem_width=8,
    first_width=8,
    stage_widths=(16, 24, 24),
    strides=(2, 2, 1),
    activations=("relu", "h_swish", "h_swish"),
    squeezes=(False, True, True),
    final_width=48,
    feature_width=40,
    kernels=(3, 5),
    expands=(2, 3, 6),
    depths=(1, 2),
)
_SMALL_RESNET = ResNet50Definition(
    num_classes=16,
    image_size=32,
    stem_width=16,
    stage_widths=(32, 64),
    strides=(1, 2),
    base_depths=(1, 1),
)
_MAKERS: dict[str, Callable[[], Supernet]] = {
    "mobilenetv3-w1.0": lambda: _published("ofa_mobilenetv3", width_mult=1.0),
    "mobilenetv3-w1.2": lambda: _published("ofa_mobilenetv3", width_mult=1.2),
    "resnet50": lambda: _published("ofa_resnet50"),
    "tiny-mobilenetv3": lambda: OFAMobileNetV3(_SMALL),
    "tiny-resnet": lambda: OFAResNet50(_SMALL_RESNET),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """A supernet in float32 on the CPU, the three subnets that are measured, and random others.

    ``theirs``: by label, the `ofa` package's dynamic net with the same weights and statistics and
    that subnet active. Empty where there is none, and ``reason`` says why.
    """

    name: str
    net: Supernet
    subnets: Mapping[str, Subnet]
    extra: tuple[Subnet, ...]
    theirs: Mapping[str, nn.Module]
    reason: str

    def images(self, batch: int, settings: Settings, seed: int = 1) -> Tensor:
        """[batch, 3, side, side] of normal numbers that bfloat16 has, channels last, float32."""
        generator = torch.Generator().manual_seed(settings.seed + 1000 * seed + batch)
        x = torch.randn(batch, 3, settings.side, settings.side, generator=generator)
        return x.bfloat16().float().contiguous(memory_format=torch.channels_last)

    def reference(self, subnet: Subnet) -> nn.Module:
        """The subnet as a plain module in float64."""
        return extract(self.net, subnet).double()

    def resident(self, settings: Settings, dtype: torch.dtype | None = None) -> ResidentPrograms:
        """On the device, for its kernels; `NoKernels` or ``TypeError`` where they cannot run it."""
        kernels: Kernels = "torch" if settings.is_dry else "triton"
        made = self.net.resident(settings.place, dtype or settings.dtype, "exact", kernels=kernels)
        if not isinstance(made, ResidentPrograms):
            raise TypeError(f"{self.name} is no program: {made.reason}")
        return made


def subject(name: str, settings: Settings, *, theirs: bool = False) -> Subject:
    """Build a net; with ``theirs``, in both projects where that can be."""
    net = _MAKERS[name]().eval()
    subnets, extra = _subnets(net, settings)
    package, reason = None, "not asked for"
    if theirs:
        package, reason = _package(name, settings.seed)
    copies: dict[str, nn.Module] = {}
    if package is None:
        randomise(net, settings.seed)
    else:
        assert isinstance(net, OFAMobileNetV3 | OFAResNet50)
        net.load_ofa_state_dict(package.state_dict())
        own: dict[Subnet, SubnetStatistics] = {}
        for label, subnet in subnets.items():
            copies[label], own[subnet] = _theirs_of(package, net, subnet, settings)
        net.statistics.shared = None  # a net that is loaded forgets all other statistics
        for subnet, statistics in own.items():
            net.statistics[subnet] = statistics
    noise = _noise(settings)
    calibrate(net, [s for s in (*subnets.values(), *extra) if s not in net.statistics], [noise])
    return Subject(name, net, subnets, extra, copies, reason)


@torch.no_grad()
def randomise(net: nn.Module, seed: int) -> None:
    """Unit gain, and no two channels, norms or kernel matrices alike; numbers of bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in net.named_parameters():
        if tensor.dim() == 4:
            nn.init.kaiming_normal_(tensor, nonlinearity="relu", generator=generator)
        elif "transforms" in name or "_matrix" in name:
            noise = torch.empty_like(tensor).normal_(0.0, 0.1, generator=generator)
            tensor.copy_(torch.eye(len(tensor)) + noise)
        elif tensor.dim() == 1 and name.endswith("weight"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.dim() == 1:
            tensor.normal_(0.0, 0.2, generator=generator)
        tensor.copy_(tensor.bfloat16().float())


def _published(name: str, **options: Any) -> Supernet:
    return create_supernet(name, pretrained=False, **options)


def _subnets(net: Supernet, settings: Settings) -> tuple[dict[str, Subnet], tuple[Subnet, ...]]:
    middle = {d.name: d.options[len(d.options) // 2] for d in net.space.dimensions}
    named = {
        "min": net.space.smallest,
        "mid": net.space.subnet(**middle),
        "max": net.space.largest,
    }
    rng, extra = random.Random(settings.seed), dict[Subnet, None]()
    while len(extra) < settings.extra:
        found = net.space.sample(rng)
        if found not in named.values():
            extra[found] = None
    return named, tuple(extra)


def _noise(settings: Settings) -> Tensor:
    """Of smaller images than are measured: the statistics need not be those of the same size."""
    side = min(settings.side, 128)
    return torch.randn(NOISE, 3, side, side, generator=torch.Generator().manual_seed(settings.seed))


def _package(name: str, seed: int) -> tuple[Any, str]:
    """The `ofa` package's dynamic net, randomised; None and the reason where there is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from ofa.imagenet_classification.elastic_nn import networks
    except ImportError as error:
        return None, f"the ofa package is not installed ({error})"
    if name.startswith("mobilenetv3"):
        net = networks.OFAMobileNetV3(
            n_classes=1000,
            dropout_rate=0,
            width_mult=float(name.rsplit("w", 1)[1]),
            ks_list=[3, 5, 7],
            expand_ratio_list=[3, 4, 6],
            depth_list=[2, 3, 4],
        )
    elif name == "resnet50":
        net = networks.OFAResNets(
            n_classes=1000,
            dropout_rate=0,
            depth_list=[0, 1, 2],
            expand_ratio_list=[0.2, 0.25, 0.35],
            width_mult_list=[0.65, 0.8, 1.0],
        )
    else:
        return None, f"the ofa package has no {name}"
    randomise(net, seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics become those of the last batch
    return net.eval(), ""


@torch.no_grad()
def _theirs_of(
    package: Any, net: Any, subnet: Subnet, settings: Settings
) -> tuple[nn.Module, SubnetStatistics]:
    """A copy with the subnet active and its statistics, and those as ours are to have them."""
    package.set_active_subnet(**subnet.config())
    package.train()
    package(_noise(settings))
    package.eval()
    net.load_ofa_state_dict(package.state_dict())
    shared = net.statistics.shared
    statistics = {
        layer: LayerStatistics(
            shared[layer].mean[:channels].clone(), shared[layer].var[:channels].clone()
        )
        for layer, channels in active_channels(net, subnet).items()
    }
    return copy.deepcopy(package), statistics
