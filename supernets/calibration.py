"""SubnetNorm statistics by forward passes over training data."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from supernets.space import Subnet
from supernets.statistics import Collector
from supernets.supernet import Supernet


@torch.no_grad()
def calibrate(
    net: Supernet,
    subnets: Sequence[Subnet],
    batches: Iterable[Tensor],
    progress: Callable[[Subnet], None] | None = None,
) -> None:
    """Give each subnet its own mean and variance; those of other subnets stay as they are.

    ``batches`` of preprocessed training images [N, C, H, W], about 1000 to 2000 in all (OFA and
    SuperServe use 2000). They are read once and kept in memory. ``ValueError`` if there are none.
    """
    if not net.norms():
        return  # without batch normalisation there is nothing to calibrate
    kept = list(batches)
    if not kept:
        raise ValueError("calibration needs at least one batch of training images")
    for subnet in subnets:
        collector = Collector()
        for batch in kept:
            net.run(batch, subnet, collector)
        net.statistics[subnet] = collector.statistics()
        if progress is not None:
            progress(subnet)
