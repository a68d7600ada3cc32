"""Below requests: what is no HTTP at all, or never becomes a request."""

import asyncio

import h11
from fastapi.responses import JSONResponse
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from .errors import BadRequest

HEAD = 30.0  # seconds in which the first lines of a request may come


class Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's, which refuses what it cannot read in the form of all other errors, and waits for no head for ever."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """A client is there."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """A part of what it sends."""
        request = self.cycle
        super().data_received(data)
        if self.cycle is not request:
            self._forget()
        elif self._between and self._late is None:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._forget()
        super().connection_lost(exc)

    @property
    def _between(self) -> bool:
        """Whether no request is being read or answered."""
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
        """Say so and hang up; where an answer is on its way already, hang up."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            error = BadRequest("this is no valid HTTP")
            answer = JSONResponse(error.body(), error.status, {"Connection": "close", **error.headers()})
            writer = h11.Connection(h11.SERVER)
            for event in (
                h11.Response(status_code=error.status, headers=answer.raw_headers, reason=b"Bad Request"),
                h11.Data(data=answer.body),
                h11.EndOfMessage(),
            ):
                self.transport.write(writer.send(event) or b"")
        self.transport.close()
