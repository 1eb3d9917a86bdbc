"""Which network of the `ofa` package a state dict is of, told from its names and shapes.

The widths of both families are base widths times one multiplier, rounded to multiples of eight; the
multiplier that explains most of a file is what the file is of, even where something is missing.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from supernets.elastic import make_divisible

MOBILENETV3 = "ofa_mobilenetv3"
RESNET50 = "ofa_resnet50"

_WEIGHT = r"\.(?:conv\.)+weight"  # one level in the static networks, two in the dynamic ones
_CLASSIFIER = re.compile(r"classifier\.(?:linear\.)+weight")
# Where a convolution's output is a base width times the multiplier; in MobileNetV3 only where that
# holds for static networks too, which number their blocks by what runs.
_WIDTHS: dict[str, list[tuple[str, int]]] = {
    MOBILENETV3: [
        (rf"first_conv{_WEIGHT}", 16),
        (rf"blocks\.0\.\w+\.point_linear{_WEIGHT}", 16),
        (rf"blocks\.1\.\w+\.point_linear{_WEIGHT}", 24),
        (rf"final_expand_layer{_WEIGHT}", 960),
        (rf"feature_mix_layer{_WEIGHT}", 1280),
    ],
    RESNET50: [
        (rf"input_stem\.2{_WEIGHT}", 64),
        (rf"blocks\.0\.conv3{_WEIGHT}", 256),
        (rf"blocks\.4\.conv3{_WEIGHT}", 512),
        (rf"blocks\.8\.conv3{_WEIGHT}", 1024),
        (rf"blocks\.14\.conv3{_WEIGHT}", 2048),
    ],
}
# The published ones first: of two that round alike the first is meant.
_MULTIPLIERS = (1.0, 1.2, *(step / 20 for step in range(2, 61) if step not in {20, 24}))


@dataclass(frozen=True, slots=True)
class Recognised:
    """``width_mult`` is that of the widest subnet, and None where no multiplier fits."""

    family: str
    width_mult: float | None
    num_classes: int | None

    def __str__(self) -> str:
        width = "of unusual width" if self.width_mult is None else f"of width {self.width_mult:g}"
        classes = "" if self.num_classes is None else f" with {self.num_classes} classes"
        return f"{self.family} {width}{classes}"


def recognise(shapes: Mapping[str, Sequence[int]]) -> Recognised | None:
    """The network by its shapes; None where no name is of either family."""
    found = {
        family: [
            (base, shape[0])
            for pattern, base in rules
            for name, shape in shapes.items()
            if re.fullmatch(pattern, name) and len(shape) == 4
        ]
        for family, rules in _WIDTHS.items()
    }
    family = max(found, key=lambda name: len(found[name]))
    if not found[family]:
        return None
    classes = [s[0] for name, s in shapes.items() if _CLASSIFIER.fullmatch(name) and s]
    return Recognised(family, _multiplier(found[family]), classes[0] if classes else None)


def _multiplier(widths: Sequence[tuple[int, int]]) -> float | None:
    """The multiplier that gives most of the widths, if it is more than half of them."""

    def explained(multiplier: float) -> int:
        return sum(make_divisible(base * multiplier) == width for base, width in widths)

    best = max(_MULTIPLIERS, key=explained)
    return best if 2 * explained(best) > len(widths) else None
