"""Errors of requests, in the form that OpenAI's clients expect."""

from collections.abc import Mapping
from typing import Any, ClassVar

from fastapi.responses import JSONResponse

from ..config.base import shorten


class ApiError(Exception):
    """Base class of all errors that clients see. The message contains no path and no traceback."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message, self.param, self.retry_after = message, param, retry_after

    def body(self) -> dict[str, Any]:
        """The JSON body of the answer, or the data of the last event of a stream."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """HTTP headers. `x-should-retry` stops OpenAI's client from repeating what would take as long again."""
        retry = {"Retry-After": str(self.retry_after)} if self.retry_after is not None else {}
        return retry | {"x-should-retry": "true" if retry else "false"}

    def answer(self, status: int | None = None, headers: Mapping[str, str] | None = None) -> JSONResponse:
        """The whole answer. A library's own status and headers may be kept."""
        return JSONResponse(self.body(), status or self.status, {**(headers or {}), **self.headers()})


class BadRequest(ApiError):
    """The request cannot be carried out as it is."""

    status, type, code = 400, "invalid_request_error", "invalid_request"


class Unauthorized(ApiError):
    status, type, code = 401, "authentication_error", "invalid_api_key"

    def headers(self) -> dict[str, str]:
        return super().headers() | {"WWW-Authenticate": "Bearer"}


class NotFound(ApiError):
    status, type, code = 404, "invalid_request_error", "not_found"


class Expired(ApiError):
    """A text or request was not finished before its deadline."""

    status, type, code = 408, "timeout_error", "deadline_exceeded"


class TooLarge(ApiError):
    status, type, code = 413, "invalid_request_error", "request_too_large"


class Invalid(ApiError):
    """A field of the wrong type, out of range, or unknown."""

    status, type, code = 422, "invalid_request_error", "invalid_field"


class Overloaded(ApiError):
    """No capacity now: the server is full, or this key has made too many requests."""

    status, type, code = 429, "rate_limit_error", "overloaded"


class NoMethod(ApiError):
    status, type, code = 405, "invalid_request_error", "method_not_allowed"


class TextFailed(ApiError):
    """One text or computation failed; the others go on."""

    status, type, code = 500, "server_error", "text_failed"


class TooSlow(ApiError):
    """The client reads the answer too slowly."""

    status, type, code = 500, "server_error", "reader_too_slow"


class Unavailable(ApiError):
    """The server is shutting down, or its engine has failed."""

    status, type, code = 503, "server_error", "unavailable"


WORDS = {404: "there is nothing here", 405: "this address takes other methods", 413: "the request is too long"}
KINDS: dict[int, type[ApiError]] = {kind.status: kind for kind in (BadRequest, NotFound, NoMethod, Expired, TooLarge)}


def refusal(status: int, text: str) -> ApiError:
    """Convert an error of a library, with this HTTP status and text, to an ApiError."""
    kind = KINDS.get(status, BadRequest if status < 500 else ApiError)
    return kind(WORDS.get(status) or shorten(text) or "the request cannot be done")
