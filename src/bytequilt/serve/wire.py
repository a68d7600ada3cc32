"""Handles connections below the level of requests: invalid HTTP, and requests that never start."""

import asyncio

import h11
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from .errors import BadRequest

HEAD = 30.0  # seconds within which the head of a request must arrive


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
