"""A typed client of the HTTP API, in a blocking and an asynchronous form."""

import asyncio
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack, overload

import httpx

from superserve.api import Classification, ModelDescription, PolicyDescription
from superserve.errors import SuperServeError, Unreachable
from superserve.replies import (
    read_classification,
    read_classifications,
    read_health,
    read_models,
    read_policy,
)

Image = bytes | str | PathLike[str]  # the bytes of an image file, or the path to one
Outcome = Classification | SuperServeError

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT = 30.0  # seconds, of one exchange; an SLO is the server's business


class Parameters(TypedDict, total=False):
    """Of a classification; what is missing or None is left to the server."""

    slo_ms: float | None
    top_k: int | None
    min_accuracy: float | None  # percent
    model: str | None
    priority: int | None


class Client:
    """Talks to one server; use it as a context manager, or `close` it.

    Every method raises the exception of `superserve.errors` that the server answered with (its
    ``retry_after`` is in seconds), or `Unreachable` if nobody answers.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(base_url=url, timeout=timeout, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    @overload
    def classify(  # type: ignore[overload-overlap]  # text is a sequence, too: of no paths
        self, image: Image, **parameters: Unpack[Parameters]
    ) -> Classification: ...

    @overload
    def classify(
        self, image: Sequence[Image], **parameters: Unpack[Parameters]
    ) -> list[Outcome]: ...

    def classify(
        self, image: Image | Sequence[Image], **parameters: Unpack[Parameters]
    ) -> Classification | list[Outcome]:
        """Classify one image, or several in one request, each of them a query of its own.

        For several, the answers come in order, with the exception of an image that failed in its
        place.
        """
        if isinstance(image, bytes | str | PathLike):
            return read_classification(self._classify(parameters, {"content": _read(image)}))
        images = [_read(one) for one in image]
        if not images:
            return []
        return read_classifications(self._classify(parameters, _form(images)), len(images))

    def models(self) -> tuple[ModelDescription, ...]:
        return read_models(self._send("GET", "/v1/models"))

    def ready(self) -> bool:
        """Whether the server welcomes requests; False, too, if nobody answers."""
        try:
            return read_health(self._send("GET", "/health/ready"))
        except Unreachable:
            return False

    def policy(self) -> PolicyDescription:
        return read_policy(self._send("GET", "/v1/policy"))

    def set_policy(self, policy: str, **options: Any) -> PolicyDescription:
        """Change the policy; only from the server's own machine."""
        body = {"policy": policy, "options": options}
        return read_policy(self._send("PUT", "/v1/policy", json=body))

    def _classify(self, parameters: Parameters, content: dict[str, Any]) -> httpx.Response:
        return self._send("POST", "/v1/classify", params=_given(parameters), **content)

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **content)
        except httpx.TransportError as error:
            raise _unreachable(self._http.base_url, error) from None


class AsyncClient:
    """`Client` with awaitable methods; use it as an asynchronous context manager."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=timeout, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    @overload
    async def classify(  # type: ignore[overload-overlap]  # text is a sequence, too: of no paths
        self, image: Image, **parameters: Unpack[Parameters]
    ) -> Classification: ...

    @overload
    async def classify(
        self, image: Sequence[Image], **parameters: Unpack[Parameters]
    ) -> list[Outcome]: ...

    async def classify(
        self, image: Image | Sequence[Image], **parameters: Unpack[Parameters]
    ) -> Classification | list[Outcome]:
        """See `Client.classify`."""
        if isinstance(image, bytes | str | PathLike):
            data = await _read_in_thread(image)
            return read_classification(await self._classify(parameters, {"content": data}))
        images = [await _read_in_thread(one) for one in image]
        if not images:
            return []
        return read_classifications(await self._classify(parameters, _form(images)), len(images))

    async def models(self) -> tuple[ModelDescription, ...]:
        return read_models(await self._send("GET", "/v1/models"))

    async def ready(self) -> bool:
        """See `Client.ready`."""
        try:
            return read_health(await self._send("GET", "/health/ready"))
        except Unreachable:
            return False

    async def policy(self) -> PolicyDescription:
        return read_policy(await self._send("GET", "/v1/policy"))

    async def set_policy(self, policy: str, **options: Any) -> PolicyDescription:
        """See `Client.set_policy`."""
        body = {"policy": policy, "options": options}
        return read_policy(await self._send("PUT", "/v1/policy", json=body))

    async def _classify(self, parameters: Parameters, content: dict[str, Any]) -> httpx.Response:
        return await self._send("POST", "/v1/classify", params=_given(parameters), **content)

    async def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            return await self._http.request(method, path, **content)
        except httpx.TransportError as error:
            raise _unreachable(self._http.base_url, error) from None


def _given(parameters: Parameters) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def _read(image: Image) -> bytes:
    return image if isinstance(image, bytes) else Path(image).read_bytes()


async def _read_in_thread(image: Image) -> bytes:
    return image if isinstance(image, bytes) else await asyncio.to_thread(_read, image)


def _form(images: Sequence[bytes]) -> dict[str, Any]:
    return {"files": [("image", (f"{i}", image)) for i, image in enumerate(images)]}


def _unreachable(url: httpx.URL, error: httpx.TransportError) -> Unreachable:
    why = str(error) or type(error).__name__
    return Unreachable(f"no answer from {url}: {why}; is the server running?")
