"""Every error that a client can see, by blame: the client, the load, or the server.

Each carries an HTTP status, a short stable ``code`` for programs, and a message for people that
says what to do. Anything else that is raised is a bug: it is logged whole and answered as
`InternalError`, so that internals never leak.
"""

from typing import ClassVar


class SuperServeError(Exception):
    """The root; never raised itself."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        """``retry_after`` is in seconds and only set where trying again can help."""
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after


class ConfigError(SuperServeError):
    """The operator's: a setting, file or checkpoint is wrong. The command line prints it."""

    code = "bad_configuration"


class ClientError(SuperServeError):
    status = 400
    code = "bad_request"


class BadParameter(ClientError):
    code = "bad_parameter"


class BadImage(ClientError):
    code = "bad_image"


class UnsupportedImage(ClientError):
    status = 415
    code = "unsupported_image"


class UnsupportedEncoding(ClientError):
    """The body is compressed: images are already, and inflating is how small bodies become huge."""

    status = 415
    code = "unsupported_encoding"


class PayloadTooLarge(ClientError):
    status = 413
    code = "payload_too_large"


class ImageTooLarge(PayloadTooLarge):
    code = "image_too_large"


class RequestTimeout(ClientError):
    """The body did not arrive in time."""

    status = 408
    code = "request_timeout"


class Forbidden(ClientError):
    """Only somebody on the server's own machine may do this."""

    status = 403
    code = "forbidden"


class NotFound(ClientError):
    status = 404
    code = "not_found"


class MethodNotAllowed(ClientError):
    status = 405
    code = "method_not_allowed"


class Overloaded(SuperServeError):
    """The load's: the same request may succeed later."""

    status = 503
    code = "overloaded"


class Shed(Overloaded):
    """The policy gave this query up, or refused it at arrival, so that others meet deadlines."""

    code = "shed"


class NotReady(Overloaded):
    """No worker is up yet, or the server is shutting down."""

    code = "not_ready"


class DeadlineExceeded(SuperServeError):
    """No answer was possible by the deadline."""

    status = 504
    code = "deadline_exceeded"


class InternalError(SuperServeError):
    status = 500
    code = "internal_error"


class WorkerLost(InternalError):
    """The worker died with this query, and a second one too, or no time was left to retry."""

    status = 503
    code = "worker_lost"


class Unreachable(SuperServeError):
    """The client's own: nobody answered as this server does."""

    code = "unreachable"
