"""What the server does with good requests, with their slots, and with clients that go away."""

import asyncio
import json
import threading
from dataclasses import replace

import httpx
import numpy as np
import pytest

from superserve.config import Config
from superserve.errors import ConfigError
from superserve.messages import Prediction
from superserve.server.run import listen
from tests.superserve.fakes import (
    CLASSIFY,
    PROFILES,
    FakeDispatcher,
    answer,
    call,
    make_app,
    model,
    png,
    smooth_jpeg,
)


def test_the_answer_has_exactly_the_documented_form():
    response = call(make_app(), "POST", "/v1/classify?top_k=2", content=png())
    assert response.status_code == 200
    assert response.json() == {
        "predictions": [
            {"label": "label-0", "index": 0, "score": 0.5},
            {"label": "label-1", "index": 1, "score": 0.25},
        ],
        "subnet": "large",
        "accuracy": 97.5,
        "deadline_met": True,
        "timing_ms": {"queue": 1.0, "inference": 2.0, "total": 4.5},
        "batch_size": 4,
        "model": "digits",
    }


def test_the_parameters_reach_the_dispatcher_in_seconds():
    dispatcher = FakeDispatcher(models={name: model(name) for name in PROFILES})
    url = "/v1/classify?slo_ms=36&top_k=3&min_accuracy=95.5&model=photos&priority=7"
    call(make_app(dispatcher), "POST", url, content=png())
    (query,) = dispatcher.submissions
    assert (
        query.slo, query.top_k, query.min_accuracy, query.model, query.priority,
    ) == (0.036, 3, 95.5, "photos", 7)  # fmt: skip


def test_what_is_not_given_comes_from_the_configuration():
    dispatcher = FakeDispatcher(models={name: model(name) for name in ("photos", "digits")})
    call(make_app(dispatcher, slo_ms=70, supernet="digits"), "POST", CLASSIFY, content=png())
    (query,) = dispatcher.submissions
    assert (
        query.slo, query.top_k, query.min_accuracy, query.model, query.priority,
    ) == (0.07, 5, 0.0, "digits", 0)  # fmt: skip


@pytest.mark.parametrize(
    ("query", "header", "slo"), [("", "20", 0.02), ("?slo_ms=30", "20", 0.03), ("", " 5e1 ", 0.05)]
)
def test_the_slo_may_come_in_a_header_and_the_query_is_stronger(query, header, slo):
    dispatcher = FakeDispatcher()
    headers = {"X-SLO-Ms": header}
    call(make_app(dispatcher), "POST", CLASSIFY + query, content=png(), headers=headers)
    assert slo == dispatcher.submissions[0].slo


def test_the_clock_runs_from_the_requests_head_and_not_from_its_end():
    now = [100.0]

    async def body():
        now[0] = 107.0
        yield png()

    dispatcher = FakeDispatcher(clock=lambda: now[0])
    call(make_app(dispatcher, max_slo_ms=90_000), "POST", "/v1/classify?slo_ms=9e4", content=body())
    assert dispatcher.submissions[0].arrival == 100.0


@pytest.mark.parametrize("size", [(8, 8), (300, 200)], ids=["on the loop", "in a thread"])
def test_the_pixels_reach_the_slot(size):
    dispatcher = FakeDispatcher()
    call(make_app(dispatcher), "POST", CLASSIFY, content=png(200, size))
    assert np.array_equal(dispatcher.submissions[0].pixels, np.full((8, 8, 1), 200))


def test_raw_pixels_reach_the_slot_as_they_are():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 1), np.uint8)
    dispatcher = FakeDispatcher()
    url = "/v1/classify?format=pixels"
    response = call(make_app(dispatcher), "POST", url, content=pixels.tobytes())

    assert response.status_code == 200
    assert np.array_equal(dispatcher.submissions[0].pixels, pixels)


@pytest.mark.parametrize("size", [63, 65])
def test_raw_pixels_of_another_size_are_refused_and_their_slot_is_free(size):
    dispatcher = FakeDispatcher()
    url = "/v1/classify?format=pixels"
    response = call(make_app(dispatcher), "POST", url, content=bytes(size))

    assert response.status_code == 400
    assert not dispatcher.reserved
    assert f"takes 8 x 8 x 1 bytes, row by row, not {size}" in response.json()["error"]


