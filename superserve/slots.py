"""The slots that hold the pixels of every image in the server; a slot is also the admission token.

The front end writes an image into its slot once, and the workers read it there. The memory has no
name in any file system: a worker inherits the descriptor, so nobody else can open it.
"""

import mmap
import os
import tempfile
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Shape = tuple[int, int, int]  # height, width, channels

# Slots begin on cache lines of their own: one decoder thread's stores never disturb another's.
_ALIGNMENT = 64


def anonymous_file() -> int:
    """A descriptor of an empty file without a name, to be inherited by workers.

    Not in /dev/shm where it can be helped: containers often cap that at 64 MiB, and a write beyond
    the cap is a SIGBUS, not an error.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create("superserve-slots")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class SlotMemory:
    """The bytes of all slots as one array: what a worker maps."""

    __slots__ = ("_bytes", "count", "slot_bytes")

    def __init__(self, count: int, slot_bytes: int, fd: int = -1) -> None:
        """Map ``fd``, which is at least ``size`` long; -1 = memory of this process alone."""
        self.count = count
        self.slot_bytes = slot_bytes
        memory = mmap.mmap(fd, self.size(count, slot_bytes))
        self._bytes = np.frombuffer(memory, np.uint8).reshape(count, -1)

    @staticmethod
    def size(count: int, slot_bytes: int) -> int:
        """Bytes that ``count`` slots take together."""
        return count * -(-slot_bytes // _ALIGNMENT) * _ALIGNMENT

    def pixels(self, slot: int, shape: Shape) -> npt.NDArray[np.uint8]:
        """The image in one slot, uint8 [H, W, C], writable; ``ValueError`` if it does not fit."""
        height, width, channels = shape
        size = height * width * channels
        if not 0 < size <= self.slot_bytes:
            raise ValueError(f"an image of shape {shape} does not fit {self.slot_bytes} bytes")
        return self._bytes[slot, :size].reshape(shape)

    def gather(self, slots: Sequence[int], shape: Shape) -> npt.NDArray[np.uint8]:
        """A copy of the images in these slots, uint8 [N, H, W, C]."""
        height, width, channels = shape
        size = height * width * channels
        return self._bytes[list(slots), :size].reshape(len(slots), *shape)


class Slots:
    """Who may be in the server: a fixed number of slots, each free or taken."""

    __slots__ = ("_free", "_memory", "_taken")

    def __init__(self, count: int, slot_bytes: int, fd: int = -1) -> None:
        """``fd`` is an `anonymous_file`, which is given its size here."""
        if count < 1 or slot_bytes < 1:
            raise ValueError(f"{count} slots of {slot_bytes} bytes hold nothing")
        if fd >= 0:
            os.ftruncate(fd, SlotMemory.size(count, slot_bytes))
        self._memory = SlotMemory(count, slot_bytes, fd)
        self._free = list(range(count - 1, -1, -1))
        self._taken = bytearray(count)

    def __repr__(self) -> str:
        return f"<Slots {self.taken} of {self.count} taken, {self.slot_bytes} bytes each>"

    @property
    def count(self) -> int:
        return self._memory.count

    @property
    def slot_bytes(self) -> int:
        return self._memory.slot_bytes

    @property
    def taken(self) -> int:
        return self._memory.count - len(self._free)

    def reserve(self) -> int | None:
        """Take a slot; None if all are taken. The last one freed comes first: it is in cache."""
        if not self._free:
            return None
        slot = self._free.pop()
        self._taken[slot] = True
        return slot

    def release(self, slot: int) -> None:
        """Free a slot; ``ValueError`` if it is free already: freeing twice would share it."""
        if not self._taken[slot]:
            raise ValueError(f"slot {slot} is freed twice")
        self._taken[slot] = False
        self._free.append(slot)

    def pixels(self, slot: int, shape: Shape) -> npt.NDArray[np.uint8]:
        """See `SlotMemory.pixels`."""
        return self._memory.pixels(slot, shape)

    def gather(self, slots: Sequence[int], shape: Shape) -> npt.NDArray[np.uint8]:
        """See `SlotMemory.gather`."""
        return self._memory.gather(slots, shape)
