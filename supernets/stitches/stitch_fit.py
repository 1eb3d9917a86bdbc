"""Least squares initialisation of stitches, from features of the anchors on unlabelled images."""

from collections.abc import Iterable

import torch
from torch import Tensor

from supernets.norms.statistics import Recorded
from supernets.stitched_resnet import Stitch, StitchedResNet
from supernets.stitches.stitching import Position

RIDGE = 1e-4  # of the mean diagonal of the normal equations


class LeastSquares:
    """Normal equations of y ≈ W x + b in float64, gathered batch by batch.

    SN-Net takes the pseudo-inverse of all features at once; these are the same equations, whose
    size does not grow with the number of images.
    """

    def __init__(self) -> None:
        self._count = 0
        self._sums: tuple[Tensor, ...] = ()

    def add(self, x: Tensor, y: Tensor) -> None:
        """Features [N, C, H, W] and what to make of them [N, D, H, W]: every pixel is a row."""
        rows, targets = (t.movedim(1, -1).flatten(0, -2).double() for t in (x, y))
        new: tuple[Tensor, ...] = (rows.sum(0), targets.sum(0), rows.T @ rows, rows.T @ targets)
        self._count += len(rows)
        if self._sums:
            new = tuple(a + b for a, b in zip(self._sums, new, strict=True))
        self._sums = new

    def solve(self, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
        """Weight [D, C] and bias [D], float64; the ridge shrinks the weight, not the bias."""
        if not self._count:
            raise ValueError("least squares needs at least one batch of features")
        x_sum, y_sum, squares, products = self._sums
        x_mean, y_mean = x_sum / self._count, y_sum / self._count
        # Centred, so that the bias follows from the means and takes no part in the ridge.
        squares = squares - self._count * torch.outer(x_mean, x_mean)
        products = products - self._count * torch.outer(x_mean, y_mean)
        # Where all features are constant the equations are zero; any ridge then gives W = 0.
        shift = (ridge * squares.diagonal().mean()).clamp(min=1e-12)
        weight = torch.linalg.solve(squares + shift * torch.eye(len(squares)).to(squares), products)
        return weight.T, y_mean - weight.T @ x_mean


@torch.no_grad()
def initialise_stitches(
    net: StitchedResNet, batches: Iterable[Tensor], ridge: float = RIDGE
) -> None:
    """Fit every stitch: what its front block puts out -> what its back block is used to get.

    ``batches`` are preprocessed training images [N, C, H, W], 100 or more in all (SN-Net takes
    100). The anchors run with their own statistics; `MissingStatistics` where one has none. A layer
    that several positions share gets the mean of their solutions, as in SN-Net. Statistics of
    stitches that were calibrated before are dropped: they belong to other weights.
    """
    fits: dict[Position, LeastSquares] = {at: LeastSquares() for at in net.space.positions}
    anchors = [net.space.anchor(index) for index in range(len(net.anchors))]
    for images in batches:
        x = images.contiguous(memory_format=torch.channels_last)
        features = [
            dict(net.anchor(index).features(x, Recorded(net.statistics[subnet])))
            for index, subnet in enumerate(anchors)
        ]
        for at, fit in fits.items():
            source = features[at.front][at.stage, at.front_block]
            fit.add(source, features[at.back][at.stage, at.back_block - 1])
    solutions: dict[Stitch, list[tuple[Tensor, Tensor]]] = {}
    for at, fit in fits.items():
        solutions.setdefault(net.stitch(at), []).append(fit.solve(ridge))
    for stitch, found in solutions.items():
        weight = torch.stack([w for w, _ in found]).mean(0)
        stitch.transform.weight.copy_(weight[:, :, None, None])
        if stitch.transform.bias is not None:
            stitch.transform.bias.copy_(torch.stack([b for _, b in found]).mean(0))
    for subnet in net.space.stitches:
        if subnet in net.statistics:
            del net.statistics[subnet]
