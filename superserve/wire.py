"""The byte format between the front end and a worker process: bytes in, messages out, no I/O.

A frame is a header (payload length, kind) and a payload, little-endian. Pixels never travel here:
they lie in shared memory, and a `Run` names their slots.
"""

import json
import struct
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from superserve.engine_types import EngineResult
from superserve.messages import ModelInfo, WorkerInfo

_HEADER = struct.Struct("<IB")  # bytes of payload, kind
_ATTACH = struct.Struct("<IQ")  # slots, bytes of each
_RUN = struct.Struct("<QHHHH")  # dispatch, top_k, queries, bytes of model, bytes of subnet
_RESULT = struct.Struct("<QddHH")  # dispatch, seconds, seconds of loading, N, k
_FAILED = struct.Struct("<Q")  # dispatch

# No frame of ours comes near; a longer one means that the stream is out of step.
MAX_PAYLOAD = 16 * 2**20


class WireError(ValueError):
    """The other side sent what is no frame: a bug of ours, never a client's. The link is dead."""


@dataclass(frozen=True, slots=True)
class Attach:
    """To the worker, once after its `Ready`: how to map the slots."""

    slots: int
    slot_bytes: int


@dataclass(frozen=True, slots=True)
class Run:
    """To the worker: run the images in these slots, in this order."""

    dispatch_id: int
    model: str
    subnet: str
    top_k: int
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """From the worker, once: it is warm."""

    info: WorkerInfo


@dataclass(frozen=True, slots=True)
class Refused:
    """From the worker, instead of `Ready`: why it cannot start, in one line."""

    reason: str


@dataclass(frozen=True, slots=True)
class Result:
    """From the worker: the answer to a `Run`."""

    dispatch_id: int
    result: EngineResult


@dataclass(frozen=True, slots=True)
class RunFailed:
    """From the worker: this `Run` failed, the worker lives on."""

    dispatch_id: int
    message: str


Message = Attach | Run | Ready | Refused | Result | RunFailed


def encode(message: Message) -> bytes:
    """The frame of one message; ``struct.error`` if a number does not fit its field."""
    match message:
        case Attach(slots, slot_bytes):
            kind, payload = 1, _ATTACH.pack(slots, slot_bytes)
        case Run():
            kind, payload = 2, _encode_run(message)
        case Ready(info):
            kind, payload = 3, json.dumps(asdict(info)).encode()
        case Refused(reason):
            kind, payload = 4, reason.encode()
        case Result(dispatch_id, result):
            n, k = result.indices.shape
            head = _RESULT.pack(dispatch_id, result.seconds, result.loading, n, k)
            indices = np.ascontiguousarray(result.indices, dtype="<i4").tobytes()
            scores = np.ascontiguousarray(result.scores, dtype="<f4").tobytes()
            kind, payload = 5, head + indices + scores
        case RunFailed(dispatch_id, text):
            kind, payload = 6, _FAILED.pack(dispatch_id) + text.encode()
    return _HEADER.pack(len(payload), kind) + payload


class Decoder:
    """Turns bytes into messages, however they were cut on the way."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def __repr__(self) -> str:
        return f"<Decoder {len(self._buffer)} bytes of an unfinished frame>"

    def feed(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes; raises `WireError` if it is not ours."""
        buffer = self._buffer
        buffer += data
        messages: list[Message] = []
        start = 0
        while len(buffer) - start >= _HEADER.size:
            length, kind = _HEADER.unpack_from(buffer, start)
            if length > MAX_PAYLOAD:
                raise WireError(f"a frame of {length} bytes is announced, over {MAX_PAYLOAD}")
            end = start + _HEADER.size + length
            if len(buffer) < end:
                break
            messages.append(_decode(kind, bytes(buffer[start + _HEADER.size : end])))
            start = end
        del buffer[:start]
        return messages


def _decode(kind: int, payload: bytes) -> Message:
    try:
        match kind:
            case 1:
                return Attach(*_ATTACH.unpack(payload))
            case 2:
                return _decode_run(payload)
            case 3:
                return Ready(_worker_info(json.loads(payload)))
            case 4:
                return Refused(payload.decode())
            case 5:
                return _decode_result(payload)
            case 6:
                (dispatch_id,) = _FAILED.unpack_from(payload)
                return RunFailed(dispatch_id, payload[_FAILED.size :].decode())
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise WireError(f"a frame of kind {kind} cannot be read: {error}") from error
    raise WireError(f"a frame of unknown kind {kind}")


def _encode_run(run: Run) -> bytes:
    model, subnet, n = run.model.encode(), run.subnet.encode(), len(run.slots)
    head = _RUN.pack(run.dispatch_id, run.top_k, n, len(model), len(subnet))
    return head + model + subnet + struct.pack(f"<{n}I", *run.slots)


def _decode_run(payload: bytes) -> Run:
    dispatch_id, top_k, n, model_bytes, subnet_bytes = _RUN.unpack_from(payload)
    subnet_at = _RUN.size + model_bytes
    slots_at = subnet_at + subnet_bytes
    if len(payload) != slots_at + 4 * n:
        raise WireError(f"a run of {n} queries does not have {len(payload)} bytes")
    model, subnet = payload[_RUN.size : subnet_at], payload[subnet_at:slots_at]
    slots = struct.unpack_from(f"<{n}I", payload, slots_at)
    return Run(dispatch_id, model.decode(), subnet.decode(), top_k, slots)


def _decode_result(payload: bytes) -> Result:
    dispatch_id, seconds, loading, n, k = _RESULT.unpack_from(payload)
    if len(payload) != _RESULT.size + 8 * n * k:
        raise WireError(f"a result of {n}x{k} does not have {len(payload)} bytes")
    indices = np.frombuffer(payload, "<i4", n * k, _RESULT.size).reshape(n, k)
    scores = np.frombuffer(payload, "<f4", n * k, _RESULT.size + 4 * n * k).reshape(n, k)
    return Result(dispatch_id, EngineResult(indices, scores, seconds, loading))


def _worker_info(document: dict[str, Any]) -> WorkerInfo:
    models = tuple(ModelInfo.from_json(model) for model in document.pop("models"))
    return WorkerInfo(**document, models=models)
