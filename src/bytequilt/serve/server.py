"""The server process: socket, signals, watchdog and shutdown."""

import asyncio
import faulthandler
import logging
import math
import os
import socket
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from ..config import UserError
from .app import application
from .errors import Unavailable
from .guard import Protocol
from .limits import Limits
from .models import Models

if TYPE_CHECKING:
    from ..baselines.tokenizer import Tokenizer
    from ..lm import LM

WATCH = 0.25  # seconds between two checks of the watchdog
LAST_WORDS = 5  # seconds to send the last events of streams
LOOPBACK = ("127.0.0.1", "localhost", "::1")
log = logging.getLogger("bytequilt.serve")


class Server(uvicorn.Server):
    """uvicorn with a graceful shutdown: refuse new texts, give running texts time, then end them with an error."""

    def __init__(self, config: uvicorn.Config, models: Models, listener: socket.socket) -> None:
        super().__init__(config)
        self.models, self.listener = models, listener
        self.ending = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and log the address."""
        await super().startup(sockets)
        host, port = self.listener.getsockname()[:2]
        address = f"[{host}]" if ":" in host else host
        log.info("%s at http://%s:%d", ", ".join(self.models.engines), address, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal starts the graceful shutdown; the second signal ends the server at once."""
        if self.ending.is_set():
            self.should_exit = self.force_exit = True
        self._loop.call_soon_threadsafe(self.ending.set)

    async def run_until_end(self) -> int:
        """Serve until the end. Returns the exit code: 0 after a signal, 1 after a fault."""
        self._loop = asyncio.get_running_loop()
        for engine in self.models.engines.values():
            engine.start()
        tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._end())]
        try:
            await self.serve([self.listener])
        finally:
            faulthandler.cancel_dump_traceback_later()
            for task in tasks:
                task.cancel()
        return 1 if self.models.fault is not None or not self.started else 0

    async def _end(self) -> None:
        """Wait for a signal, then shut down gracefully."""
        await self.ending.wait()
        log.info("no more requests; running texts have %g seconds", self.models.limits.grace)
        await self.models.drain(self.models.limits.grace)
        for engine in self.models.engines.values():
            engine.stop(Unavailable("the server has ended"))
        self.should_exit = True

    async def _watch(self) -> None:
        """The watchdog: shut down if an engine has failed, and kill the process if this event loop itself hangs."""
        stall, armed = self.models.limits.stall, -math.inf
        while self.models.fault is None:
            if (now := time.monotonic()) - armed > stall / 4:  # not at every check, because each call starts a thread
                faulthandler.dump_traceback_later(2 * stall, exit=True)
                armed = now
            for engine in self.models.engines.values():
                engine.check()
            await asyncio.sleep(WATCH)
        for engine in self.models.engines.values():
            engine.stop(Unavailable("the engine has failed"))
        await asyncio.sleep(WATCH)  # meanwhile /health answers 503
        self.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """Create a bound socket that does not listen yet. Raises UserError if the address is not available.

    The protocol TCP is given explicitly, because asyncio sets TCP_NODELAY only on such sockets. Without it, a small
    chunk waits up to 40 ms for the client to acknowledge the chunk before.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise UserError(f"cannot listen at {host} port {port}: {error.strerror or error}") from None
    return listener


def serve(
    models: dict[str, "LM"],
    limits: Limits,
    listener: socket.socket,
    keys: tuple[str, ...] = (),
    origins: tuple[str, ...] = (),
    hosts: tuple[str, ...] = (),
    tokenizers: Sequence["Tokenizer"] = (),
) -> int:
    """Serve models until a signal comes or an engine fails, and return the exit code.

    A server on a loopback address accepts only local host names, unless `hosts` are given. This protects against DNS
    rebinding: a web page of another site, with a name that points to this machine, gets no access.
    """
    host = listener.getsockname()[0]
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    served = Models(models, limits, tokenizers)
    names = hosts or ((*LOOPBACK[:2], "[::1]") if host in LOOPBACK else ())
    config = uvicorn.Config(
        application(served, keys, origins, names),
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=LAST_WORDS,
        http=Protocol,
        ws="none",
    )
    code = asyncio.run(Server(config, served, listener).run_until_end())
    leave_together(served, code)
    return code


def leave_together(models: Models, code: int) -> None:
    """Wait for the engines' threads. If a thread hangs, end the process at once with this exit code.

    Otherwise the interpreter would stop the thread inside native code. That aborts the process, and the exit code is
    lost.
    """
    if not all(engine.joined(LAST_WORDS) for engine in models.engines.values()):
        logging.shutdown()
        os._exit(code)
