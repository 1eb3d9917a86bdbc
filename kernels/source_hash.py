"""Names the kernels that a figure was measured with by a hash of their sources."""

import hashlib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

FOLDER = Path(__file__).parent
APART = (
    "native/*",
    "ops/*/cpu.py",
    "configs/cpu.json",
    "auditing/*",
    "audit.py",
    "tune.py",
    "tuning.py",
    "source_hash.py",
)
"""What no GPU runs, and what only looks at kernels or writes the tables that count themselves."""


def sources(folder: Path = FOLDER) -> Iterator[Path]:
    """The Python files and the tables of configurations that a figure depends on, in order."""
    for path in sorted([*folder.rglob("*.py"), *(folder / "configs").glob("*.json")]):
        name = path.relative_to(folder).as_posix()
        if not any(fnmatch(name, pattern) for pattern in APART):
            yield path


def kernel_hash(folder: Path = FOLDER) -> str:
    """16 hexadecimal digits of names and bytes: a comment more is another hash."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sources(folder):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()
