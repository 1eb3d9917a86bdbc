"""Supernets on disk: safetensors with the architecture, the labels and the statistics inside."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from supernets.errors import CheckpointError
from supernets.fingerprint import FORMAT, STATISTICS_PREFIX, is_own, read_metadata
from supernets.foreign import check_state, read_foreign
from supernets.norms.shared_statistics import TOLERANCE
from supernets.norms.statistics import LayerStatistics, SubnetStatistics
from supernets.space import Subnet
from supernets.supernet import Preprocessing, Supernet

_SMALL_IMAGE = 32  # pixels a side


def save(net: Supernet, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write weights, architecture, labels, preprocessing and statistics to one safetensors file.

    ``dtype`` is what weights are rounded to in the file, and statistics too where that is safe (see
    `_rounded`). Shared statistics of a foreign checkpoint are kept too, and stay marked as such.
    """
    path = Path(path)
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in net.state_dict().items()}
    subnets = []
    for subnet in net.statistics:
        tensors[f"{STATISTICS_PREFIX}{subnet.id}"] = _rounded(net, net.statistics[subnet], dtype)
        subnets.append(subnet.to_json())
    if net.statistics.shared is not None:
        tensors[f"{STATISTICS_PREFIX}shared"] = _rounded(net, net.statistics.shared, dtype)
    metadata = {
        "format": FORMAT,
        "name": net.name,
        "definition": json.dumps(net.definition()),
        "labels": json.dumps(net.labels),
        "preprocessing": json.dumps(net.preprocessing.to_json()),
        "subnets": json.dumps(subnets),
    }
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} is not finite in {dtype}: it cannot be saved so")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata)
    path.chmod(0o644)  # the library writes for the owner alone; weights are there to be shared


def refuse_to_lose(path: Path, calibrated: int) -> None:
    """Raise `CheckpointError` where writing ``path`` would drop statistics of subnets.

    Calibrating can take hours: a file with more than ``calibrated`` subnets is not replaced.
    """
    if path.exists() and is_own(path):
        there = len(json.loads(read_metadata(path).get("subnets", "[]")))
        if there > calibrated:
            raise CheckpointError(
                f"{path} exists, and {there} of its subnets are calibrated: choose another folder, "
                "or delete it first"
            )


def read_definition(path: Path, name: str) -> dict[str, Any]:
    """The arguments that build the architecture; nothing for a foreign file.

    Raises `CheckpointError` when the file is of another supernet.
    """
    if not is_own(path):
        return {}
    metadata = read_metadata(path)
    with _malformed(path):
        held, definition = metadata["name"], dict(json.loads(metadata["definition"]))
    if held != name:
        raise CheckpointError(
            f"{path} holds the supernet {held!r}, not {name!r}; "
            f"use create_supernet({held!r}, checkpoint=...)"
        )
    return definition


def load_into(net: Supernet, path: Path) -> None:
    """Load weights and statistics; every key and shape is checked before anything is changed.

    Raises `CheckpointError` listing the problems.
    """
    if not is_own(path):
        _load_foreign(net, path)
        return
    metadata = read_metadata(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error
    packed = {
        name.removeprefix(STATISTICS_PREFIX): tensors.pop(name)
        for name in list(tensors)
        if name.startswith(STATISTICS_PREFIX)
    }
    expected = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    check_state(tensors, expected, f"{path} does not fit this supernet")
    with _malformed(path):
        subnets = [net.space.from_json(entry) for entry in json.loads(metadata["subnets"])]
        labels = tuple(str(label) for label in json.loads(metadata["labels"]))
        preprocessing = Preprocessing.from_json(json.loads(metadata["preprocessing"]))
        if len(labels) != len(net.labels):
            raise ValueError(f"{len(labels)} labels for {len(net.labels)} classes")
        statistics = _statistics(net, subnets, packed, path)
        shared = _shared(net, packed.get("shared"))
    net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    for subnet, entry in statistics.items():
        net.statistics[subnet] = entry
    net.statistics.shared = shared
    net.labels, net.preprocessing = labels, preprocessing


def _load_foreign(net: Supernet, path: Path) -> None:
    """The family reads the file; where it cannot, the error also says what the file is not."""
    try:
        net.load_foreign(read_foreign(path))
    except CheckpointError as error:
        refused = CheckpointError(
            f"{path} is no SuperServe checkpoint (`superserve import` and supernets.save write "
            f"those), and {net.name} cannot take it as another project's: {error}"
        )
        refused.problems = error.problems
        raise refused from error


@contextmanager
def _malformed(path: Path) -> Iterator[None]:
    """What a damaged description raises becomes a `CheckpointError`."""
    try:
        yield
    except CheckpointError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} has a damaged description: {error!r}") from error


