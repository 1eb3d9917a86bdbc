"""Separate models in files, and the few of them that are in memory. Imports torch.

Loading is as quick as can be, in favour of servers that switch so. The structure of every module is
kept, without values, so that neither code nor pickles are read; a file is read at once into one
piece of memory, in the layout in which its values run, and the values are views of that. What is
left is to copy the bytes from the page cache, or from the disk where it does not have them.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from supernets.space import Subnet

_LENGTH_BYTES = 8  # of a safetensors file begin it, and hold the length of the header behind them


class ModelFileError(RuntimeError):
    """The file of a model cannot be read or written, or is not what was written there."""


@dataclass(frozen=True, slots=True)
class _Value:
    """A parameter or a buffer, and where it begins in the file (bytes)."""

    owner: nn.Module
    name: str
    empty: Tensor  # stands in its place while the model is not loaded
    strides: tuple[int, ...]
    start: int


@dataclass(frozen=True, slots=True)
class _Model:
    module: nn.Module
    values: tuple[_Value, ...]
    header: bytes  # of its file: the names, types, shapes and places of all values
    file_bytes: int


class ModelFiles:
    """Plain modules by subnet: their values in a file each, their structure here, without values.

    The files are safetensors, with the weights of convolutions as [O, H, W, I]. Several processes
    may share a folder: a file that is there is complete, and is not written again.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder = folder
        self._device = device
        self._models: dict[Subnet, _Model] = {}

    def __repr__(self) -> str:
        return f"<ModelFiles {len(self._models)} in {self._folder}>"

    def path(self, subnet: Subnet) -> Path:
        return self._folder / f"{subnet.id}.safetensors"

    def nbytes(self, subnet: Subnet) -> tuple[int, int]:
        """In memory: of the parameters, and of the other values, which are norms' statistics."""
        values = [value.empty for value in self._models[subnet].values]
        parameters = sum(value.nbytes for value in values if isinstance(value, nn.Parameter))
        return parameters, sum(value.nbytes for value in values) - parameters

    def add(self, subnet: Subnet, module: nn.Module) -> None:
        """Write the values, unless they are there, and keep none of them in memory.

        The module is taken over. Raises `ModelFileError` where there can be no file.
        """
        content = _content(module)
        if not self.path(subnet).exists():
            self._write(subnet, content)
        data = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
        entries = json.loads(content[_LENGTH_BYTES:data])
        strides = {key: _running(_stored(value)).stride() for key, _, _, value in _values(module)}
        values = tuple(
            _Value(owner, name, empty, strides[key], data + entries[key]["data_offsets"][0])
            for key, owner, name, empty in _values(module.to("meta"))
        )
        self._models[subnet] = _Model(module, values, content[:data], len(content))

    def write(self, subnet: Subnet, module: nn.Module) -> None:
        """Write the values in place of the file that is there. Raises `ModelFileError`."""
        self._write(subnet, _content(module))

    def load(self, subnet: Subnet) -> nn.Module:
        """The module with its values, on the device and in the layout channels last.

        Raises `ModelFileError` naming the file.
        """
        model, path = self._models[subnet], self.path(subnet)
        try:
            content = np.fromfile(path, np.uint8)
        except OSError as error:
            raise ModelFileError(f"cannot read the model {path}: {error.strerror}") from error
        head = content[: len(model.header)].tobytes()
        if len(content) != model.file_bytes or head != model.header:
            raise ModelFileError(f"{path} is not the model that was written there")
        placed = torch.from_numpy(content).to(self._device)
        for value in model.values:
            empty = value.empty
            size = empty.element_size()
            typed = placed[: len(placed) // size * size].view(empty.dtype)
            there = typed.as_strided(empty.shape, value.strides, value.start // size)
            if isinstance(empty, nn.Parameter):
                there = nn.Parameter(there, requires_grad=False)
            setattr(value.owner, value.name, there)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return model.module

    def drop(self, subnet: Subnet) -> None:
        """Free the values that `load` brought."""
        for value in self._models[subnet].values:
            setattr(value.owner, value.name, value.empty)

    def _write(self, subnet: Subnet, content: bytes) -> None:
        path = self.path(subnet)
        partial = path.with_suffix(f".{os.getpid()}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            partial.replace(path)
        except OSError as error:
            raise ModelFileError(f"cannot write the model {path}: {error.strerror}") from error


class HeldModels:
    """At most ``limit`` models in memory; for another, the least recently used is dropped."""

    kernels = "extracted, torch"

    def __init__(self, files: ModelFiles, limit: int) -> None:
        self._files = files
        self._limit = max(1, limit)
        self._held: OrderedDict[Subnet, nn.Module] = OrderedDict()

    def __repr__(self) -> str:
        return f"<HeldModels {len(self._held)} of at most {self._limit}>"

    def __call__(self, x: Tensor, subnet: Subnet) -> Tensor:
        """Logits [N, classes] of ``x`` [N, C, H, W]; ``KeyError`` for one that is not `held`."""
        logits: Tensor = self._held[subnet](x)
        return logits

    @property
    def held(self) -> tuple[Subnet, ...]:
        """Those in memory, the most recently used last."""
        return tuple(self._held)

    def use(self, subnet: Subnet) -> bool:
        """Hold this one; whether it had to be loaded. Raises `ModelFileError`."""
        if subnet in self._held:
            self._held.move_to_end(subnet)
            return False
        while len(self._held) >= self._limit:  # first, because there is no room for one more
            self._drop_oldest()
        self._held[subnet] = self._files.load(subnet)
        return True

    def clear(self) -> None:
        """Hold none."""
        while self._held:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        subnet, _ = self._held.popitem(last=False)
        self._files.drop(subnet)


def _values(module: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Each value: its name in the file, the module that has it, its name there, and itself."""
    for prefix, owner in module.named_modules():
        own = [*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False)]
        for name, value in own:
            yield f"{prefix}.{name}" if prefix else name, owner, name, value


def _content(module: nn.Module) -> bytes:
    return save({key: _stored(value.detach()) for key, _, _, value in _values(module)})


def _stored(value: Tensor) -> Tensor:
    """As it lies in the file: the weight of a convolution as [O, H, W, I]."""
    return (value.permute(0, 2, 3, 1) if value.dim() == 4 else value).contiguous()


def _running(stored: Tensor) -> Tensor:
    """A view of what lies in the file, in the shape that the module knows."""
    return stored.permute(0, 3, 1, 2) if stored.dim() == 4 else stored
