"""Carries steps of texts from the engine's thread to the coroutine that reads them."""

import asyncio
import time
from collections.abc import AsyncIterator

from ..infer.sampling import Sampling
from ..infer.writer import Step
from .errors import ApiError

PING = 15.0  # seconds without a step after which a keep-alive is sent, so that no proxy closes the connection


class Items:
    """A queue of steps and errors of the texts of one request. Each entry has the index of its text in the request.

    All methods run in the event loop, and only one coroutine may call `take`.
    """

    def __init__(self) -> None:
        self._come: list[tuple[int, list[Step | ApiError]]] = []
        self._reader: asyncio.Future[None] | None = None

    def put(self, index: int, items: list[Step | ApiError]) -> None:
        """Add steps of a text, or the error that ended it, and wake the reader."""
        self._come.append((index, items))
        self._wake()

    async def take(self) -> list[tuple[int, list[Step | ApiError]]]:
        """Wait for entries and return all of them; an empty list after PING seconds without any."""
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
    """One text: the engine's thread produces its steps, and one coroutine reads them.

    Only the engine's thread writes `given`, and only the reader writes `taken`, so neither needs a lock.
    """

    def __init__(self, index: int, prompt: bytes, sampling: Sampling, seconds: float, items: Items) -> None:
        self.index, self.prompt, self.sampling, self.items = index, prompt, sampling, items
        self.arrived = time.monotonic()
        self.deadline = self.arrived + seconds
        self.started = self.first = 0.0
        """Times at which the text got a row and made its first step; 0 before that."""
        self.given = self.taken = 0

    @property
    def unread(self) -> int:
        """Number of steps that the reader has not taken yet."""
        return self.given - self.taken

    def put(self, items: list[Step | ApiError]) -> None:
        """In the event loop: add items for the reader. An error or a step with a finish reason is the last item."""
        self.items.put(self.index, items)


async def steps_of(streams: list[Stream]) -> AsyncIterator[tuple[int, list[Step]]]:
    """Yield (index of a text, its new steps) until all texts have ended; no steps after a long silence (keep-alive).

    Raises the first error that ends one of the texts.
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
