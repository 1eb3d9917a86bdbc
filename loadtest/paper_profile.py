"""The six CNN subnets of the SuperServe paper on its GPU, as far as they are known.

For simulations that want the paper's operating range; not for claims about a device.
"""

from policies.types import Profile

BATCH_SIZES = (1, 2, 4, 8, 16)
_ENDS = (  # accuracy in percent, milliseconds for a batch of 1 and of 16
    (73.82, 1.41, 7.35),
    (76.69, 1.83, 10.05),
    (77.64, 2.04, 11.45),
    (78.25, 2.45, 14.26),
    (79.44, 3.33, 20.62),
    (80.16, 4.64, 30.70),
)


def _row(one: float, sixteen: float) -> dict[int, float]:
    return {b: (one + (sixteen - one) * (b - 1) / 15) / 1e3 for b in BATCH_SIZES}


PAPER_PROFILE = Profile.from_table(
    (f"{accuracy:.2f}", accuracy, _row(one, sixteen)) for accuracy, one, sixteen in _ENDS
)
"""OFAResNet on an RTX 2080 Ti, after the heat map of SuperServe (NSDI'25), Fig. 6.

Accuracies are the paper's, but for 77.64, which is unverified. The heat map exists only as an
image: the row for batch 1 and the two end points for batch 16 (7.35 and 30.7 ms) are recalled from
it and unverified, the other entries for batch 16 are interpolated between those two on logarithmic
axes, and the batch sizes between 1 and 16 linearly in the batch.
"""
