"""What stands before the routes: middleware for API keys, rates, limits, error form and security headers, and the
handling of connections with invalid HTTP or none."""

import asyncio
import hmac
import math
import time
from collections import OrderedDict
from contextlib import suppress

import h11
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from .errors import ApiError, BadRequest, Expired, Overloaded, TooLarge, Unauthorized, refusal
from .limits import Limits

PATIENCE = 2  # seconds to read the body of a refused request
HEAD = 30.0  # seconds within which the head of a request must arrive
BODY = 60.0  # seconds within which the whole body of a request must arrive
CALLERS = 10_000  # maximum number of callers with a stored rate; the caller seen longest ago is removed first

SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Formed:
    """The outermost middleware. It converts errors that libraries send as plain text to OpenAI's form."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and convert its answer if it is a plain-text error."""
        plain: Message | None = None
        text = b""

        async def formed(message: Message) -> None:
            nonlocal plain, text
            if message["type"] == "http.response.start" and message["status"] >= 400:
                kind = Headers(raw=message["headers"]).get("content-type", "")
                plain = None if kind.startswith("application/json") else message
            if plain is None:
                return await send(message)
            text += message.get("body", b"")
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                headers = Headers(raw=plain["headers"]).items()
                kept = {name: value for name, value in headers if not name.startswith("content-")}
                error = refusal(plain["status"], text.decode("utf-8", "replace"))
                await error.answer(plain["status"], kept)(scope, receive, send)

        await self.app(scope, receive, formed)


class Guard:
    """Middleware that checks requests. If keys are set, /v1 and /metrics need a key; the page and /health never do."""

    def __init__(self, app: ASGIApp, keys: tuple[str, ...], limits: Limits) -> None:
        self.app, self.most = app, limits.body_bytes
        self.keys = [key.encode() for key in keys]
        self.rates = Rates(limits.rate) if limits.rate else None
        self.open, self.most_open = 0, limits.requests
        """Number of requests in progress, and its maximum."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with an error."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY)
            await send(message)

        try:
            self._check(scope)
        except ApiError as error:
            await _discard(receive, 16 * self.most)
            return await error.answer()(scope, receive, with_headers)
        self.open += 1
        try:
            await self.app(scope, _in_time(receive), with_headers)
        finally:
            self.open -= 1

    def _check(self, scope: Scope) -> None:
        """Check key, number of requests, rate and declared size. Raises Unauthorized, Overloaded or TooLarge."""
        api = scope["path"].startswith("/v1/")
        if not api and scope["path"] != "/metrics":
            return
        caller = (scope["client"] or ("",))[0].encode()
        if self.keys:
            scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
            caller = key.strip().encode("latin-1")  # the bytes that were sent: headers are decoded as latin-1
            same = [hmac.compare_digest(caller, known) for known in self.keys]  # all keys, in constant time
            if scheme.lower() != "bearer" or not any(same):
                raise Unauthorized("a key is needed: Authorization: Bearer KEY" if not key else "wrong API key")
        if self.open >= self.most_open:
            raise Overloaded(f"at most {self.most_open} requests at once; try again later", retry_after=1)
        if api and self.rates is not None:
            self.rates.take(caller)
        size = Headers(scope=scope).get("content-length", "0")
        if size.isdecimal() and int(size) > self.most:
            raise TooLarge(f"a request may have at most {self.most} bytes")


def _in_time(receive: Receive) -> Receive:
    """Wrap `receive`: raise HTTPException 408 if the body is not complete within BODY seconds, to free the place."""
    until: float | None = asyncio.get_running_loop().time() + BODY

    async def receive_in_time() -> Message:
        nonlocal until
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            told = f"the request did not come within {BODY:g} seconds"
            raise HTTPException(Expired.status, told, {"Connection": "close"}) from None
        if not message.get("more_body", False):
            until = None
        return message

    return receive_in_time


async def _discard(receive: Receive, most: int) -> None:
    """Read and drop up to `most` bytes of a body. A client that is still sending would not read the answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while most > 0:
                message = await receive()
                most -= len(message.get("body", b"")) + 1
                if not message.get("more_body", False):
                    return


class Rates:
    """A token bucket for each caller. An empty bucket is full again after a minute."""

    def __init__(self, per_minute: int) -> None:
        self.size, self.per_second = float(per_minute), per_minute / 60
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def take(self, caller: bytes) -> None:
        """Count one request of a caller. Raises Overloaded if the caller's bucket is empty."""
        now = time.monotonic()
        tokens, then = self._buckets.pop(caller, (self.size, now))
        tokens = min(self.size, tokens + (now - then) * self.per_second)
        self._buckets[caller] = (max(tokens - 1, 0) if tokens >= 1 else tokens, now)
        if len(self._buckets) > CALLERS:
            self._buckets.popitem(last=False)
        if tokens < 1:
            wait = math.ceil((1 - tokens) / self.per_second)
            raise Overloaded(f"more than {self.size:g} requests a minute", retry_after=wait)


class Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's protocol, with a time limit for the head of a request and errors in OpenAI's form for invalid HTTP."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """A client has connected: start the time limit."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Process data. A new request stops the time limit; data between requests starts it again."""
        request = self.cycle
        super().data_received(data)
        if self.cycle is not request:
            self._forget()
        elif self._between and self._late is None:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has disconnected."""
        self._forget()
        super().connection_lost(exc)

    @property
    def _between(self) -> bool:
        """True if no request is being read or answered."""
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        self._late = self.loop.call_later(HEAD, self._hang_up)

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _hang_up(self) -> None:
        if self._between:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer 400, unless another answer has already started, and close the connection."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            answer = BadRequest("this is no valid HTTP").answer(headers={"Connection": "close"})
            writer = h11.Connection(h11.SERVER)
            for event in (
                h11.Response(status_code=answer.status_code, headers=answer.raw_headers, reason=b"Bad Request"),
                h11.Data(data=answer.body),
                h11.EndOfMessage(),
            ):
                self.transport.write(writer.send(event) or b"")
        self.transport.close()
