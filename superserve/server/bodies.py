"""Reading request bodies within limits: of size, of time, and of memory for all together."""

import asyncio

import python_multipart
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from superserve.config import Config
from superserve.errors import (
    BadParameter,
    ClientError,
    Overloaded,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedEncoding,
)
from superserve.server.responses import BODY_READ

# Between pieces of this size other requests have their turn: parsing is Python and may be slow.
_PIECE = 1 << 18


class Bodies:
    """The bodies that are in memory now."""

    __slots__ = ("_config", "held")

    def __init__(self, config: Config) -> None:
        self._config = config
        self.held = 0  # bytes

    def __repr__(self) -> str:
        return f"<Bodies {self.held} of {self._config.max_upload_bytes} bytes>"

    async def read(self, request: Request) -> bytes:
        """The whole body, which counts as held until `release`.

        Raises `PayloadTooLarge`, `RequestTimeout`, `UnsupportedEncoding`, `Overloaded`, or
        `ClientDisconnect` when the client went away half way.
        """
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity":
            raise UnsupportedEncoding(
                f"Content-Encoding {encoding[:40]!r} is not read here: send the image as it is"
            )
        self._check_announced(request.headers.get("content-length", "0"))
        body = bytearray()
        try:
            async with asyncio.timeout(self._config.body_timeout_s):
                await self._collect(request, body)
        except BaseException as error:
            self.held -= len(body)
            if not isinstance(error, TimeoutError):
                raise
            raise RequestTimeout(
                f"the body did not arrive within {self._config.body_timeout_s:g} s; send it faster"
            ) from None
        request.scope[BODY_READ] = True
        return bytes(body)

    def release(self, body: bytes) -> None:
        self.held -= len(body)

    def _check_announced(self, length: str) -> None:
        if not (length.isascii() and length.isdigit() and len(length) < 20):
            raise ClientError("the Content-Length is not a number")
        if int(length) > self._config.max_body_bytes:
            raise self._too_large()

    async def _collect(self, request: Request, body: bytearray) -> None:
        more = True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) + len(chunk) > self._config.max_body_bytes:
                raise self._too_large()
            if self.held + len(chunk) > self._config.max_upload_bytes:
                raise Overloaded("too much is being uploaded at once; ask again")
            self.held += len(chunk)
            body += chunk

    def _too_large(self) -> PayloadTooLarge:
        limit = self._config.max_body_bytes
        return PayloadTooLarge(
            f"the body is above the limit of {limit} bytes; send a smaller image"
        )


async def split(content_type: str, body: bytes, max_images: int) -> list[bytes]:
    """The images of a body: the parts of multipart/form-data, or else the body itself.

    Raises `ClientError` for a broken form, `BadParameter` for a part that is no file and
    `PayloadTooLarge` for more than ``max_images`` parts.
    """
    kind, options = parse_options_header(content_type)
    if kind.lower() != b"multipart/form-data":
        return [body]
    form = _Form(max_images)
    try:
        boundary = options[b"boundary"]
        parser = python_multipart.MultipartParser(
            boundary,
            {
                "on_part_begin": form.part_begin,
                "on_header_field": form.header_field,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_headers_finished": form.headers_finished,
                "on_part_data": form.part_data,
                "on_end": form.end,
            },
        )
        for start in range(0, len(body), _PIECE):
            parser.write(body[start : start + _PIECE])
            await asyncio.sleep(0)
        parser.finalize()
    except (FormParserError, KeyError) as error:
        raise ClientError("the multipart form is broken; send the image as the body") from error
    if not form.finished or not form.parts:
        raise ClientError("the multipart form is empty or cut off; send the image as the body")
    return [bytes(part) for part in form.parts]


class _Form:
    """Collects the files of a form from the parser's callbacks, in order."""

    def __init__(self, max_images: int) -> None:
        self.parts: list[bytearray] = []
        self.finished = False
        self._max_images = max_images
        self._name = b""
        self._value = b""
        self._disposition = b""

    def part_begin(self) -> None:
        if len(self.parts) == self._max_images:
            raise PayloadTooLarge(
                f"more than {self._max_images} images in one request; send several requests"
            )
        self.parts.append(bytearray())
        self._disposition = b""

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"filename" not in options:
            name = options.get(b"name", b"").decode("utf-8", "replace")[:40]
            raise BadParameter(
                f"the form's field {name!r} is no file: parameters belong into the query string"
            )

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1] += data[start:end]

    def end(self) -> None:
        self.finished = True
