"""Ordinary residual networks that the tests make elastic: of libraries, and one's own."""

import random

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from supernets.making_elastic import make_elastic

SIZE = 48  # pixels; the laws do not depend on it, the time does
MODELS = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=20),
    "resnet50": lambda: torchvision.models.resnet50(num_classes=20),
    "wide_resnet14_2": lambda: ResNet(Bottleneck, [1, 2, 1, 1], 20, width_per_group=128),
    "resnext50_32x4d": lambda: torchvision.models.resnext50_32x4d(num_classes=20),
    # Deep stem, average pooling in the shortcuts, and channel gates at the end of each block.
    "timm-seresnet26d": lambda: timm.create_model(
        "resnet26d", num_classes=20, block_args={"attn_layer": "se"}
    ),
}


@torch.no_grad()
def randomised(model, seed=0, channels=3):
    """Every channel different from every other; it tells images apart, and is left as it was."""
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
    for norm in norms:
        norm.weight.uniform_(0.5, 1.5, generator=generator)
        norm.bias.normal_(0.0, 0.2, generator=generator)
        norm.momentum = 1.0  # the statistics of one batch, so that no layer drowns its input
    model.train()(pictures(6, 32, seed, channels))
    for norm in norms:
        norm.running_mean += 0.1 * torch.randn(norm.num_features, generator=generator)
    return model.eval()


def pictures(count, size=SIZE, seed=0, channels=3):
    """Noise, each image and colour of another brightness: pure noise looks alike once pooled."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, channels, size, size, generator=generator)
    return noise + torch.randn(count, channels, 1, 1, generator=generator)


def some_subnets(net, count, seed=0):
    rng = random.Random(seed)
    return [net.space.smallest, net.space.largest, *(net.space.sample(rng) for _ in range(count))]


class OwnBlock(nn.Module):
    """As people write it: functional activations, an empty shortcut, nested sequences."""

    def __init__(self, before, channels, stride):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(before, 12, 1, bias=True),
            nn.BatchNorm2d(12),
            nn.SiLU(),
            nn.Conv2d(12, 12, 3, stride, 1, groups=12),
            nn.BatchNorm2d(12),
        )
        self.last = nn.Conv2d(12, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels, eps=1e-3)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(before, channels, 1, stride))
        self.scale = nn.Parameter(torch.full((1, channels, 1, 1), 0.7))

    def forward(self, x):
        y = self.norm(self.last(F.hardtanh(self.branch(x))))
        return F.relu(self.scale * y + self.shortcut(x))


class OwnNet(nn.Module):
    def __init__(self, num_classes=6):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.low = nn.Sequential(OwnBlock(16, 16, 1), OwnBlock(16, 16, 1), OwnBlock(16, 16, 1))
        self.high = nn.Sequential(OwnBlock(16, 24, 2), OwnBlock(24, 24, 1))
        self.head = nn.Linear(24, num_classes)

    def forward(self, x):
        x = self.high(self.low(self.stem(x)))
        return self.head(F.avg_pool2d(x, x.shape[-1]).view(x.size(0), -1))


def own_net(**options):
    torch.manual_seed(0)
    model = randomised(OwnNet(), channels=1).double()
    return model, make_elastic(model, image_size=12, divisor=2, **options)
