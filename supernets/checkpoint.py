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
from supernets.fingerprint import FORMAT, STATISTICS_PREFIX, read_metadata
from supernets.foreign import check_state, read_foreign
from supernets.space import Subnet
from supernets.statistics import LayerStatistics, SubnetStatistics
from supernets.supernet import Preprocessing, Supernet

OWN_SUFFIX = ".safetensors"  # everything else is foreign: the published OFA files end in "w1.0"


def save(net: Supernet, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write weights, architecture, labels, preprocessing and statistics to one safetensors file.

    ``dtype`` is what weights and statistics are rounded to in the file. Shared statistics of a
    foreign checkpoint are kept too, and stay marked as such.
    """
    path = Path(path)
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in net.state_dict().items()}
    subnets = []
    for subnet in net.statistics:
        tensors[f"{STATISTICS_PREFIX}{subnet.id}"] = _pack(net.statistics[subnet]).to(dtype)
        subnets.append(subnet.to_json())
    if net.statistics.shared is not None:
        tensors[f"{STATISTICS_PREFIX}shared"] = _pack(net.statistics.shared).to(dtype)
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


def read_definition(path: Path, name: str) -> dict[str, Any]:
    """The arguments that build the architecture; nothing for a foreign file.

    Raises `CheckpointError` when the file is of another supernet.
    """
    if path.suffix != OWN_SUFFIX:
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
    if path.suffix != OWN_SUFFIX:
        net.load_foreign(read_foreign(path))
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
    return _unpack(packed, layout)


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
            found[subnet] = _unpack(tensor, layout)
    if problems:
        raise CheckpointError(f"{path} has wrong statistics", problems)
    return found


def active_channels(net: Supernet, subnet: Subnet) -> dict[int, int]:
    """Layer id -> channels that this subnet normalises there, in execution order."""
    channels: dict[int, int] = {}

    def record(x: Tensor, layer: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:  # noqa: ARG001
        channels[layer] = len(weight)
        return x

    # Shapes alone are wanted, so the pass runs on the meta device: no arithmetic, no weights read.
    shape = net.preprocessing
    state = {k: v.to("meta") for k, v in net.state_dict().items()}
    image = torch.zeros(1, shape.channels, shape.height, shape.width, device="meta")
    torch.func.functional_call(_Runner(net), _prefixed(state), (image, subnet, record))
    return channels


class _Runner(torch.nn.Module):
    """`Supernet.run` as a forward, which is what ``functional_call`` can call."""

    def __init__(self, net: Supernet) -> None:
        super().__init__()
        self.net = net

    def forward(self, *args: Any) -> Tensor:
        return self.net.run(*args)


def _prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"net.{name}": tensor for name, tensor in state.items()}


def _pack(statistics: SubnetStatistics) -> Tensor:
    """[2, total]: the means of all layers side by side, then the variances."""
    if not statistics:
        return torch.zeros(2, 0)
    means = torch.cat([entry.mean for entry in statistics.values()])
    return torch.stack([means, torch.cat([entry.var for entry in statistics.values()])])


def _unpack(packed: Tensor, layout: dict[int, int]) -> dict[int, LayerStatistics]:
    parts = packed.float().split(list(layout.values()), dim=1)
    return {
        layer: LayerStatistics(part[0].clone(), part[1].clone())
        for layer, part in zip(layout, parts, strict=True)
    }
