"""One file, many processes, one copy of the pages; what goes wrong with the file harms nobody."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from kernels.arena import Arena

SIDE = 512  # the larger tensor is 1 MiB, of which the rest is a small part


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "a": torch.randn(SIDE, SIDE, generator=generator),
        "b": torch.randn(3, 5, generator=generator, dtype=torch.float64),
    }


def holds(arena: Arena, expected: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(arena[name], t.to(arena.dtype)) for name, t in expected.items())


CHILD = """
import sys
from pathlib import Path
from kernels.arena import Arena
from tests.kernels.test_shared_arena import holds, tensors
arena = Arena(tensors(), file=Path(sys.argv[1]))
assert holds(arena, tensors())
print("mapped", flush=True)
sys.stdin.read()
"""


class Dying(dict[str, torch.Tensor]):
    """Kills the process when its tensors are copied: they are looked through once before that."""

    looked_through = 0

    def items(self) -> Iterator[tuple[str, torch.Tensor]]:  # type: ignore[override]
        self.looked_through += 1
        for index, item in enumerate(super().items()):
            if self.looked_through == 2 and index:
                os.kill(os.getpid(), signal.SIGKILL)
            yield item


DYING_CHILD = """
import sys
from pathlib import Path
from kernels.arena import Arena
from tests.kernels.test_shared_arena import Dying, tensors
Arena(Dying(tensors(int(sys.argv[2]))), file=Path(sys.argv[1]))
"""


def child(program: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def memory(file: Path, process: int | str = "self") -> dict[str, int]:
    """Bytes of a process's mappings of the file, as the kernel counts them; and its inode."""
    found: dict[str, int] = {}
    text = Path(f"/proc/{process}/smaps").read_text()
    for line, fields in re.findall(r"^([0-9a-f]+-\S+ .*)\n((?:[A-Z].*\n)+)", text, re.MULTILINE):
        if line.endswith(f" {file}"):
            found["inode"] = int(line.split()[4])
            for name, kib in re.findall(r"^(\w+): +(\d+) kB$", fields, re.MULTILINE):
                found[name] = found.get(name, 0) + 1024 * int(kib)
    return found


def test_two_processes_have_one_copy_of_the_pages(tmp_path):
    file = tmp_path / "arena"
    ours = Arena(tensors(), file=file)
    with child(CHILD, file) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mapped\n"
        assert holds(ours, tensors())  # which reads every page
        here, there = memory(file), memory(file, other.pid)
        other.communicate()

    assert other.returncode == 0
    assert here["inode"] == there["inode"]
    for counted in (here, there):
        shared = counted["Shared_Clean"] + counted["Shared_Dirty"]
        assert shared >= 0.99 * ours.nbytes
        assert counted["Anonymous"] == 0
        assert counted["Pss"] < 0.6 * ours.nbytes


def test_what_is_written_afterwards_is_the_writers_own(tmp_path):
    file = tmp_path / "arena"
    first, second = (Arena(tensors(), file=file) for _ in range(2))
    first["b"].zero_()

    assert holds(second, tensors())
    assert holds(Arena(tensors(), file=file), tensors())
    assert first.holds([first["b"]])
    assert not first.holds([second["b"]])


def test_a_file_of_the_same_content_is_not_written_again(tmp_path):
    file = tmp_path / "arena"
    Arena(tensors(), file=file)
    inode = file.stat().st_ino
    Arena(tensors(), file=file)

    assert file.stat().st_ino == inode


@pytest.mark.parametrize(
    "other",
    [
        lambda file: Arena(tensors(1), file=file),
        lambda file: Arena(dict(reversed(tensors().items())), file=file),
        lambda file: Arena({**tensors(), "c": torch.ones(3)}, file=file),
        lambda file: Arena({"a": tensors()["a"], "d": tensors()["b"]}, file=file),
        lambda file: Arena(tensors(), dtype=torch.bfloat16, file=file),
        lambda file: file.write_bytes(b"something else"),
        lambda file: file.write_bytes(b"\0" * (SIDE * SIDE * 4 + 64 + 64)),
        lambda file: file.write_bytes(b""),
    ],
    ids=["values", "order", "more", "names", "type", "foreign", "same size", "empty"],
)
def test_a_file_of_other_content_is_replaced_and_who_maps_it_keeps_it(tmp_path, other):
    file = tmp_path / "arena"
    before = other(file)
    arena = Arena(tensors(), file=file)

    assert holds(arena, tensors())
    if isinstance(before, Arena):
        fresh = other(tmp_path / "another")
        assert torch.equal(before.buffer, fresh.buffer)


def test_what_is_cut_off_is_replaced(tmp_path):
    file = tmp_path / "arena"
    Arena(tensors(), file=file)
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(whole[:-1])

    assert holds(Arena(tensors(), file=file), tensors())
    assert file.read_bytes() == whole


@pytest.mark.parametrize("there", [False, True], ids=["new", "replaced"])
def test_a_killed_writer_breaks_nothing(tmp_path, there):
    file = tmp_path / "arena"
    if there:
        Arena(tensors(), file=file)
    with child(DYING_CHILD, file, 1) as writer:
        writer.communicate()

    assert writer.returncode == -signal.SIGKILL
    assert file.exists() == there
    assert Path(f"{file}.part").exists(), "it was killed before it began, or after the end"
    assert holds(Arena(tensors(), file=file), tensors())
    assert holds(Arena(tensors(1), file=file), tensors(1))


def test_many_at_once_get_the_same(tmp_path):
    file = tmp_path / "arena"
    seeds = [0, 1, 0, 0, 1, 0] * 3
    with ThreadPoolExecutor(6) as pool:
        arenas = list(pool.map(lambda seed: Arena(tensors(seed), file=file), seeds))
    for seed, arena in zip(seeds, arenas, strict=True):
        assert holds(arena, tensors(seed))


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        Arena(tensors(), file=tmp_path / "nowhere" / "arena")


def test_memory_of_another_device_is_in_no_file(tmp_path):
    with pytest.raises(ValueError, match="cannot share an arena on meta"):
        Arena(tensors(), "meta", file=tmp_path / "arena")
