"""The byte format between front end and worker: whatever is sent arrives, however it is cut."""

import struct

import numpy as np
import pytest

from superserve.engine_types import EngineResult
from superserve.messages import ModelInfo, ModelMemory, Preprocessing, WorkerInfo
from superserve.wire import (
    MAX_PAYLOAD,
    Attach,
    Decoder,
    Ready,
    Refused,
    Result,
    Run,
    RunFailed,
    WireError,
    encode,
)

INFO = WorkerInfo(
    "cpu:0",
    "cpu",
    "cpu",
    123,
    (
        ModelInfo(
            "digits",
            ("null", "één", "二"),
            Preprocessing(28, 28, 1, (0.1307,), (0.3081,), crop=0.875, ink_on_dark=True),
            {"a1b2": "depth 2"},
            "sha",
            4096,
            {"a1b2": 97.25},
            "digits test set",
            ModelMemory(3000, 96, 1000, 7),
        ),
        ModelInfo("other", (), Preprocessing(4, 5, 3, (0.0,) * 3, (1.0,) * 3), {}, "", 0),
    ),
)
PLAIN = [
    Attach(1024, 150_528),
    Attach(1, 2**40),
    Run(7, "digits", "a1b2", 5, (3, 0, 1023)),
    Run(2**64 - 1, "modèle", "", 1, ()),
    Ready(INFO),
    Refused("there is no checkpoint at /nulle/part/é"),
    RunFailed(9, "RuntimeError: the network cannot run this"),
    RunFailed(0, ""),
]


def result(n: int, k: int) -> Result:
    rng = np.random.default_rng(n)
    indices = rng.integers(0, 1000, (n, k), np.int32)
    return Result(n, EngineResult(indices, rng.random((n, k), np.float32), 0.0125))


def assert_same(got: object, sent: object) -> None:
    if isinstance(sent, Result):
        assert isinstance(got, Result)
        assert got.dispatch_id == sent.dispatch_id
        assert got.result.seconds == sent.result.seconds
        np.testing.assert_array_equal(got.result.indices, sent.result.indices, strict=True)
        np.testing.assert_array_equal(got.result.scores, sent.result.scores, strict=True)
    else:
        assert got == sent


@pytest.mark.parametrize("message", [*PLAIN, result(1, 1), result(16, 5), result(3, 0)], ids=repr)
def test_a_message_arrives_as_it_was_sent(message):
    (got,) = Decoder().feed(encode(message))
    assert_same(got, message)


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 7, 64, 10_000])
def test_a_stream_arrives_whole_whatever_the_size_of_its_pieces(cut):
    sent = [*PLAIN, result(16, 5), *PLAIN]
    stream = b"".join(encode(message) for message in sent)
    decoder = Decoder()
    got = [m for i in range(0, len(stream), cut) for m in decoder.feed(stream[i : i + cut])]
    assert len(got) == len(sent)
    for one, other in zip(got, sent, strict=True):
        assert_same(one, other)
    assert repr(decoder) == "<Decoder 0 bytes of an unfinished frame>"


def test_a_message_is_delivered_with_its_last_byte_and_not_before():
    frame = encode(PLAIN[2])
    decoder = Decoder()
    for byte in frame[:-1]:
        assert decoder.feed(bytes([byte])) == []
    assert decoder.feed(frame[-1:]) == [PLAIN[2]]


def test_the_frame_of_a_run_is_laid_out_as_documented():
    """By hand: header (payload bytes, kind 2), dispatch, top_k, counts, model, subnet, slots."""
    payload = struct.pack("<QHHHH", 7, 5, 2, 3, 2) + b"dig" + b"s1" + struct.pack("<II", 4, 9)
    frame = struct.pack("<IB", len(payload), 2) + payload
    assert encode(Run(7, "dig", "s1", 5, (4, 9))) == frame


def frame(kind: int, payload: bytes) -> bytes:
    return struct.pack("<IB", len(payload), kind) + payload


@pytest.mark.parametrize(
    "data",
    [
        frame(0, b""),
        frame(77, b"abc"),
        struct.pack("<IB", MAX_PAYLOAD + 1, 2),
        frame(1, b"short"),
        frame(2, encode(PLAIN[2])[5:-1]),
        frame(2, encode(PLAIN[2])[5:] + b"\0"),
        frame(2, struct.pack("<QHHHH", 1, 1, 0, 60_000, 0)),
        frame(3, b"{"),
        frame(3, b"{}"),
        frame(3, b"[1]"),
        frame(4, b"\xff\xfe"),
        frame(5, struct.pack("<QdHH", 1, 0.0, 9, 9)),
        frame(5, encode(result(2, 2))[5:] + b"\0"),
        frame(6, b"1234567"),
    ],
)
def test_bytes_that_are_no_frame_of_ours_raise_a_wire_error(data):
    with pytest.raises(WireError):
        Decoder().feed(data)


def test_an_endless_frame_is_refused_by_its_announcement_before_any_of_it_is_kept():
    with pytest.raises(WireError, match="4294967295 bytes"):
        Decoder().feed(b"\xff\xff\xff\xff\x02")
