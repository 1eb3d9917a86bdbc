"""The embedded supernet: a small OFA MobileNetV3 for 32x32 grey images of digits."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from supernets.ofa_mobilenetv3 import MobileNetV3Definition, OFAMobileNetV3
from supernets.registry import register_supernet
from supernets.supernet import Preprocessing

WEIGHTS = Path(__file__).parent / "assets" / "digits" / "digits.safetensors"

DEFINITION = MobileNetV3Definition(
    num_classes=10,
    in_channels=1,
    image_size=32,
    stem_width=8,
    stem_stride=2,
    first_width=8,
    stage_widths=(12, 16, 40),
    strides=(1, 2, 1),
    activations=("relu", "h_swish", "h_swish"),
    squeezes=(False, True, False),
    final_width=96,
    feature_width=96,
    kernels=(3, 5, 7),
    expands=(1, 2, 4, 8),
    depths=(1, 2, 3, 4, 6, 8, 12),
)
PREPROCESSING = Preprocessing(32, 32, 1, mean=(0.25,), std=(0.3,), ink_on_dark=True)


@register_supernet(weights=WEIGHTS)
def digits(*, num_classes: int = 10, **definition: Any) -> OFAMobileNetV3:
    """Handwritten digits; ``definition`` overrides fields of `MobileNetV3Definition`."""
    spec = {**asdict(DEFINITION), **definition, "num_classes": num_classes}
    return OFAMobileNetV3(
        MobileNetV3Definition.from_json(spec), name="digits", preprocessing=PREPROCESSING
    )
