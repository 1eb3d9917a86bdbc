"""Accuracy of Once-for-All subnets predicted by the networks that its authors publish.

They spare measuring, and their numbers are predictions: of accuracy on 10,000 images that were held
out of ImageNet's training set. For the published networks of width 1.2 they lie 3.5 points above
the accuracy on its validation set. Nothing corrects them for width 1.0, whose network is published
too and which the same predictor takes. Use them to rank, and label what comes of them
``predicted``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from supernets.foreign import check_state, read_foreign
from supernets.space import SearchSpace, Setting, Subnet

_HIDDEN = 400

# name -> how many values a subnet has, and which there are, in the order of the features
_MOBILENETV3: Mapping[str, tuple[int, Setting]] = {
    "d": (5, (2, 3, 4)),
    "ks": (20, (3, 5, 7)),
    "e": (20, (3, 4, 6)),
}
_RESNET50: Mapping[str, tuple[int, Setting]] = {
    "d": (5, (0, 1, 2)),
    "e": (18, (0.2, 0.25, 0.35)),
    "w": (6, (0, 1, 2)),
}


class UnsuitedPredictor(ValueError):
    """The predictor knows nothing of this space or resolution."""


class AccuracyPredictor(ABC):
    """Three hidden layers of 400 over one-hot features of a subnet and its input resolution."""

    resolutions: tuple[int, ...]  # that it was trained on, ascending
    features: int
    note: str = ""  # what must be said of its numbers wherever they are written down

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor | None]], base: float = 0.0) -> None:
        self._layers = [
            (weight.float(), None if bias is None else bias.float()) for weight, bias in layers
        ]
        self._base = base

    @abstractmethod
    def encode(self, subnet: Subnet, resolution: int) -> Tensor:
        """The features, float32 [features]; ``UnsuitedPredictor`` for an untrained resolution."""

    def __call__(self, subnets: Sequence[Subnet], resolution: int) -> list[float]:
        """Top-1 accuracy of each, percent, for square images of this side in pixels.

        Raises `UnsuitedPredictor` for a resolution that the predictor was not trained on.
        """
        x = torch.stack([self.encode(subnet, resolution) for subnet in subnets])
        for weight, bias in self._layers[:-1]:
            x = F.relu(F.linear(x, weight, bias))
        weight, bias = self._layers[-1]
        x = F.linear(x, weight, bias).squeeze(1) + self._base
        return [100.0 * value for value in x.clamp(0.0, 1.0).tolist()]

    def _check_resolution(self, resolution: int) -> None:
        if resolution not in self.resolutions:
            raise UnsuitedPredictor(
                f"this accuracy predictor was trained for the resolutions "
                f"{', '.join(map(str, self.resolutions))}, not for {resolution}: "
                "what it says there means nothing"
            )


class MobileNetV3Predictor(AccuracyPredictor):
    """`acc_predictor.pth` of Once-for-All, made for its MobileNetV3 of width 1.2.

    128 features: per block one-hot kernel (60), per block one-hot expand ratio (60), of blocks that
    do not run zeros; one-hot resolution 112, 128... 224 (8), of which 112 to 144 never occurred in
    its training (they are predicted to be *better* than 160).
    """

    resolutions = (160, 176, 192, 208, 224)
    features = 128
    note = "predicted for the network of width 1.2, and not corrected for any other width"

    def encode(self, subnet: Subnet, resolution: int) -> Tensor:
        self._check_resolution(resolution)
        kernels: list[float] = []
        expands: list[float] = []
        for block in range(20):
            runs = block % 4 < subnet["d"][block // 4]
            kernels += _one_hot(_MOBILENETV3["ks"], subnet["ks"][block] if runs else None)
            expands += _one_hot(_MOBILENETV3["e"], subnet["e"][block] if runs else None)
        sizes = [float(resolution == size) for size in range(112, 225, 16)]
        return torch.tensor(kernels + expands + sizes)


class ResNet50Predictor(AccuracyPredictor):
    """`ofa_resnet50_acc_predictor.pth` of Once-for-All, for its elastic ResNet50-D.

    82 features: one-hot resolution (8), stem without and with its residual layer (2), one-hot
    widths (6 x 3), per block one-hot expand ratio (18 x 3), of blocks that do not run zeros. It
    saturates: many large subnets are predicted alike, so rank those by their cost.
    """

    resolutions = (128, 144, 160, 176, 192, 224, 240, 256)
    features = 82
    _base_depths = (2, 2, 4, 2)
    _extra = 2  # blocks that a stage may have on top of its base depth

    def encode(self, subnet: Subnet, resolution: int) -> Tensor:
        self._check_resolution(resolution)
        values = [float(resolution == size) for size in self.resolutions]
        stem, *depths = subnet["d"]
        values += [float(stem == 0), float(stem > 0)]
        for width in subnet["w"]:
            values += _one_hot(_RESNET50["w"], width)
        block = 0
        for base, extra in zip(self._base_depths, depths, strict=True):
            for index in range(base + self._extra):
                runs = index < base + extra
                values += _one_hot(_RESNET50["e"], subnet["e"][block] if runs else None)
                block += 1
        return torch.tensor(values)


def load_predictor(path: Path, space: SearchSpace) -> AccuracyPredictor:
    """The predictor in a published file, for the subnets of ``space``.

    Raises `CheckpointError` for a file that is neither of the two, and `UnsuitedPredictor` where
    the predictor was made for another search space.
    """
    state = read_foreign(path)
    if "base_acc" in state:
        names = [f"layers.{i}.0" for i in range(3)]
        _check(state, path, [*names, "layers.3"], ResNet50Predictor.features, last_bias=False)
        _check_space(space, _RESNET50, "the Once-for-All ResNet50")
        layers = [(state[f"{n}.weight"], state[f"{n}.bias"]) for n in names]
        base = float(state["base_acc"].item())
        return ResNet50Predictor([*layers, (state["layers.3.weight"], None)], base)
    names = ["0", "2", "4", "6"]
    _check(state, path, names, MobileNetV3Predictor.features, last_bias=True)
    _check_space(space, _MOBILENETV3, "the Once-for-All MobileNetV3")
    return MobileNetV3Predictor([(state[f"{n}.weight"], state[f"{n}.bias"]) for n in names])


def _one_hot(setting: tuple[int, Setting], value: float | None) -> list[float]:
    """One at the option equal to ``value``, zeros for none; ratios went through JSON."""
    _, options = setting
    return [float(value is not None and abs(option - value) < 1e-6) for option in options]


def _check(
    state: Mapping[str, Tensor], path: Path, names: Sequence[str], features: int, *, last_bias: bool
) -> None:
    expected: dict[str, tuple[int, ...]] = {}
    for index, name in enumerate(names):
        last = index == len(names) - 1
        out = 1 if last else _HIDDEN
        expected[f"{name}.weight"] = (out, _HIDDEN if index else features)
        if last_bias or not last:
            expected[f"{name}.bias"] = (out,)
    if not last_bias:
        expected["base_acc"] = (1,)
    check_state(state, expected, f"{path} is no accuracy predictor of Once-for-All")


def _check_space(space: SearchSpace, needed: Mapping[str, tuple[int, Setting]], whose: str) -> None:
    found = {d.name: (d.length, d.options) for d in space.dimensions}
    fits = found.keys() == needed.keys() and all(
        found[name][0] == length and set(found[name][1]) <= set(options)
        for name, (length, options) in needed.items()
    )
    if not fits:
        raise UnsuitedPredictor(
            f"this accuracy predictor is for {whose}, whose settings are "
            f"{', '.join(f'{n} ({k} values)' for n, (k, _) in needed.items())}; "
            f"{space.family} is another search space"
        )