def test_an_unknown_form_of_image_is_refused_with_those_that_there_are():
    response = call(make_app(), "POST", "/v1/classify?format=tensor", content=png())

    assert response.status_code == 400
    assert "format must be one of file, pixels" in response.json()["error"]


@pytest.mark.parametrize("size", [(8, 8), (300, 200)], ids=["on the loop", "in a thread"])
def test_a_broken_image_gives_its_slot_back(size):
    dispatcher = FakeDispatcher()
    response = call(make_app(dispatcher), "POST", CLASSIFY, content=png(200, size)[:50])
    assert response.status_code == 400
    assert dispatcher.reserved == set()
    assert dispatcher.submissions == []


@pytest.mark.parametrize("late", ["drop", "serve"])
def test_an_image_whose_deadline_is_past_is_decoded_only_if_late_ones_are_served(late):
    times = iter([0.0])
    dispatcher = FakeDispatcher(clock=lambda: next(times, 50.0))
    call(make_app(dispatcher, late=late), "POST", CLASSIFY, content=png(200))
    assert (0 if late == "drop" else 200) == dispatcher.submissions[0].pixels.max()


def test_any_content_type_but_a_form_means_the_image_itself():
    """`curl --data-binary` says application/x-www-form-urlencoded."""
    for kind in ("application/x-www-form-urlencoded", "image/jpeg", "", "what/ever"):
        headers = {"Content-Type": kind}
        response = call(make_app(), "POST", CLASSIFY, content=smooth_jpeg(), headers=headers)
        assert response.status_code == 200


def test_one_file_in_a_form_is_answered_as_one_image():
    response = call(make_app(), "POST", CLASSIFY, files={"image": png()})
    assert response.json()["predictions"][0]["label"] == "label-0"


@pytest.mark.parametrize("size", [(8, 8), (300, 200)], ids=["on the loop", "in a thread"])
def test_the_files_of_a_form_are_answered_in_order(size):
    def brightness(submission):
        seen = Prediction(int(submission.pixels[0, 0, 0]), 1.0)
        return replace(answer(submission), predictions=(seen,))

    dispatcher = FakeDispatcher(slots=8, respond=brightness)
    files = [("image", (f"{i}", png(9 - i, size))) for i in range(8)]
    response = call(make_app(dispatcher), "POST", CLASSIFY, files=files)
    indices = [entry["predictions"][0]["index"] for entry in response.json()["results"]]
    assert indices == [9, 8, 7, 6, 5, 4, 3, 2]
    assert len({submission.arrival for submission in dispatcher.submissions}) == 1


def test_images_of_a_form_that_find_no_slot_fail_alone():
    dispatcher = FakeDispatcher(slots=2)
    response = call(make_app(dispatcher), "POST", CLASSIFY, files=[("i", ("f", png()))] * 3)
    codes = [entry.get("code") for entry in response.json()["results"]]
    assert response.status_code == 200
    assert codes == [None, None, "overloaded"]
    assert set() == dispatcher.reserved


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2:3", True), ("a" * 65, False), ("a b", False), ("ä", False), ("", False)],
)
def test_a_sane_request_id_is_kept_and_another_replaced(given, kept):
    headers = [(b"X-Request-Id", given.encode())]
    response = call(make_app(), "GET", "/nope", headers=headers)
    assert kept == (given == response.headers["x-request-id"])
    assert response.headers["x-request-id"] == response.json()["request_id"]


def test_models_are_described_with_their_subnets():
    (described,) = call(make_app(), "GET", "/v1/models").json()["models"]
    assert (
        described["name"], described["input"],
    ) == ("digits", {"height": 8, "width": 8, "channels": 1})  # fmt: skip
    assert described["subnets"][-1] == {
        "id": "large", "settings": "depth 2", "accuracy": 97.5, "latency_ms": {"1": 3.0, "4": 6.0}
    }  # fmt: skip


def test_models_are_described_with_what_their_memory_is_for():
    (described,) = call(make_app(), "GET", "/v1/models").json()["models"]
    assert described["resident_bytes"] == 1234
    assert described["memory"] == {
        "weights_bytes": 1000, "derived_bytes": 34, "norms_bytes": 200, "calibrated_subnets": 2
    }  # fmt: skip


def test_a_model_whose_memory_nobody_tells_is_described_all_the_same():
    dispatcher = FakeDispatcher(models={"digits": replace(model(), memory=None)})
    (described,) = call(make_app(dispatcher), "GET", "/v1/models").json()["models"]
    assert described["memory"] is None


