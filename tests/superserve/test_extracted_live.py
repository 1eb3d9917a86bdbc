"""Extracted workers end to end: loading is counted, inside the dispatch, and survives faults."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtest.server_process import running_server
from superserve.client import Client
from superserve.config import load_config
from superserve.errors import ConfigError
from superserve.messages import BatchResult, Prediction
from superserve.metrics import Metrics
from superserve.pool import Done
from superserve.profiling import engine_spec
from superserve.wire import Decoder, Result, encode
from tests.superserve.dispatching import Harness, run
from tests.superserve.test_wire import result

SEVEN = Path(__file__).parent.parent.parent / "examples" / "images" / "seven.png"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"worker": "cached"}, "worker must be resident or extracted, not 'cached'"),
        ({"resident_models": -1}, "resident_models must not be negative"),
        ({"worker": "extracted", "kernels": "triton"}, "use --kernels auto"),
        ({"worker": "extracted", "devices": "emulated:2"}, "use --worker resident"),
    ],
)
def test_a_wrong_setting_is_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(overrides, environment={})


def test_the_settings_reach_the_worker():
    spec = engine_spec(load_config({"worker": "extracted", "resident_models": 3}), "cpu")
    assert (spec.worker, spec.resident_models) == ("extracted", 3)


def test_the_time_of_loading_comes_through_the_socket():
    sent = result(2, 3)
    object.__setattr__(sent.result, "loading", 0.25)
    (got,) = Decoder().feed(encode(sent))

    assert isinstance(got, Result)
    assert (got.result.loading, got.result.seconds) == (0.25, sent.result.seconds)


def test_loads_are_counted_and_their_times_summed():
    metrics = Metrics()
    assert metrics.snapshot()["loading"] == {"count": 0, "sum": 0.0}
    metrics.loaded(0.25)
    metrics.loaded(0.5)
    assert metrics.snapshot()["loading"] == {"count": 2, "sum": 0.75}


def test_a_batch_that_waited_for_its_model_is_counted_once_whatever_its_size():
    async def main() -> None:
        async with Harness() as harness:
            for pixel in (1, 2, 3):
                harness.submit(pixel)
            await harness.settle()
            sizes = []
            while harness.pool.sent:
                sent = harness.pool.sent.pop()
                sizes.append(len(sent.pixels))
                answers = tuple((Prediction(pixel, 1.0),) for pixel in sent.pixels)
                loading = 0.5 if len(answers) == 2 else 0.0
                harness.pool._deliver(
                    Done("w0", BatchResult(sent.dispatch.id, answers, 0.1, loading))
                )
                await harness.settle()
            snapshot = harness.dispatcher.metrics.snapshot()
            assert (sizes, snapshot["met"]) == ([1, 2], 3)
            assert snapshot["loading"] == {"count": 1, "sum": 0.5}

    run(main())


def loading(url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{url}/v1/stats").json()["metrics"]["loading"]
    return found


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < end, "it never happened"


def workers(folder: Path) -> list[int]:
    """Worker processes whose models lie in this folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"superserve.worker" in command and str(folder).encode() in command:
            found.append(int(entry.name))
    return found


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server whose one worker holds two models at once: (URL, the folder of its files)."""
    folder = tmp_path_factory.mktemp("served")
    own = {"SUPERSERVE_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "models")}
    (folder / "models").mkdir()
    before = dict(os.environ)
    os.environ.update(own)
    arguments = ["--supernet", "digits", "--worker", "extracted", "--resident-models", "2",
                 "--policy", "fixed", "--policy-options", "subnet=smallest", "--slo-ms", "30000",
                 "--max-slo-ms", "60000"]  # fmt: skip
    try:
        with running_server(arguments, patience=120.0) as url:
            yield url, folder / "models"
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert list((folder / "models").iterdir()) == [], "files are left behind"


def test_serving_loads_what_is_asked_for_and_survives_faults(served):
    url, folder = served
    with Client(url, timeout=60.0) as client:

        def ask(subnet: str) -> tuple[int, float, float]:
            """How many loads this made, how long they took, and the whole query (seconds)."""
            client.set_policy("fixed", subnet=subnet)
            before = loading(url)
            answer = client.classify(SEVEN)
            after = loading(url)

            assert (answer.label, answer.subnet) == ("7", subnet)
            seconds = after["sum"] - before["sum"]
            return after["count"] - before["count"], seconds, answer.timing_ms.total / 1000

        model = client.models()[0]
        assert model.kernels == "extracted, torch"
        small, middle, *_, large = [subnet.id for subnet in model.subnets]
        loads, seconds, total = ask(small)
        assert loads == 1
        assert 0 < seconds < total, "the query waits while its model is loaded"
        assert [ask(subnet)[0] for subnet in (small, large, small, large)] == [0, 1, 0, 0]
        assert [ask(subnet)[0] for subnet in (middle, large, small)] == [1, 0, 1]

        for path in folder.rglob("*.safetensors"):
            path.unlink()
        assert ask(middle)[0] == 1, "the file is written again"

        (worker,) = workers(folder)
        os.kill(worker, signal.SIGKILL)
        until(lambda: httpx.get(f"{url}/v1/stats").json()["workers"][0]["losses"] == 1)
        until(client.ready)
        assert ask(middle)[0] == 1, "a worker that came back holds nothing"
