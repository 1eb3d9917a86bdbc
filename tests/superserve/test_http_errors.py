"""Every way in which a request can be wrong, with the one JSON form of the answer."""

import pytest

from superserve import errors
from superserve.messages import ModelInfo
from tests.superserve.fakes import (
    CLASSIFY,
    PROFILES,
    FakeDispatcher,
    call,
    failing,
    make_app,
    model,
    png,
    smooth_jpeg,
)

GOOD = png()


def two_models() -> dict[str, ModelInfo]:
    return {name: model(name) for name in PROFILES}


# method, url, content, status, code, what the message says
TABLE = [
    ("GET", "/nope", {}, 404, "not_found", "nothing at this path"),
    ("GET", "/v1/classify/", {}, 404, "not_found", "nothing at this path"),
    ("GET", CLASSIFY, {}, 405, "method_not_allowed", "GET is not possible"),
    ("DELETE", "/v1/policy", {}, 405, "method_not_allowed", "DELETE"),
    ("POST", "/v1/classify?sloms=3", {"content": GOOD}, 400, "bad_parameter", "slo_ms, top_k"),
    ("POST", "/v1/classify?slo_ms=1&slo_ms=2", {"content": GOOD}, 400, "bad_parameter", "twice"),
    ("POST", "/v1/classify?slo_ms=nan", {"content": GOOD}, 400, "bad_parameter", "above 0"),
    ("POST", "/v1/classify?slo_ms=inf", {"content": GOOD}, 400, "bad_parameter", "above 0"),
    ("POST", "/v1/classify?slo_ms=1e999", {"content": GOOD}, 400, "bad_parameter", "above 0"),
    ("POST", "/v1/classify?slo_ms=0", {"content": GOOD}, 400, "bad_parameter", "above 0"),
    ("POST", "/v1/classify?slo_ms=-5", {"content": GOOD}, 400, "bad_parameter", "above 0"),
    ("POST", "/v1/classify?slo_ms=fast", {"content": GOOD}, 400, "bad_parameter", "'fast'"),
    ("POST", "/v1/classify?slo_ms=", {"content": GOOD}, 400, "bad_parameter", "above 0"),
    ("POST", "/v1/classify?slo_ms=1_000", {"content": GOOD}, 400, "bad_parameter", "above 0"),
    ("POST", "/v1/classify?slo_ms=60001", {"content": GOOD}, 400, "bad_parameter", "most 60000"),
    ("POST", "/v1/classify?slo_ms=%D9%A3", {"content": GOOD}, 400, "bad_parameter", "above 0"),
    ("POST", "/v1/classify?slo_ms=%00", {"content": GOOD}, 400, "bad_parameter", "above 0"),
    ("POST", "/v1/classify?top_k=0", {"content": GOOD}, 400, "bad_parameter", "from 1 to 10"),
    ("POST", "/v1/classify?top_k=11", {"content": GOOD}, 400, "bad_parameter", "from 1 to 10"),
    ("POST", "/v1/classify?top_k=1.5", {"content": GOOD}, 400, "bad_parameter", "whole number"),
    ("POST", "/v1/classify?top_k=nan", {"content": GOOD}, 400, "bad_parameter", "from 1 to 10"),
    ("POST", "/v1/classify?top_k=9e99", {"content": GOOD}, 400, "bad_parameter", "from 1 to 10"),
    ("POST", "/v1/classify?priority=-1", {"content": GOOD}, 400, "bad_parameter", "0 to 100"),
    ("POST", "/v1/classify?priority=high", {"content": GOOD}, 400, "bad_parameter", "0 to 100"),
    ("POST", "/v1/classify?min_accuracy=97.6", {"content": GOOD}, 400, "bad_parameter", "97.5"),
    ("POST", "/v1/classify?min_accuracy=-1", {"content": GOOD}, 400, "bad_parameter", "from 0"),
    ("POST", "/v1/classify?min_accuracy=nan", {"content": GOOD}, 400, "bad_parameter", "from 0"),
    ("POST", "/v1/classify?model=x", {"content": GOOD}, 404, "not_found", "digits, photos"),
    ("POST", "/v1/classify?model=", {"content": GOOD}, 404, "not_found", "digits, photos"),
    ("POST", "/v1/classify?model=..%2f..%2fetc", {"content": GOOD}, 404, "not_found", "digits"),
    (
        "POST", CLASSIFY, {"content": GOOD, "headers": {"X-SLO-Ms": "soon"}},
        400, "bad_parameter", "X-SLO-Ms must be",
    ),
    ("POST", CLASSIFY, {}, 400, "bad_image", "empty"),
    ("POST", CLASSIFY, {"content": GOOD[:40]}, 400, "bad_image", "send the whole file"),
    ("POST", CLASSIFY, {"content": smooth_jpeg()[:-9]}, 400, "bad_image", "send the whole file"),
    ("POST", CLASSIFY, {"content": b"GIF89a"}, 415, "unsupported_image", "JPEG, PNG or WebP"),
    ("POST", CLASSIFY, {"json": {"image": "aGk="}}, 415, "unsupported_image", "send the bytes"),
    (
        "POST", CLASSIFY, {"content": GOOD, "headers": {"Content-Encoding": "gzip"}},
        415, "unsupported_encoding", "gzip",
    ),
    ("POST", CLASSIFY, {"content": png(size=(40, 30))}, 413, "image_too_large", "40 x 30"),
    ("POST", CLASSIFY, {"content": bytes(3000)}, 413, "payload_too_large", "2000 bytes"),
    ("POST", CLASSIFY, {"files": [("i", ("f", GOOD))] * 4}, 413, "payload_too_large", "than 3"),
    ("POST", CLASSIFY, {"files": {"slo_ms": (None, b"5")}}, 400, "bad_parameter", "query string"),
    (
        "POST", CLASSIFY,
        {"content": b"--x\r\noops", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        400, "bad_request", "form is",
    ),
    (
        "POST", CLASSIFY,
        {"content": b"--x--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        400, "bad_request", "form is",
    ),
    (
        "POST", CLASSIFY, {"content": GOOD, "headers": {"Content-Type": "multipart/form-data"}},
        400, "bad_request", "form is",
    ),
    ("PUT", "/v1/policy", {"content": b"{"}, 400, "bad_parameter", "not JSON"),
    ("PUT", "/v1/policy", {"json": ["slackfit"]}, 400, "bad_parameter", "must be like"),
    ("PUT", "/v1/policy", {"json": {"name": "slackfit"}}, 400, "bad_parameter", "must be like"),
    ("PUT", "/v1/policy", {"json": {"policy": "fifo"}}, 400, "bad_parameter", "slackfit"),
    ("PUT", "/v1/policy", {"json": {"policy": 7}}, 400, "bad_parameter", "slackfit"),
    ("PUT", "/v1/policy", {"json": {"policy": "os:system"}}, 400, "bad_parameter", "slackfit"),
    (
        "PUT", "/v1/policy", {"json": {"policy": "fixed", "options": {"subnet": "x"}}},
        400, "bad_parameter", "refuses these options",
    ),
    (
        "PUT", "/v1/policy", {"json": {"policy": "fixed", "options": {"speed": 1}}},
        400, "bad_parameter", "speed",
    ),
    (
        "PUT", "/v1/policy", {"json": {"policy": "fixed", "options": [1]}},
        400, "bad_parameter", "object",
    ),
    ("PUT", "/v1/policy", {"content": bytes(3000)}, 413, "payload_too_large", "2000 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "url", "content", "status", "code", "says"), TABLE)
def test_a_wrong_request_is_told_what_to_do(method, url, content, status, code, says):
    dispatcher = FakeDispatcher(models=two_models())
    app = make_app(dispatcher, max_body_bytes=2000, max_pixels=1000, max_images=3)
    response = call(app, method, url, **content)
    body = response.json()
    assert (status, code) == (response.status_code, body["code"])
    assert says in body["error"]
    assert {"error", "code", "request_id"} == set(body)
    assert body["request_id"] == response.headers["x-request-id"]
    assert "retry-after" not in response.headers
    assert dispatcher.reserved == set()
    assert dispatcher.submissions == []


# what the dispatcher raises, status, code, Retry-After
OUTCOMES = [
    (errors.DeadlineExceeded("too late; allow more"), 504, "deadline_exceeded", None),
    (errors.Shed("given up; ask again", retry_after=0.3), 503, "shed", "1"),
    (errors.Overloaded("full; ask again", retry_after=2.01), 503, "overloaded", "3"),
    (errors.NotReady("no worker; ask again"), 503, "not_ready", "1"),
    (errors.WorkerLost("two workers died; ask again"), 503, "worker_lost", "1"),
    (errors.InternalError("at /secret/path"), 500, "internal_error", None),
    (RuntimeError("at /secret/path"), 500, "internal_error", None),
    (KeyError("secret"), 500, "internal_error", None),
]


@pytest.mark.parametrize(("error", "status", "code", "retry_after"), OUTCOMES)
@pytest.mark.parametrize("images", [1, 2])
def test_what_the_dispatcher_raises_becomes_its_status(error, status, code, retry_after, images):
    """Also where all of several images fail: the first error decides."""
    app = make_app(failing(error))
    content = {"content": GOOD} if images == 1 else {"files": [("i", ("f", GOOD))] * 2}
    response = call(app, "POST", CLASSIFY, **content)
    body = response.json()
    assert (status, code) == (response.status_code, body["code"])
    assert retry_after == response.headers.get("retry-after")
    assert ("retry_after_s" in body) == (status == 503)
    assert "secret" not in response.text
    assert "Traceback" not in response.text


def test_a_bug_is_logged_whole_under_the_request_id(caplog):
    app = make_app(failing(RuntimeError("at /secret/path")))
    response = call(app, "POST", CLASSIFY, content=GOOD)
    assert "at /secret/path" in caplog.text
    assert response.json()["request_id"] in caplog.text


def test_what_the_log_must_know_of_a_failed_batch_is_in_the_log(caplog):
    """The client is told nothing of it, so it would be lost otherwise."""
    app = make_app(failing(errors.InternalError("at /secret/path")))
    response = call(app, "POST", CLASSIFY, content=GOOD)
    assert "at /secret/path" in caplog.text
    assert response.json()["request_id"] in caplog.text


def test_without_a_free_slot_nothing_is_decoded():
    app = make_app(FakeDispatcher(slots=0))
    response = call(app, "POST", CLASSIFY, content=b"not even an image")
    assert (response.status_code, response.json()["code"]) == (503, "overloaded")
    assert response.headers["retry-after"] == "3"
    assert response.json()["retry_after_s"] == 2.4


def test_before_a_worker_brought_a_model_the_server_is_not_ready():
    app = make_app(FakeDispatcher(models={}, ready=False))
    response = call(app, "POST", CLASSIFY, content=GOOD)
    assert (response.status_code, response.json()["code"]) == (503, "not_ready")
    assert response.headers["retry-after"] == "1"


def test_uploads_beyond_the_memory_for_all_of_them_are_refused():
    app = make_app(max_body_bytes=1000, max_upload_bytes=1000)
    app.state.front_end.bodies.held = 990
    response = call(app, "POST", CLASSIFY, content=GOOD)
    assert (response.status_code, response.json()["code"]) == (503, "overloaded")
    assert app.state.front_end.bodies.held == 990


@pytest.mark.parametrize("client", ["10.0.0.7", "2001:db8::1", "::ffff:10.0.0.7", "testclient"])
def test_only_this_machine_changes_the_policy(client):
    response = call(make_app(), "PUT", "/v1/policy", json={"policy": "maxacc"}, client=client)
    assert (response.status_code, response.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"])
def test_whoever_comes_through_a_proxy_is_not_this_machine(header):
    app = make_app()
    content = {"json": {"policy": "maxacc"}, "headers": {header: "127.0.0.1"}}
    assert call(app, "PUT", "/v1/policy", **content).status_code == 403


def test_fastapis_own_complaints_have_the_same_form():
    app = make_app()

    @app.get("/number")
    async def number(n: int) -> int:
        return n

    response = call(app, "GET", "/number?n=x")
    assert response.status_code == 422
    assert {"error", "code", "request_id"} == set(response.json())
    assert "n" in response.json()["error"]


def test_a_refused_body_ends_the_connection():
    """What is left of it on the wire would be read as the next request."""
    response = call(make_app(max_body_bytes=10), "POST", CLASSIFY, content=GOOD)
    assert response.headers["connection"] == "close"
    response = call(make_app(), "POST", CLASSIFY, content=b"no image")
    assert "connection" not in response.headers


def test_several_images_where_one_fails_are_a_success():
    broken = GOOD[: len(GOOD) // 2]
    app = make_app()
    files = [("i", ("a", GOOD)), ("i", ("b", broken)), ("i", ("c", b"what"))]
    response = call(app, "POST", CLASSIFY, files=files)
    first, second, third = response.json()["results"]
    assert response.status_code == 200
    assert first["predictions"][0]["label"] == "label-0"
    assert (second["status"], second["code"]) == (400, "bad_image")
    assert (third["status"], third["code"]) == (415, "unsupported_image")
