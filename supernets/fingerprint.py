"""Which weights a checkpoint holds, told from its bytes. No torch, so that any process may ask."""

import hashlib
import json
from pathlib import Path
from typing import Any

from supernets.errors import CheckpointError

STATISTICS_PREFIX = "statistics/"
_FAMILY = "superserve.supernet/"
FORMAT = f"{_FAMILY}1"


def read_metadata(path: Path) -> dict[str, str]:
    """The string metadata of a safetensors file; `CheckpointError` if it is none of ours."""
    header, _ = _read_header(path)
    metadata = header.get("__metadata__", {})
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is no SuperServe checkpoint (its metadata has no format {FORMAT}); "
            "write one with supernets.save(net, path)"
        )
    return {str(k): str(v) for k, v in metadata.items()}


def is_own(path: Path) -> bool:
    """Whether a file is one of `supernets.save`, told from its header and not from its name.

    Raises `CheckpointError` for a file that cannot be read, and for one whose name says that it is
    a safetensors file when it is none.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            # A header opens with a brace; a pickle has something else there, and a size beyond it.
            opens = file.read(1) == b"{" and size <= path.stat().st_size
            header = json.loads(b"{" + file.read(size - 1)) if opens else None
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    except ValueError:
        header = None
    if not isinstance(header, dict):
        if path.suffix == ".safetensors":
            raise CheckpointError(f"{path} is no safetensors file, or it is cut off")
        return False
    metadata = header.get("__metadata__")
    return isinstance(metadata, dict) and str(metadata.get("format", "")).startswith(_FAMILY)


def weights_hash(path: Path) -> str:
    """SHA-256 over the architecture and all weights, without the statistics.

    It is what a latency profile is bound to: recalibrating changes no latency, so it leaves this
    hash as it is; another input size or stride does not.
    """
    header, data = _read_header(path)
    metadata = header.get("__metadata__", {})
    digest = hashlib.sha256()
    for key in ("definition", "preprocessing"):
        digest.update(f"{key}={metadata.get(key)}\n".encode())
    for name in sorted(header):
        if name == "__metadata__" or name.startswith(STATISTICS_PREFIX):
            continue
        entry = header[name]
        start, end = entry["data_offsets"]
        digest.update(f"{name}:{entry['dtype']}:{entry['shape']}\n".encode())
        digest.update(data[start:end])
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of the whole file, statistics included: what an accuracy card is bound to."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}") from error


def _read_header(path: Path) -> tuple[dict[str, Any], memoryview]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    try:
        size = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + size])
        if not isinstance(header, dict):
            raise TypeError(header)
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} is no safetensors file, or it is cut off; `superserve import` makes one of "
            "another project's checkpoint"
        ) from error
    return header, memoryview(raw)[8 + size :]
