"""The process: sockets, signals, the watchdog, and how it ends."""

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
from .limits import Limits
from .models import Models
from .wire import Protocol

if TYPE_CHECKING:
    from ..baselines.tokenizer import Tokenizer
    from ..lm import LM

WATCH = 0.25  # seconds between two looks of the watchdog
LAST_WORDS = 5  # seconds in which the last events of streams are sent
LOOPBACK = ("127.0.0.1", "localhost", "::1")
log = logging.getLogger("bytequilt.serve")


class Server(uvicorn.Server):
    """uvicorn, with a longer way to its end: no admission, then time for running texts, then an error to the rest."""

    def __init__(self, config: uvicorn.Config, models: Models, listener: socket.socket) -> None:
        super().__init__(config)
        self.models, self.listener = models, listener
        self.ending = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        host, port = self.listener.getsockname()[:2]
        address = f"[{host}]" if ":" in host else host
        log.info("%s at http://%s:%d", ", ".join(self.models.engines), address, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A first signal begins the end, and a second one hastens it."""
        if self.ending.is_set():
            self.should_exit = self.force_exit = True
        self._loop.call_soon_threadsafe(self.ending.set)

    async def run_until_end(self) -> int:
        """Serve; the exit code: 0 after a signal, 1 after a fault."""
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
        """After a signal."""
        await self.ending.wait()
        log.info("no more requests; running texts have %g seconds", self.models.limits.grace)
        await self.models.drain(self.models.limits.grace)
        for engine in self.models.engines.values():
            engine.stop(Unavailable("the server has ended"))
        self.should_exit = True

    async def _watch(self) -> None:
        """End the process where an engine does not work any more, and where this loop itself does not."""
        stall, armed = self.models.limits.stall, -math.inf
        while self.models.fault is None:
            if (now := time.monotonic()) - armed > stall / 4:  # not every time: it begins a thread
                faulthandler.dump_traceback_later(2 * stall, exit=True)
                armed = now
            for engine in self.models.engines.values():
                engine.check()
            await asyncio.sleep(WATCH)
        for engine in self.models.engines.values():
            engine.stop(Unavailable("the engine has failed"))
        await asyncio.sleep(WATCH)  # in which /health says so
        self.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """A place to listen at, where nobody is heard yet. Raises UserError where it cannot be had.

    TCP is named, because asyncio sends small chunks at once only on sockets that say so; on others a chunk waits for
    the client to acknowledge the one before, up to 40 ms.
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

    A server on a loopback address answers to that name alone, unless `hosts` are given: pages of other sites, whose
    names can be made to point here, reach nothing.
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
    code = asyncio.run(_serve(config, served, listener))
    leave_together(served, code)
    return code


def leave_together(models: Models, code: int) -> None:
    """Wait for the engines' threads, and end the process at once where one hangs.

    A thread that still computes while the interpreter ends is cut off inside native code, which aborts the process:
    its exit code would be lost.
    """
    if not all(engine.joined(LAST_WORDS) for engine in models.engines.values()):
        logging.shutdown()
        os._exit(code)


async def _serve(config: uvicorn.Config, models: Models, listener: socket.socket) -> int:
    return await Server(config, models, listener).run_until_end()
