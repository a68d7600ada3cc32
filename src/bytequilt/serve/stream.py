"""Texts on their way from the engine's thread to the coroutine that reads them."""

import asyncio
import time
from collections.abc import AsyncIterator

from ..infer.sampling import Sampling
from ..infer.writer import Step
from .errors import ApiError

PING = 15.0  # seconds of silence after which a reader is told that the server is there, before a proxy gives up


class Items:
    """Steps of the texts of one request, and what ended them, with the place of their text in the request.

    All of it is used in the event loop, and one coroutine takes what has come.
    """

    def __init__(self) -> None:
        self._come: list[tuple[int, list[Step | ApiError]]] = []
        self._reader: asyncio.Future[None] | None = None

    def put(self, index: int, items: list[Step | ApiError]) -> None:
        """Give it to the reader."""
        self._come.append((index, items))
        self._wake()

    async def take(self) -> list[tuple[int, list[Step | ApiError]]]:
        """All that has come; nothing after a long silence."""
        if not self._come:
            loop = asyncio.get_running_loop()
            self._reader, silence = loop.create_future(), loop.call_later(PING, self._wake)
            try:
                await self._reader
            finally:
                silence.cancel()
        come, self._come = self._come, []
        return come

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class Stream:
    """One text: the engine's thread gives its steps, one coroutine takes them.

    `given` is written by the engine's thread alone and `taken` by the reader alone, so neither needs a lock.
    """

    def __init__(self, index: int, prompt: bytes, sampling: Sampling, seconds: float, items: Items) -> None:
        self.index, self.prompt, self.sampling, self.items = index, prompt, sampling, items
        self.arrived = time.monotonic()
        self.deadline = self.arrived + seconds
        self.started = self.first = 0.0
        """When it got a row, and when its first step came; 0 before."""
        self.given = self.taken = 0

    @property
    def unread(self) -> int:
        """Steps that wait for the reader."""
        return self.given - self.taken

    def put(self, items: list[Step | ApiError]) -> None:
        """Called in the event loop. Nothing comes after an error or a step with a finish reason."""
        self.items.put(self.index, items)


async def steps_of(streams: list[Stream]) -> AsyncIterator[tuple[int, list[Step]]]:
    """All steps that are there of a text, with its place, until all texts have ended; none after a long silence.

    Raises the first error that ended one of them.
    """
    items, open_texts = streams[0].items, len(streams)
    while open_texts:
        if not (batch := await items.take()):
            yield 0, []
        gathered: dict[int, list[Step]] = {}
        for index, parts in batch:
            if isinstance(parts[-1], ApiError):
                raise parts[-1]
            gathered.setdefault(index, []).extend(parts)
        for index, steps in gathered.items():
            streams[index].taken += len(steps)
            open_texts -= steps[-1].finish_reason is not None
            yield index, steps
