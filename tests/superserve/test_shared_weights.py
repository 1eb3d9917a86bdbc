"""CPU workers of one server hold the weights once, in a file that is gone when the server is."""

import asyncio
import re
from pathlib import Path

from superserve.engine import Engine
from superserve.engine_types import EngineSpec
from superserve.messages import WorkerInfo
from superserve.pool import ProcessPool
from superserve.worker import WorkerSpec

START = 120.0


def pool_of(*devices: str) -> ProcessPool:
    specs = [
        WorkerSpec(f"{device}#{index}", EngineSpec("digits", device=device))
        for index, device in enumerate(devices)
    ]
    return ProcessPool(specs, slots=4, start_timeout=START)


def mapped(info: WorkerInfo) -> tuple[Path, int, dict[str, int]] | None:
    """The arena file that a worker maps: its path, its inode, and bytes as the kernel counts."""
    text = Path(f"/proc/{info.pid}/smaps").read_text()
    pattern = r"^[0-9a-f]+-\S+ \S+ \S+ \S+ (\d+) +(\S+/arena)\n((?:[A-Z].*\n)+)"
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        return None
    sizes = re.findall(r"^(\w+): +(\d+) kB$", found[3], re.MULTILINE)
    return Path(found[2]), int(found[1]), {name: 1024 * int(kib) for name, kib in sizes}


def test_two_cpu_workers_have_one_copy_of_the_weights_and_leave_no_file():
    async def main() -> list[tuple[Path, int, dict[str, int]]]:
        pool = pool_of("cpu", "cpu")
        infos = await pool.start()
        try:
            found = [mapped(info) for info in infos]
        finally:
            await pool.stop()
        assert all(infos[0].models[0].resident_bytes == i.models[0].resident_bytes for i in infos)
        return [entry for entry in found if entry is not None]

    found = asyncio.run(main())
    assert len(found) == 2
    (path, inode, first), (other, other_inode, second) = found
    assert (path, inode) == (other, other_inode)
    for counted in (first, second):
        assert counted["Anonymous"] < 0.1 * counted["Size"], "it has written to its pages"
        assert counted["Shared_Clean"] + counted["Shared_Dirty"] > 0.8 * counted["Rss"]
    assert not path.parent.exists()


def test_a_worker_that_shares_with_nobody_maps_no_file():
    async def main() -> None:
        pool = pool_of("cpu")
        infos = await pool.start()
        try:
            assert mapped(infos[0]) is None
        finally:
            await pool.stop()

    asyncio.run(main())


def test_where_the_file_cannot_be_written_a_worker_holds_its_own_weights(tmp_path, caplog):
    spec = EngineSpec("digits", arena_file=str(tmp_path / "nowhere" / "arena"))
    engine = Engine(spec)

    assert engine.models[0].resident_bytes > 0
    assert "this worker holds its weights for itself" in caplog.text
