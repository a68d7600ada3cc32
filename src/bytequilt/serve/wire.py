"""Below requests: what is no HTTP at all."""

import h11
from fastapi.responses import JSONResponse
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from .errors import BadRequest


class Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's, which refuses what it cannot read in the form of all other errors."""

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
