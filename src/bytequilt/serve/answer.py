"""Runs a plan and sends the answer, whole or as server-sent events. If the client disconnects, its texts end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event

from ..infer.sampling import Sampling
from ..infer.writer import Stats, Step
from .choice import Choice, Piece, entries_of, finish_reason_of
from .engine import Engine
from .errors import ApiError, Unavailable
from .forms import Envelope, Form, dumps, usage_of
from .scoring import Entry, Scored
from .stream import Stream, steps_of

T = TypeVar("T")


@dataclass
class Plan:
    """The texts to generate for a request, and the format of the answer."""

    engine: Engine
    form: Form
    prompts: list[bytes]
    texts: list[tuple[bytes, Sampling]]
    """(prompt, options) of every choice; all choices of a prompt are adjacent."""
    stream: bool
    include_usage: bool
    echo: bool = False
    scores: list[Scored] = field(default_factory=list)
    """Log-probabilities of the prompts, if they are echoed with log-probabilities; otherwise empty."""


async def answer(request: Request, plan: Plan) -> Response:
    """Generate the texts and answer the request. Raises an ApiError if the texts are not admitted. Without `stream`, it
    also raises an ApiError if a text fails."""
    streams = plan.engine.submit(plan.texts)
    if plan.stream:
        return Events(_events(plan, streams), plan.engine.limits.seconds)
    try:
        return JSONResponse(await while_connected(request, _whole(plan, streams)))
    finally:
        _cancel(plan, streams)


class Events(EventSourceResponse):
    """Server-sent events. They end `seconds` + 5 seconds after their start, even if the client reads slowly."""

    def __init__(self, events: AsyncIterator[bytes], seconds: float) -> None:
        super().__init__(events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self.seconds = seconds + 5

    async def __call__(self, *asgi: Any) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self.seconds):
                await super().__call__(*asgi)


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """Await the work and return its result. The work is cancelled if the client disconnects."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Unavailable("the client has gone")  # the client is gone, so nobody reads this message
    finally:
        gone.cancel()
        task.cancel()


async def _gone(request: Request) -> None:
    """Wait until the client has disconnected. The body of the request must have been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Choices:
    """The unfinished choices of a plan, which grow step by step."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.choices = [Choice() for _ in plan.texts]
        self.stats: list[Stats] = []
        self.written = [0] * len(plan.texts)

    def echo(self, index: int) -> Piece:
        """The first piece of a choice: its prompt."""
        return self.choices[index].add(*self._prompt(index))

    def add(self, index: int, steps: list[Step], echo: bool = False) -> Piece:
        """Convert new steps of a choice to a piece, with `echo` behind its prompt."""
        data, last = b"".join(step.data for step in steps), steps[-1]
        entries = [] if self.plan.form.top is None else entries_of(steps)
        score = self._score(index)
        self.written[index] += len(data)
        if last.stats is not None:
            self.stats.append(last.stats)
        if score is not None and last.finish_reason == "eos" and not self.written[index]:
            entries.append(score.end)  # clients that score texts ask for one byte and drop the last entry
        before, scored = self._prompt(index) if echo else (b"", [])
        return self.choices[index].add(before + data, scored + entries, finish_reason_of(last))

    def _prompt(self, index: int) -> tuple[bytes, list[Entry]]:
        score = self._score(index)
        return self.plan.texts[index][0], score.entries if score is not None else []

    def _score(self, index: int) -> Scored | None:
        scores = self.plan.scores
        return scores[index * len(scores) // len(self.choices)] if scores else None


async def _whole(plan: Plan, streams: list[Stream]) -> dict[str, Any]:
    choices, gathered = _Choices(plan), [[] for _ in streams]
    async for index, steps in steps_of(streams):
        gathered[index] += steps
    pieces = [choices.add(index, steps, plan.echo) for index, steps in enumerate(gathered)]
    return Envelope(plan.form, plan.engine.name).whole(pieces, usage_of(plan.prompts, choices.stats))


async def _events(plan: Plan, streams: list[Stream]) -> AsyncIterator[bytes]:
    try:
        async for chunk in _chunks(plan, streams):
            yield KEEPALIVE_COMMENT if chunk is None else format_sse_event(data_str=chunk)
        yield format_sse_event(data_str="[DONE]")
    except ApiError as error:
        yield format_sse_event(data_str=dumps(error.body()))
    finally:
        _cancel(plan, streams)


async def _chunks(plan: Plan, streams: list[Stream]) -> AsyncIterator[str | None]:
    """Yield the chunks of a stream as JSON, or None (send a keep-alive comment) after a long time without a step."""
    choices, envelope, form = _Choices(plan), Envelope(plan.form, plan.engine.name), plan.form
    if openings := [opening for index in range(len(streams)) if (opening := form.opening(index))]:
        yield envelope.chunk(openings)
    if plan.echo:
        for index in range(len(streams)):
            yield envelope.chunk([form.chunk(index, choices.echo(index))])
    async for index, steps in steps_of(streams):
        if not steps:
            yield None
        elif (piece := choices.add(index, steps)).data or piece.finish_reason is not None:
            yield envelope.chunk([form.chunk(index, piece)])
    if plan.include_usage:
        yield envelope.chunk([], usage_of(plan.prompts, choices.stats))


def _cancel(plan: Plan, streams: list[Stream]) -> None:
    for stream in streams:
        plan.engine.cancel(stream)
