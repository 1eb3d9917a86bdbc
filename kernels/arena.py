"""One contiguous buffer in which all of a supernet's tensors lie."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes: a cache line, and four times what 128-bit loads need


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one tensor lies: byte offset and full shape, row-major."""

    offset: int
    shape: tuple[int, ...]


class Arena:
    """A buffer laid out once, in the order in which the tensors are given.

    Give them in execution order, and what every subnet reads first: neighbours in time are then
    neighbours in memory, and one L2 window or one prefetch covers a whole layer.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Copy ``tensors`` in, converted to ``dtype``; the originals are not kept."""
        self.dtype, self.device = dtype, torch.device(device)
        self.slots: dict[str, Slot] = {}
        offset = 0
        for name, tensor in tensors.items():
            self.slots[name] = Slot(offset, tuple(tensor.shape))
            size = tensor.numel() * dtype.itemsize
            offset += -(-size // ALIGNMENT) * ALIGNMENT
        # PyTorch's CPU and CUDA allocators return at least 64-byte aligned memory.
        self.buffer = torch.zeros(max(offset, ALIGNMENT), dtype=torch.uint8, device=self.device)
        self._typed = self.buffer.view(dtype)
        for name, tensor in tensors.items():
            self[name].copy_(tensor.detach())

    def __getitem__(self, name: str) -> Tensor:
        """The whole tensor, a view; narrow it with ordinary slicing."""
        slot = self.slots[name]
        start = slot.offset // self.dtype.itemsize
        return self._typed[start : start + prod(slot.shape)].view(slot.shape)

    def __contains__(self, name: str) -> bool:
        return name in self.slots

    def __repr__(self) -> str:
        return (
            f"<Arena {len(self.slots)} tensors, {self.nbytes} bytes, {self.dtype}, {self.device}>"
        )

    @property
    def nbytes(self) -> int:
        return self.buffer.nbytes

    def holds(self, tensors: Iterable[Tensor]) -> bool:
        """Whether every element of each tensor lies inside this buffer's memory."""
        first = self.buffer.data_ptr()
        for tensor in tensors:
            if tensor.numel() == 0:
                continue
            reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
            start = tensor.data_ptr()
            end = start + (reach + 1) * tensor.element_size()
            same = tensor.untyped_storage().data_ptr() == self.buffer.untyped_storage().data_ptr()
            if not same or start < first or end > first + self.nbytes:
                return False
        return True
