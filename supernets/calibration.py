"""SubnetNorm statistics by forward passes over training data, in memory and in checkpoints."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from supernets.checkpoint import active_channels, pack, unpack
from supernets.errors import CheckpointError, DataError
from supernets.fingerprint import STATISTICS_PREFIX, read_metadata, weights_hash
from supernets.norms.statistics import Collector, SubnetStatistics
from supernets.space import Subnet
from supernets.supernet import Supernet

# How many subnets share one pass over the images. Decoding is paid once for all of them, and an
# interruption costs the work of this many.
AT_ONCE = 4

Batch = Tensor | tuple[Tensor, Tensor]


def groups(
    subnets: Sequence[Subnet], batches: Iterable[object], at_once: int
) -> Iterator[Sequence[Subnet]]:
    """Subnets that share a pass over ``batches``: a few, or all where there is but one pass."""
    size = max(1, len(subnets)) if isinstance(batches, Iterator) else at_once
    for start in range(0, len(subnets), size):
        yield subnets[start : start + size]


@torch.no_grad()
def calibrate(
    net: Supernet,
    subnets: Sequence[Subnet],
    batches: Iterable[Batch],
    progress: Callable[[Subnet], None] | None = None,
) -> None:
    """Give each subnet its own mean and variance; those of other subnets stay as they are.

    ``batches`` of preprocessed training images [N, C, H, W], alone or with labels, about 1000 to
    2000 in all (OFA and SuperServe use 2000). One batch is in memory at a time. What can be
    iterated again is read once per few subnets, and an iterator once for all, on the device of
    the net. ``ValueError`` if there are none.
    """
    for group in groups(subnets, batches, AT_ONCE):
        for subnet, found in _collected(net, group, batches).items():
            net.statistics[subnet] = found
            if progress is not None:
                progress(subnet)


@torch.no_grad()
def calibrate_checkpoint(
    checkpoint: str | Path,
    net: Supernet,
    subnets: Sequence[Subnet],
    batches: Iterable[Batch],
    data: str,
    *,
    again: bool = False,
    progress: Callable[[Subnet], None] | None = None,
) -> list[Subnet]:
    """Calibrate subnets of a saved supernet, ``net``, and write their statistics into its file.

    Those that the file has already are left alone, unless ``again``. Finished ones are kept in a
    file beside it, so that an interrupted run goes on where it was if it is started again with the
    same weights, data (which ``data`` identifies) and batches; the checkpoint itself changes once,
    at the end, as a whole. Weights keep their bytes. Returns the subnets whose statistics are new.
    """
    path = Path(checkpoint)
    wanted = [s for s in dict.fromkeys(subnets) if again or s not in net.statistics]
    if not net.norms() or not wanted:
        return []
    state = _State(path, f"{weights_hash(path)} {data}")
    done = state.read(net, wanted)
    for subnet in done:
        if progress is not None:
            progress(subnet)
    for group in groups([s for s in wanted if s not in done], batches, AT_ONCE):
        found = _collected(net, group, batches)
        done.update(found)
        state.write(done)
        for subnet in found:
            if progress is not None:
                progress(subnet)
    for subnet, statistics in done.items():
        net.statistics[subnet] = statistics
    write_statistics(path, done)
    state.remove()
    return list(done)


def write_statistics(path: Path, statistics: dict[Subnet, SubnetStatistics]) -> None:
    """Put subnets' statistics into a checkpoint, in float32; all else in it stays as it is.

    The file is replaced as a whole or not at all.
    """
    metadata = read_metadata(path)
    tensors = _load(path)
    listed = json.loads(metadata["subnets"])
    for subnet, entry in statistics.items():
        name = f"{STATISTICS_PREFIX}{subnet.id}"
        if name not in tensors:
            listed.append(subnet.to_json())
        packed = pack(entry).float().cpu()
        if not packed.isfinite().all():
            raise DataError(
                f"the statistics of subnet {subnet.id} ({subnet}) are not finite: the weights or "
                "the images are not what they should be; nothing was written"
            )
        tensors[name] = packed
    metadata["subnets"] = json.dumps(listed)
    _replace(path, tensors, metadata)


def _collected(
    net: Supernet, subnets: Sequence[Subnet], batches: Iterable[Batch]
) -> dict[Subnet, SubnetStatistics]:
    """One pass; the collectors do not see each other, so the grouping changes no result."""
    collectors = {subnet: Collector() for subnet in subnets}
    if not net.norms():
        return {}  # without batch normalisation there is nothing to calibrate
    device = next(net.parameters()).device
    empty = True
    for batch in batches:
        images = (batch if isinstance(batch, Tensor) else batch[0]).to(device)
        empty = False
        for subnet, collector in collectors.items():
            net.run(images, subnet, collector)
    if empty:
        raise ValueError("calibration needs at least one batch of training images")
    return {subnet: collector.statistics() for subnet, collector in collectors.items()}


class _State:
    """What an unfinished run has found, in a file beside the checkpoint."""

    def __init__(self, checkpoint: Path, run: str) -> None:
        self._path = checkpoint.with_name(f"{checkpoint.name}.calibrating")
        self._run = run

    def read(self, net: Supernet, wanted: Sequence[Subnet]) -> dict[Subnet, SubnetStatistics]:
        """Nothing where there is no file, or one of another run."""
        if not self._path.exists():
            return {}
        try:
            tensors, metadata = load_file(self._path), _metadata(self._path)
        except (SafetensorError, OSError):
            return {}
        if metadata.get("run") != self._run:
            return {}
        device = next(net.parameters()).device
        return {
            subnet: unpack(tensors[subnet.id].to(device), active_channels(net, subnet))
            for subnet in wanted
            if subnet.id in tensors
        }

    def write(self, done: dict[Subnet, SubnetStatistics]) -> None:
        tensors = {subnet.id: pack(entry).cpu() for subnet, entry in done.items()}
        _replace(self._path, tensors, {"run": self._run})

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as opened:
        return opened.metadata() or {}


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error


def _replace(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write beside the file, then put it in its place: a kill leaves the one before."""
    target = path.resolve()  # a link stays a link
    partial = target.with_name(f"{target.name}.partial")
    try:
        save_file(tensors, partial, metadata)
        if target.exists():
            shutil.copymode(target, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
