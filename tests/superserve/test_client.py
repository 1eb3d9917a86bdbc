"""Both clients against the real application; what is true of one is true of the other."""

import asyncio
import socket

import httpx
import pytest

from superserve import errors
from superserve.api import Classification, InputSize, LabelScore, Timing
from superserve.client import AsyncClient, Client
from tests.superserve.fakes import (
    PROFILES,
    FakeDispatcher,
    failing,
    live,
    make_app,
    model,
    png,
)

ANSWER = Classification(
    predictions=(LabelScore("label-0", 0, 0.5), LabelScore("label-1", 1, 0.25)),
    subnet="large",
    accuracy=97.5,
    deadline_met=True,
    timing_ms=Timing(1.0, 2.0, 4.5),
    batch_size=4,
    model="digits",
)


class BridgedTransport(httpx.BaseTransport):
    """Lets the blocking client talk to the application without a socket."""

    def __init__(self, app):
        self._inner = httpx.ASGITransport(app, raise_app_exceptions=False)

    def handle_request(self, request):
        async def send():
            response = await self._inner.handle_async_request(
                httpx.Request(request.method, request.url, headers=request.headers, content=body)
            )
            return response, await response.aread()

        body = request.read()
        response, content = asyncio.run(send())
        return httpx.Response(response.status_code, headers=response.headers, content=content)


def blocking(app, use):
    with Client("http://test", transport=BridgedTransport(app)) as client:
        return use(client)


def awaiting(app, use):
    async def run():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with AsyncClient("http://test", transport=transport) as client:
            return await use(client)

    return asyncio.run(run())


@pytest.fixture(params=[blocking, awaiting], ids=["Client", "AsyncClient"])
def with_client(request):
    """A function of an application and of what to do with a client of it."""
    return request.param


def test_one_image_becomes_one_record(with_client):
    assert with_client(make_app(), lambda c: c.classify(png(), top_k=2)) == ANSWER
    assert ANSWER.label == "label-0"


def test_a_path_is_read_for_the_caller(with_client, tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(png())
    for image in (path, str(path)):
        assert with_client(make_app(), lambda c, i=image: c.classify(i, top_k=2)) == ANSWER


def test_a_path_to_nothing_is_an_ordinary_error(with_client):
    with pytest.raises(FileNotFoundError):
        with_client(make_app(), lambda c: c.classify("/no/such/image"))


def test_parameters_arrive_and_none_means_the_servers_default(with_client):
    dispatcher = FakeDispatcher(models={name: model(name) for name in PROFILES})
    with_client(
        make_app(dispatcher, slo_ms=77),
        lambda c: c.classify(
            png(), slo_ms=None, top_k=3, min_accuracy=95.5, model="photos", priority=2
        ),
    )
    (query,) = dispatcher.submissions
    assert (
        query.slo, query.top_k, query.min_accuracy, query.model, query.priority,
    ) == (0.077, 3, 95.5, "photos", 2)  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_list_is_answered_by_a_list(with_client, count):
    answers = with_client(make_app(), lambda c: c.classify([png()] * count, top_k=2))
    assert [ANSWER] * count == answers


def test_no_images_need_no_server(with_client):
    assert with_client(None, lambda c: c.classify([])) == []


@pytest.mark.parametrize("images", [[b"what"], [png(), b"what"], [b"what", b"what"]])
def test_an_image_that_fails_in_a_list_is_its_exception_there(with_client, images):
    answers = with_client(make_app(), lambda c: c.classify(images, top_k=2))
    assert len(images) == len(answers)
    for image, answer in zip(images, answers, strict=True):
        if image == b"what":
            assert isinstance(answer, errors.UnsupportedImage)
        else:
            assert answer == ANSWER


@pytest.mark.parametrize("images", [[png()], [png(), png()]])
def test_a_list_that_is_refused_as_a_whole_raises(with_client, images):
    with pytest.raises(errors.BadParameter, match="slo_ms"):
        with_client(make_app(), lambda c: c.classify(images, slo_ms=-1))


RAISED = [
    errors.DeadlineExceeded("too late"),
    errors.Shed("given up", retry_after=0.3),
    errors.Overloaded("full", retry_after=2.01),
    errors.NotReady("starting", retry_after=1.0),
    errors.WorkerLost("died", retry_after=1.5),
    errors.BadImage("broken"),
    errors.NotFound("no model"),
]


@pytest.mark.parametrize("error", RAISED, ids=[type(e).__name__ for e in RAISED])
def test_the_servers_exception_is_raised_again_as_the_same_class(with_client, error):
    with pytest.raises(type(error)) as caught:
        with_client(make_app(failing(error)), lambda c: c.classify(png()))
    assert type(error) is type(caught.value)
    assert (error.message, error.retry_after) == (caught.value.message, caught.value.retry_after)
    assert caught.value.__notes__[0].startswith("request id: ")


def answering(status, **content):
    """An application that says the same to everything."""

    async def app(scope, receive, send):
        response = httpx.Response(status, **content)
        headers = [(k.encode(), v.encode()) for k, v in response.headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": response.content})

    return app


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (429, errors.ClientError),
        (503, errors.Overloaded),
        (504, errors.DeadlineExceeded),
        (502, errors.InternalError),
    ],
)
def test_a_code_of_a_newer_server_is_understood_by_its_status(with_client, status, kind):
    app = answering(status, json={"error": "news", "code": "brand_new"})
    with pytest.raises(kind, match="news"):
        with_client(app, lambda c: c.classify(png()))


