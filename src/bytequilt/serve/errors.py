"""What can go wrong with a request, in the form that OpenAI's clients read."""

from typing import Any, ClassVar

from ..config.base import shorten


class ApiError(Exception):
    """Base of all errors that a client sees. Its message names no path and shows no traceback."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message, self.param, self.retry_after = message, param, retry_after

    def body(self) -> dict[str, Any]:
        """The JSON of the answer, or of the last event of a stream."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """`x-should-retry` stops OpenAI's client from repeating what would take as long again."""
        retry = {"Retry-After": str(self.retry_after)} if self.retry_after is not None else {}
        return retry | {"x-should-retry": "true" if retry else "false"}


class BadRequest(ApiError):
    """The request cannot be done as it is asked for."""

    status, type, code = 400, "invalid_request_error", "invalid_request"


class Unauthorized(ApiError):
    status, type, code = 401, "authentication_error", "invalid_api_key"

    def headers(self) -> dict[str, str]:
        return super().headers() | {"WWW-Authenticate": "Bearer"}


class NotFound(ApiError):
    status, type, code = 404, "invalid_request_error", "not_found"


class Expired(ApiError):
    """A text that did not come to its end within its time."""

    status, type, code = 408, "timeout_error", "deadline_exceeded"


class TooLarge(ApiError):
    status, type, code = 413, "invalid_request_error", "request_too_large"


class Invalid(ApiError):
    """A field of the wrong type, out of range, or unknown."""

    status, type, code = 422, "invalid_request_error", "invalid_field"


class Overloaded(ApiError):
    """No room at present, for anybody or for this key."""

    status, type, code = 429, "rate_limit_error", "overloaded"


class NoMethod(ApiError):
    status, type, code = 405, "invalid_request_error", "method_not_allowed"


class TextFailed(ApiError):
    """One text failed; the others go on."""

    status, type, code = 500, "server_error", "text_failed"


class TooSlow(ApiError):
    """The client did not read what was sent to it."""

    status, type, code = 500, "server_error", "reader_too_slow"


class Unavailable(ApiError):
    """The server is about to end, or its engine has failed."""

    status, type, code = 503, "server_error", "unavailable"


WORDS = {404: "there is nothing here", 405: "this address takes other methods", 413: "the request is too long"}
KINDS: dict[int, type[ApiError]] = {kind.status: kind for kind in (BadRequest, NotFound, NoMethod, Expired, TooLarge)}


def refusal(status: int, text: str) -> ApiError:
    """An error for what a library refuses with some status and text."""
    kind = KINDS.get(status, BadRequest if status < 500 else ApiError)
    return kind(WORDS.get(status) or shorten(text) or "the request cannot be done")
