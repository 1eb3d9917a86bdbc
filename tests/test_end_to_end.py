"""The real server: processes, HTTP on loopback, the embedded supernet, real images."""

import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import superserve
from supernets.data import digits_data
from superserve.client import Client
from superserve.errors import BadParameter, ConfigError, DeadlineExceeded, SuperServeError
from superserve.local import LocalServer

IMAGES = Path(__file__).parent.parent / "examples" / "images"


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Iterator[Path]:
    """A cache of our own, so that the first server has to make its latency profile."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("SUPERSERVE_CACHE")
    os.environ["SUPERSERVE_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["SUPERSERVE_CACHE"]
    else:
        os.environ["SUPERSERVE_CACHE"] = before


@pytest.fixture(scope="module")
def server(cache) -> Iterator[LocalServer]:
    with superserve.serve("digits", slo_ms=2000) as running:
        yield running


@pytest.fixture
def client(server) -> Iterator[Client]:
    with server.client() as connected:
        yield connected


def largest(client: Client) -> str:
    return client.models()[0].subnets[-1].id


@pytest.mark.parametrize(
    ("name", "label"), [("seven.png", "7"), ("three-on-white.jpg", "3"), ("five-noisy.webp", "5")]
)
def test_the_example_images_get_their_labels(client, name, label):
    assert client.classify(IMAGES / name).label == label


def test_held_out_digits_are_mostly_right(client):
    """Clean held-out digits: the card says above 90 % even when distorted."""
    samples = digits_data.sample_images(60, clean=True)
    right = sum(client.classify(png).label == str(label) for png, label in samples)

    assert right >= 54


def test_without_load_the_largest_subnet_answers(client):
    answer = client.classify(IMAGES / "seven.png")

    assert answer.subnet == largest(client)
    assert answer.deadline_met
    assert 0 < answer.timing_ms.inference <= answer.timing_ms.total


def test_a_profile_was_made_and_is_reused(server, cache):
    (profile,) = (cache / "profiles").glob("digits-*.json")
    made = profile.stat().st_mtime_ns
    with superserve.serve("digits") as second, second.client() as client:
        assert client.ready()

    assert profile.stat().st_mtime_ns == made


def test_a_tight_deadline_gets_a_smaller_subnet(client):
    """A deadline between the smallest and the largest subnet's latency rules the largest out."""
    model = client.models()[0]
    small, large = model.subnets[0].latency_ms[1], model.subnets[-1].latency_ms[1]
    if large < small + 4:
        pytest.skip("this machine is too noisy for a deadline between the two")
    seen = set()
    for _ in range(20):
        try:
            seen.add(client.classify(IMAGES / "seven.png", slo_ms=(small + large) / 2).subnet)
        except DeadlineExceeded:
            continue

    assert seen
    assert largest(client) not in seen


def test_an_accuracy_floor_is_kept_under_load(client):
    model = client.models()[0]
    floor = model.subnets[-2].accuracy
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: client.classify(IMAGES / "seven.png", min_accuracy=floor), range(40))
        )

    assert all(answer.accuracy >= floor for answer in answers)


def test_a_floor_above_the_best_subnet_says_what_the_best_is(client):
    best = max(subnet.accuracy for subnet in client.models()[0].subnets)
    with pytest.raises(BadParameter, match=re.escape(f"{best:g}")):
        client.classify(IMAGES / "seven.png", min_accuracy=99.99)


def test_requests_at_the_same_time_share_batches(client):
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: client.classify(IMAGES / "seven.png"), range(64)))

    assert {answer.label for answer in answers} == {"7"}
    assert max(answer.batch_size for answer in answers) > 1


def test_the_policy_changes_at_run_time(client):
    smallest = client.models()[0].subnets[0].id
    client.set_policy("fixed", subnet="smallest")
    try:
        assert client.classify(IMAGES / "seven.png").subnet == smallest
    finally:
        client.set_policy("default")

    assert client.classify(IMAGES / "seven.png").subnet == largest(client)


def test_a_killed_worker_comes_back_and_no_request_hangs(server, client):
    """Every request gets an answer or a clear error while its worker dies."""
    children = set(_children(os.getpid()))
    assert children

    def ask(_: int) -> str:
        try:
            return client.classify(IMAGES / "seven.png", slo_ms=30_000).label
        except SuperServeError as error:
            return error.code

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, i) for i in range(24)]
        for child in children:
            os.kill(child, signal.SIGKILL)
        answers = [future.result(timeout=60) for future in asked]

    assert set(answers) <= {"7", "worker_lost", "not_ready"}
    deadline = time.monotonic() + 60
    while not client.ready():
        assert time.monotonic() < deadline, "the worker did not come back"
    assert client.classify(IMAGES / "seven.png").label == "7"


def _children(pid: int) -> list[int]:
    """Worker processes of this one."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == pid and b"superserve.worker" in command:
            found.append(int(entry.name))
    return found


def test_emulated_workers_say_what_they_are(cache):
    """They wait the profiled times and predict nothing."""
    with superserve.serve("digits", devices="emulated:3") as running, running.client() as client:
        answer = client.classify(IMAGES / "seven.png")

        assert answer.predictions == ()
        assert answer.subnet == largest(client)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"supernet": "nothing"}, "no supernet is named 'nothing'"),
        ({"checkpoint": "/no/such.safetensors"}, "accuracy card|cannot read"),
        ({"devices": "cuda:7"}, "there is no cuda:7 here"),
        ({"devices": "tpu"}, "no device|not supported"),
        ({"policy": "best"}, "no policy 'best'"),
        ({"policy": "slackfit", "policy_options": "buckets=many"}, "buckets"),
        ({"supernet": "ofa_mobilenetv3"}, "ships no weights"),
        ({"plugins": "no_such_module"}, "cannot import the plugin"),
        ({"slots": 0}, "slots must be positive"),
        ({"prot": 80}, "'prot', which is no setting"),
    ],
)
def test_a_wrong_setting_is_one_clear_error(settings, message, cache):
    with pytest.raises(ConfigError, match=message):
        superserve.serve(**settings)