def test_the_policy_can_be_changed_and_read_back():
    app = make_app()
    change = {"policy": "fixed", "options": {"subnet": "smallest"}}
    assert call(app, "PUT", "/v1/policy", json=change).json()["policy"] == "fixed"
    read = call(app, "GET", "/v1/policy").json()
    assert read["policy"] == "fixed"
    assert "slackfit" in read["available"]


def test_stats_tell_of_workers_policy_and_counters():
    stats = call(make_app(), "GET", "/v1/stats").json()
    assert stats["metrics"] == {"arrived": 3, "batch_sizes": {"1": 3}}
    assert stats["workers"] == [
        {"info": {"name": "w0", "device": "cpu", "device_type": "cpu", "models": ["digits"],
                  "kernels": {"digits": "compiled"}},
         "connected": True, "in_flight": 0, "losses": 0}
    ]  # fmt: skip
    assert (stats["policy"], stats["ready"], stats["in_flight"]) == ("slackfit", True, 0)


def test_live_is_not_ready():
    app = make_app(FakeDispatcher(ready=False))
    ready = call(app, "GET", "/health/ready")
    assert call(app, "GET", "/health/live").status_code == 200
    assert (ready.status_code, ready.json()["ready"]) == (503, False)
    assert "no worker" in ready.json()["error"]
    assert call(make_app(), "GET", "/health/ready").json() == {"ready": True}


def test_the_landing_page_links_to_pages_that_exist():
    app = make_app()
    for link in call(app, "GET", "/").json()["links"]:
        assert call(app, "GET", link).status_code == 200, link


def test_openapi_describes_every_route_and_resolves_every_reference():
    app = make_app()
    document = call(app, "GET", "/openapi.json").json()
    paths = {"/v1/classify", "/v1/models", "/v1/policy", "/v1/stats", "/health/live",
             "/health/ready"}  # fmt: skip
    assert paths == set(document["paths"])
    schemas = document["components"]["schemas"]
    references = {
        part.split('"')[0] for part in json.dumps(document).split("#/components/schemas/")
    }
    assert {r for r in references if not r.startswith("{")} <= set(schemas)


def test_openapis_example_has_the_fields_of_a_real_answer():
    app = make_app()
    document = call(app, "GET", "/openapi.json").json()
    content = document["paths"]["/v1/classify"]["post"]["responses"]["200"]["content"]
    example = content["application/json"]["examples"]["one image"]["value"]
    answer = call(app, "POST", CLASSIFY, content=png()).json()
    assert set(answer) == set(example)
    assert set(answer["timing_ms"]) == set(example["timing_ms"])
    assert set(answer["predictions"][0]) == set(example["predictions"][0])


def test_two_applications_share_nothing():
    """The admin routes are one object: they must find the dispatcher of the app that is asked."""
    first, second = FakeDispatcher(policy_name="one"), FakeDispatcher(policy_name="two")
    apps = [make_app(first), make_app(second)]
    assert [call(app, "GET", "/v1/policy").json()["policy"] for app in apps] == ["one", "two"]


def test_an_address_in_use_is_a_setting_to_change():
    with listen(Config(port=0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match="--port"):
            listen(Config(port=port))


def test_a_client_that_goes_away_while_decoding_frees_the_slot_afterwards():
    """The thread still writes into the slot: nobody else may have it before that ends."""
    dispatcher = FakeDispatcher()
    app = make_app(dispatcher)
    decoding, go_on = threading.Event(), threading.Event()
    clock = dispatcher.clock

    def slow_clock():
        # Only a decoder thread may wait: the first call is the request's arrival.
        if threading.current_thread().name.startswith("decode"):
            decoding.set()
            assert go_on.wait(10)
        return clock()

    dispatcher.clock = slow_clock

    async def scenario():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            request = asyncio.create_task(http.post(CLASSIFY, content=png(size=(99, 99))))
            await asyncio.to_thread(decoding.wait, 10)
            request.cancel()
            await asyncio.wait({request})
            taken = set(dispatcher.reserved)
            go_on.set()
            await asyncio.to_thread(dispatcher.freed.wait, 10)
            return taken

    assert len(asyncio.run(scenario())) == 1
    assert set() == dispatcher.reserved
    assert dispatcher.submissions == []