def test_fields_of_a_newer_server_are_passed_over(with_client):
    fields = {"predictions": [], "subnet": "s", "accuracy": 1.0, "deadline_met": True,
              "timing_ms": {"queue": 1.0, "inference": 2.0, "total": 3.0, "decode": 4.0},
              "batch_size": 1, "model": "m", "news": 7}  # fmt: skip
    answer = with_client(answering(200, json=fields), lambda c: c.classify(png()))
    assert (answer.subnet, answer.predictions) == ("s", ())


@pytest.mark.parametrize("status", [200, 502])
def test_somebody_elses_server_is_told_apart(with_client, status):
    app = answering(status, text="<html>nginx</html>")
    with pytest.raises(errors.Unreachable, match=str(status)):
        with_client(app, lambda c: c.classify(png()))


def test_models_are_records(with_client):
    (described,) = with_client(make_app(), lambda c: c.models())
    assert ("digits", InputSize(8, 8, 1)) == (described.name, described.input)
    assert described.subnets[-1].latency_ms == {1: 3.0, 4: 6.0}
    assert described.memory == model().memory


def test_the_policy_is_changed_with_its_options(with_client):
    app = make_app()
    changed = with_client(app, lambda c: c.set_policy("fixed", subnet="smallest"))
    assert "fixed" == changed.policy == with_client(app, lambda c: c.policy()).policy
    with pytest.raises(errors.BadParameter, match="refuses"):
        with_client(app, lambda c: c.set_policy("fixed", subnet="none of them"))


@pytest.mark.parametrize("ready", [True, False])
def test_ready_is_a_plain_answer(with_client, ready):
    assert ready is with_client(make_app(FakeDispatcher(ready=ready)), lambda c: c.ready())


def test_over_a_socket_the_clients_answer_the_same():
    async def ask(url):
        async with AsyncClient(url) as client:
            return await client.classify([png(), png()], top_k=2)

    with live() as server, Client(server.url) as client:
        assert client.classify([png(), png()], top_k=2) == [ANSWER, ANSWER]
        assert asyncio.run(ask(server.url)) == [ANSWER, ANSWER]


def test_a_server_that_is_not_there_is_unreachable_and_not_ready():
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"

    async def ask():
        async with AsyncClient(url) as client:
            assert not await client.ready()
            await client.models()

    with Client(url) as client:
        assert not client.ready()
        with pytest.raises(errors.Unreachable, match="is the server running"):
            client.classify(png())
    with pytest.raises(errors.Unreachable, match="is the server running"):
        asyncio.run(ask())


def test_every_code_of_an_error_belongs_to_one_class():
    """The client finds the class by the code."""

    def below(kind):
        return [kind, *(k for child in kind.__subclasses__() for k in below(child))]

    codes = [kind.code for kind in below(errors.SuperServeError)]
    assert len(codes) == len(set(codes))
