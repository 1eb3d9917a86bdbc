"""One contiguous buffer in which all of a supernet's tensors lie."""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

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
        *,
        hot: int | None = None,
        file: Path | None = None,
    ) -> None:
        """Copy ``tensors`` in, converted to ``dtype``; the originals are not kept.

        ``hot`` of them, all by default, are those in constant use. With ``file`` the processes of
        one host that give the same tensors share their pages: the first one writes it, all map it,
        and what one of them writes afterwards is its own. A file of other content is replaced, for
        those that come later. ``ValueError`` on another device than a CPU; ``OSError`` where it
        cannot be written.
        """
        self.dtype, self.device = dtype, torch.device(device)
        self.slots: dict[str, Slot] = {}
        offset = self.hot_bytes = 0
        for index, (name, tensor) in enumerate(tensors.items()):
            self.slots[name] = Slot(offset, tuple(tensor.shape))
            size = tensor.numel() * dtype.itemsize
            offset += -(-size // ALIGNMENT) * ALIGNMENT
            if hot is None or index < hot:
                self.hot_bytes = offset
        nbytes = max(offset, ALIGNMENT)
        if file is None:
            # PyTorch's CPU and CUDA allocators return at least 64-byte aligned memory.
            self.buffer = torch.zeros(nbytes, dtype=torch.uint8, device=self.device)
            self._fill(self.buffer, tensors)
        elif self.device.type != "cpu":
            raise ValueError(f"processes cannot share an arena on {self.device} through a file")
        else:
            seal = _seal(self.slots, dtype, tensors)
            self.buffer = _mapped(file, nbytes, seal, lambda room: self._fill(room, tensors))
        self._typed = self.buffer.view(dtype)

    def _fill(self, room: Tensor, tensors: Mapping[str, Tensor]) -> None:
        typed = room.view(self.dtype)
        for name, tensor in tensors.items():
            self._view(typed, self.slots[name]).copy_(tensor.detach())

    def _view(self, typed: Tensor, slot: Slot) -> Tensor:
        start = slot.offset // self.dtype.itemsize
        return typed[start : start + prod(slot.shape)].view(slot.shape)

    def __getitem__(self, name: str) -> Tensor:
        """The whole tensor, a view; narrow it with ordinary slicing."""
        return self._view(self._typed, self.slots[name])

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


def _seal(slots: Mapping[str, Slot], dtype: torch.dtype, tensors: Mapping[str, Tensor]) -> bytes:
    """What stands at the end of a file that holds exactly these tensors in this layout."""
    digest = hashlib.blake2b(f"superserve.arena/1 {dtype}".encode())
    for name, slot in slots.items():
        tensor = tensors[name].detach()
        digest.update(f"{name} {slot} {tensor.dtype}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.digest()


def _mapped(file: Path, nbytes: int, seal: bytes, fill: Callable[[Tensor], None]) -> Tensor:
    """The file's first ``nbytes``, mapped copy-on-write; written first where there is need to.

    It is written under another name, and gets its own when it is complete: a writer that is killed
    leaves the old file, or none, and the kernel takes its lock away.
    """
    with Path(f"{file}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_sealed(file, nbytes, seal):
            part = Path(f"{file}.part")
            with part.open("wb") as out:
                # A full disk is an error here, and would be a SIGBUS when the pages are written.
                os.posix_fallocate(out.fileno(), 0, nbytes)
                fill(torch.from_file(str(part), True, nbytes, dtype=torch.uint8))
                out.seek(nbytes)
                out.write(seal)
            part.replace(file)
        return torch.from_file(str(file), False, nbytes, dtype=torch.uint8)


def _is_sealed(file: Path, nbytes: int, seal: bytes) -> bool:
    """Whether the file is complete and of this content."""
    try:
        with file.open("rb") as found:
            found.seek(0, os.SEEK_END)
            if found.tell() != nbytes + len(seal):
                return False
            found.seek(nbytes)
            return found.read() == seal
    except FileNotFoundError:
        return False