def _shared(net: Supernet, packed: Tensor | None) -> SubnetStatistics | None:
    if packed is None:
        return None
    layout = {layer: len(norm.weight) for layer, norm in net.norms().items()}
    if tuple(packed.shape) != (2, sum(layout.values())) or not packed.isfinite().all():
        raise ValueError("the shared statistics have the wrong shape or are not finite")
    return unpack(packed, layout)


def _statistics(
    net: Supernet, subnets: list[Subnet], packed: dict[str, Tensor], path: Path
) -> dict[Subnet, SubnetStatistics]:
    found: dict[Subnet, SubnetStatistics] = {}
    problems = []
    for subnet in subnets:
        layout = active_channels(net, subnet)
        tensor = packed.get(subnet.id)
        total = sum(layout.values())
        if tensor is None:
            problems.append(f"missing: statistics of subnet {subnet.id} ({subnet})")
        elif tuple(tensor.shape) != (2, total):
            problems.append(
                f"statistics of {subnet.id} have shape {tuple(tensor.shape)}, not {(2, total)}"
            )
        elif not tensor.isfinite().all() or (tensor[1] < 0).any():
            problems.append(f"statistics of subnet {subnet.id} are not finite variances")
        else:
            found[subnet] = unpack(tensor, layout)
    if problems:
        raise CheckpointError(f"{path} has wrong statistics", problems)
    return found


def active_channels(net: Supernet, subnet: Subnet) -> dict[int, int]:
    """Layer id -> channels that this subnet normalises there, in execution order."""
    channels: dict[int, int] = {}
    if not net.norms():
        return channels

    def record(x: Tensor, layer: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:  # noqa: ARG001
        channels[layer] = len(weight)
        return x

    # They do not depend on the image, and a pass over a small one takes milliseconds; on the meta
    # device, without any arithmetic, it would take a hundred.
    shape, weight = net.preprocessing, next(net.parameters())
    whole = (shape.height, shape.width)
    for height, width in (tuple(min(n, _SMALL_IMAGE) for n in whole), whole):
        try:
            with torch.inference_mode():
                net.run(weight.new_zeros(1, shape.channels, height, width), subnet, record)
            break
        except RuntimeError:  # too small for this net
            if (height, width) == whole:
                raise
    return channels


def _rounded(net: Supernet, statistics: SubnetStatistics, dtype: torch.dtype) -> Tensor:
    """As `pack`, in ``dtype`` unless that changes what the layers do: then in float32.

    In float16 a small variance vanishes, one above 65504 is infinite, and a mean far from zero
    loses what matters about it. All are measured in σ.
    """
    packed = pack(statistics)
    rounded = packed.to(dtype)
    if dtype.itemsize >= 4 or not statistics:
        return rounded
    norms = net.norms()
    eps = torch.cat([torch.full_like(s.var, norms[i].eps) for i, s in statistics.items()])
    (mean, var), (old_mean, old_var) = rounded.float(), packed
    shift = (mean - old_mean).abs() / torch.sqrt(old_var + eps)
    stretch = torch.log((var + eps) / (old_var + eps)).abs() / 2
    return rounded if (torch.maximum(shift, stretch) <= TOLERANCE).all() else packed.float()


def pack(statistics: SubnetStatistics) -> Tensor:
    """[2, total]: the means of all layers side by side, then the variances."""
    if not statistics:
        return torch.zeros(2, 0)
    means = torch.cat([entry.mean for entry in statistics.values()])
    return torch.stack([means, torch.cat([entry.var for entry in statistics.values()])])


def unpack(packed: Tensor, layout: dict[int, int]) -> dict[int, LayerStatistics]:
    parts = packed.float().split(list(layout.values()), dim=1)
    return {
        layer: LayerStatistics(part[0].clone(), part[1].clone())
        for layer, part in zip(layout, parts, strict=True)
    }
