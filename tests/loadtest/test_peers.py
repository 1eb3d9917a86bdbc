"""Other servers with our model: their command, the model itself, and whole servers where installed.

What the model answers is compared with the resident engine, which shares no network with it.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import pairwise

import httpx
import numpy as np
import orjson
import psutil
import pytest

from loadtest import peers
from loadtest.peers import PEERS, command
from loadtest.peers.front import CLASSIFY
from loadtest.peers.model import PeerModel, Query, find_subnet
from loadtest.peers.settings import DEFAULTS, PeerSettings
from loadtest.peers.stopping import descendants, kill
from loadtest.server_process import running_server
from supernets.data.digits_data import sample_images
from superserve.client import Client
from superserve.config import Config
from superserve.decode import decode
from superserve.engine import Engine
from superserve.errors import BadParameter, ConfigError, UnsupportedImage
from superserve.profiling import engine_spec

IMAGES = [image for image, _ in sample_images(12)]
PATIENCE = 120.0
GONE = 5.0  # seconds in which the last helpers notice that their server ended


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda name: name)


@pytest.fixture(scope="module")
def engine():
    return Engine(engine_spec(Config(), "cpu"))


@pytest.fixture(scope="module", params=["smallest", "largest"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return PeerModel(PeerSettings(subnet=request.param), str(folder))


def query(image: bytes, top_k: int = 3, slo: float = 60.0) -> Query:
    return Query(image, time.monotonic(), slo, top_k)


def answers(model: PeerModel, images: list[bytes], **asked) -> list[dict]:
    replies = model.answer([model.decode(query(image, **asked)) for image in images])
    assert all(reply.status == 200 for reply in replies)
    return [orjson.loads(reply.body) for reply in replies]


def expected(engine: Engine, subnet: str, images: list[bytes], top_k: int):
    """The indices and scores of our own engine, [N, top_k] each."""
    info = engine.models[0]
    pixels = np.empty((len(images), *info.preprocessing.shape), np.uint8)
    for image, out in zip(images, pixels, strict=True):
        decode(image, info.preprocessing, out, max_pixels=10**6)
    result = engine.run(info.name, subnet, pixels, top_k)
    return result.indices, result.scores


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", PEERS)
def test_the_command_says_all_settings(name):
    line = command(
        name, supernet="other", subnet="smallest", workers=3, devices=("cuda:0", "cuda:1"),
        settings={"threads": 2, "plugins": ["a", "b"], "reserve": 0.1},
        options={"max_batch": "8", "batch_wait_ms": "1.5"},
    )  # fmt: skip

    assert line[:3] == [sys.executable, "-m", PEERS[name].module]
    said = dict(pairwise(line[3:]))
    assert said["--subnet"] == "smallest"
    assert said["--devices"] == "cuda:0,cuda:1"
    assert said["--max-batch"] == "8"
    again, host, port = PeerSettings.from_arguments([*line[3:], "--port", "8001"])
    assert (host, port) == ("127.0.0.1", 8001)
    assert again == PeerSettings(
        supernet="other", subnet="smallest", workers=3, devices="cuda:0,cuda:1", threads=2,
        plugins="a,b", max_batch=8, batch_wait_ms=1.5,
    )  # fmt: skip


@pytest.mark.usefixtures("installed")
def test_workers_take_the_devices_in_turn():
    settings = PeerSettings(devices="cuda:0, cuda:1")

    assert [settings.device(worker) for worker in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"batch": 3}, "no setting 'batch'"),
        ({"max_batch": "many"}, "max_batch cannot be 'many'"),
        ({"max_batch": "0"}, "max_batch must be positive"),
        ({"batch_wait_ms": "-1"}, "batch_wait_ms must be"),
        ({"timeout_s": "inf"}, "timeout_s must be"),
    ],
)
@pytest.mark.usefixtures("installed")
def test_an_impossible_option_is_refused_by_name(options, complaint):
    with pytest.raises(ConfigError, match=complaint):
        command("ray", options=options)


def test_a_host_that_others_can_reach_is_refused():
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0 is no loopback address"):
        PeerSettings.from_arguments(["--host", "0.0.0.0", "--port", "1"])


def test_an_unknown_peer_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="no peer 'triton'; the known ones are litserve, ray"):
        command("triton")


@pytest.mark.parametrize("name", PEERS)
def test_without_the_package_the_error_says_what_to_install(name, monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda _: None)

    with pytest.raises(ConfigError, match=r"pip install 'superserve\[peers\]'"):
        command(name)


def test_a_subnet_is_found_by_accuracy_or_id(engine):
    info = engine.models[0]
    worst = min(info.accuracies, key=info.accuracies.get)
    best = max(info.accuracies, key=info.accuracies.get)

    assert find_subnet(info, "smallest") == worst
    assert find_subnet(info, "largest") == best
    assert find_subnet(info, worst) == worst
    with pytest.raises(ConfigError, match="no subnet 'middle'"):
        find_subnet(info, "middle")


def test_answers_are_those_of_our_own_engine(model, engine):
    (subnet,) = model.info.subnets
    indices, scores = expected(engine, subnet, IMAGES, 3)

    found = answers(model, IMAGES)

    assert [[p["index"] for p in a["predictions"]] for a in found] == indices.tolist()
    np.testing.assert_allclose(
        [[p["score"] for p in a["predictions"]] for a in found], scores, atol=1e-4
    )
    assert {(a["subnet"], a["batch_size"]) for a in found} == {(subnet, len(IMAGES))}
    assert {a["accuracy"] for a in found} == {engine.models[0].accuracies[subnet]}


def test_a_batch_answers_as_its_images_do_alone(model):
    together = answers(model, IMAGES)
    alone = [answers(model, [image])[0] for image in IMAGES]

    for one, other in zip(together, alone, strict=True):
        assert [p["label"] for p in one["predictions"]] == [
            p["label"] for p in other["predictions"]
        ]
        np.testing.assert_allclose(
            [p["score"] for p in one["predictions"]],
            [p["score"] for p in other["predictions"]],
            atol=1e-5,
        )


def test_each_query_gets_as_many_predictions_as_it_asked_for(model):
    batch = [model.decode(query(IMAGES[0], top_k)) for top_k in (1, 4, 2)]
    found = [orjson.loads(reply.body)["predictions"] for reply in model.answer(batch)]

    assert [len(predictions) for predictions in found] == [1, 4, 2]
    assert found[0] == found[1][:1]


@pytest.mark.parametrize(("slo", "met"), [(60.0, True), (1e-9, False)])
def test_the_deadline_is_compared_with_the_time_that_passed(model, slo, met):
    (found,) = answers(model, IMAGES[:1], slo=slo)

    assert found["deadline_met"] is met
    timing = found["timing_ms"]
    assert timing["total"] >= timing["queue"] + timing["inference"] - 1e-2


def test_a_corrupt_image_fails_alone(model):
    cut_off = IMAGES[1][:60]
    batch = [model.decode(query(image)) for image in (IMAGES[0], cut_off, IMAGES[2], b"nonsense")]
    first, bad, third, foreign = model.answer(batch)

    assert [r.status for r in (first, bad, third, foreign)] == [200, 400, 200, 415]
    assert orjson.loads(bad.body)["code"] == "bad_image"
    assert orjson.loads(foreign.body)["code"] == "unsupported_image"
    labels = [orjson.loads(r.body)["predictions"][0]["label"] for r in (first, third)]
    assert labels == [a["predictions"][0]["label"] for a in answers(model, [IMAGES[0], IMAGES[2]])]


def test_a_batch_of_corrupt_images_runs_nothing(model, monkeypatch):
    monkeypatch.setattr(model, "_engine", None)

    replies = model.answer([model.decode(query(b"nonsense"))] * 2)

    assert [reply.status for reply in replies] == [415, 415]


def test_processes_of_processes_are_found_and_killed():
    line = "sleep 100 & echo $! && wait"
    with subprocess.Popen(["sh", "-c", line], stdout=subprocess.PIPE, text=True) as shell:
        sleep = int(shell.stdout.readline())
        found = descendants(os.getpid())
        kill([sleep, shell.pid, sleep])

    assert {shell.pid, sleep} <= set(found)
    assert shell.returncode == -signal.SIGKILL


@contextmanager
def serving(name: str, **chosen):
    """A whole server, which leaves no process behind."""
    pytest.importorskip(PEERS[name].package, reason=f"{PEERS[name].title} is not installed")
    with running_server([], patience=PATIENCE, command=command(name, **chosen)) as url:
        started = psutil.Process().children(recursive=True)
        assert started
        yield url
    assert not psutil.wait_procs(started, GONE)[1]


def check_the_api(url: str, title: str, engine: Engine) -> None:
    info = engine.models[0]
    subnet = find_subnet(info, "smallest")
    indices, scores = expected(engine, subnet, IMAGES, 2)
    with Client(url) as client:
        (model,) = client.models()
        assert (model.name, model.labels) == (info.name, info.labels)
        assert [s.id for s in model.subnets] == [subnet]
        assert list(model.subnets[0].latency_ms) == [1, DEFAULTS.max_batch]
        assert client.policy().policy.startswith(title)
        found = [client.classify(image, slo_ms=30_000, top_k=2) for image in IMAGES]
        assert [[p.index for p in c.predictions] for c in found] == indices.tolist()
        np.testing.assert_allclose(
            [[p.score for p in c.predictions] for c in found], scores, atol=1e-4
        )
        assert all(c.deadline_met and c.batch_size == 1 for c in found)
        with pytest.raises(UnsupportedImage):
            client.classify(b"nonsense")
        with pytest.raises(BadParameter, match="top_k"):
            client.classify(IMAGES[0], top_k=0)
    assert httpx.post(f"{url}{CLASSIFY}?model=other", content=IMAGES[0]).status_code == 404


def test_litserve_answers_as_our_server_and_ends_with_all_its_processes(engine):
    with serving("litserve", subnet="smallest") as url:
        check_the_api(url, "LitServe", engine)


@pytest.mark.long
def test_ray_serve_answers_as_our_server_and_ends_with_all_its_processes(engine):
    with serving("ray", subnet="smallest") as url:
        check_the_api(url, "Ray Serve", engine)


def test_a_server_that_cannot_start_says_why():
    with (
        pytest.raises(ConfigError, match="no subnet 'middle': give smallest, largest"),
        serving("litserve", subnet="middle"),
    ):
        pass
