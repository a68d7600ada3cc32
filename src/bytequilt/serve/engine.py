"""The engine: one thread that owns a Batcher. It takes texts from an inbox and sends their steps to the event loop."""

import asyncio
import logging
import math
import queue
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

from ..infer.sampling import Sampling
from ..infer.writer import Step
from .errors import ApiError, Expired, Overloaded, TextFailed, TooSlow, Unavailable
from .limits import Limits
from .metrics import Meters
from .stream import Items, Stream

if TYPE_CHECKING:
    from ..lm import LM

WORK = 0.016  # processor seconds of the engine between two hand-overs; a hand-over costs both threads about 0.0005
EACH = 0.003  # processor seconds to add for each text in the hand-over; its chunk costs about 0.0001
LATEST = 0.5  # seconds after which a hand-over happens in any case, for a busy processor
log = logging.getLogger("bytequilt.serve")

Work = Generator[None, None, Any]
"""A computation that is not a text. It yields after each short piece of work and returns its result."""


class Job:
    """A computation (`Work`) with a deadline, and the future of its result."""

    def __init__(self, work: Work, seconds: float) -> None:
        self.work = work
        self.deadline = time.monotonic() + seconds
        self.result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def put(self, items: list[Any]) -> None:
        """Give the future the first item: an ApiError as its error, anything else as its result. If the future is
        already done or cancelled, do nothing."""
        if self.result.done():
            return
        if isinstance(items[0], ApiError):
            self.result.set_exception(items[0])
        else:
            self.result.set_result(items[0])


class Engine:
    """Generates texts with one model.

    Methods with an underscore run in the engine's thread, unless their docstring says "in the event loop"; all other
    methods run in the event loop. `open` contains every unfinished text and job; only the event loop uses it.
    """

    def __init__(self, name: str, lm: "LM", limits: Limits, meters: Meters) -> None:
        self.name, self.lm, self.limits, self.meters = name, lm, limits, meters
        self.open: set[Stream | Job] = set()
        self.fault: str | None = None
        """Why the engine has failed; None if it works. A failed engine never works again."""
        self.draining = False
        self.seconds_per_text = 1.0
        """A running mean, for the estimate of `Retry-After`."""
        self._batcher = lm.batcher(limits.rows)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waiting: deque[Stream] = deque()
        self._running: dict[int, Stream] = {}
        self._jobs: deque[Job] = deque()
        self._outbox: defaultdict[Stream | Job, list[Any]] = defaultdict(list)
        self._urgent: set[Stream | Job] = set()
        """Items of the outbox to hand over at once: texts with a first or last step, and finished jobs."""
        self._stopping, self._idle = False, True
        self._turned = self._flushed = self._stepped = time.monotonic()
        self._worked = 0.0
        """Processor time of the thread at the last full hand-over, in seconds."""
        self._paces: list[tuple[float, int]] = []
        """(seconds, number of texts) of each step since the last full hand-over."""
        self._thread = threading.Thread(target=self._run, name=f"engine {name}", daemon=True)

    def start(self) -> None:
        """Start the thread; it hands results to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def submit(self, texts: list[tuple[bytes, Sampling]]) -> list[Stream]:
        """Admit all of these texts, or none. Raises Overloaded or Unavailable."""
        self._admit(len(texts))
        items = Items()
        streams = [Stream(i, *text, self.limits.seconds, items) for i, text in enumerate(texts)]
        for stream in streams:
            self.open.add(stream)
            self._inbox.put(partial(self._waiting.append, stream))
        return streams

    async def compute(self, work: Work) -> Any:
        """Await the result of a computation. Its pieces run between the steps of texts."""
        self._admit(1)
        job = Job(work, self.limits.seconds)
        self.open.add(job)
        self._inbox.put(partial(self._jobs.append, job))
        try:
            return await job.result
        finally:
            self.cancel(job)

    def cancel(self, item: Stream | Job) -> None:
        """End a text or job that nobody waits for. Its row is free before the next step. No effect if it has ended."""
        if item in self.open:
            self._inbox.put(partial(self._drop, item))

    def stop(self, error: ApiError) -> None:
        """Accept no more work, and end all open texts and jobs with this error."""
        self.draining, self._stopping = True, True
        self._inbox.put(lambda: None)
        self._end_all(error)

    def joined(self, seconds: float) -> bool:
        """Wait at most `seconds` for the thread to end. True if it has ended."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def check(self) -> None:
        """The watchdog: fail the engine if it has work but makes no progress, or if its thread has ended."""
        stalled = 0.0 if self._idle else time.monotonic() - self._turned
        if self.fault is None and not self._stopping and (stalled > self.limits.stall or not self._thread.is_alive()):
            self._fail(f"no step for {stalled:.0f} seconds" if self._thread.is_alive() else "its thread has ended")

    def _admit(self, count: int) -> None:
        """In the event loop: raise an ApiError if `count` more texts cannot be admitted."""
        if self.fault is not None:
            raise Unavailable("the engine has failed")
        if self.draining:
            raise Unavailable("the server is about to end", retry_after=5)
        room = self.limits.rows + self.limits.queue
        if len(self.open) + count > room:
            self.meters.refused.inc()
            wait = math.ceil(self.seconds_per_text * len(self.open) / self.limits.rows)
            raise Overloaded(f"at most {room} texts at once; try again later", retry_after=min(max(wait, 1), 60))

    def _fail(self, reason: str) -> None:
        """In the event loop: mark the engine as failed for ever, and end all open texts and jobs."""
        self.fault = self.fault or reason
        log.error("engine %s failed: %s", self.name, reason)
        self._end_all(Unavailable("the engine has failed"))

    def _end_all(self, error: ApiError) -> None:
        """In the event loop: end all open texts and jobs with this error."""
        for item in self.open:
            item.put([error])
        self.open.clear()

    def _hand_out(self, outbox: dict[Stream | Job, list[Any]]) -> None:
        """In the event loop: deliver steps, results and errors to their readers. None is an end without a result."""
        for item, values in outbox.items():
            if item not in self.open:
                continue
            if given := [value for value in values if value is not None]:
                item.put(given)
            if not isinstance(values[-1], Step) or values[-1].finish_reason is not None:
                self.open.discard(item)

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        except BaseException as error:  # after any error, the readers must get an answer
            log.exception("engine %s", self.name)
            self._call(self._fail, type(error).__name__)

    def _turn(self) -> None:
        """Make one step of every running text, and one piece of one job."""
        self._listen()
        while self._waiting and len(self._running) < self.limits.rows:
            stream = self._waiting.popleft()
            stream.started = time.monotonic()
            self._running[self._batcher.insert(stream.prompt, stream.sampling)] = stream
        if self._running:
            self._step()
        if self._jobs:
            self._advance(self._jobs[0])
        self.meters.load(len(self._running), len(self._waiting) + len(self._jobs))
        self._flush()

    def _listen(self) -> None:
        """Process the inbox. If there is no other work, wait for the next message."""
        self._idle = not (self._running or self._waiting or self._jobs)
        if self._idle:
            heard = self._inbox.get()
            self._turned, self._idle = time.monotonic(), False
            self._stepped = self._turned
            heard()
        while not self._inbox.empty():
            self._inbox.get()()
        self._turned = time.monotonic()

    def _expire(self) -> None:
        """End texts and jobs that are past their deadline, and texts with too many unread bytes."""
        for item in [*self._running.values(), *self._waiting, *self._jobs]:
            if item.deadline < self._turned:
                self._drop(item, Expired(f"not done within {self.limits.seconds:g} seconds"))
            elif isinstance(item, Stream) and item.unread > self.limits.unread:
                self._drop(item, TooSlow("the client reads too slowly"))

    def _step(self) -> None:
        """Generate one byte of every running text. Other bookkeeping waits for `_flush`, because steps are frequent."""
        steps = self._batcher.step()
        now = time.monotonic()
        self._paces.append((now - self._stepped, len(steps)))
        self._stepped = now
        for key, step in steps:
            stream = self._running[key]
            stream.given += 1
            if not stream.first:
                stream.first = now
                self._urgent.add(stream)
            if step.finish_reason is None:
                self._outbox[stream].append(step)
            else:
                self._end(key, step, now)

    def _end(self, key: int, step: Step, now: float) -> None:
        """Process the last step of a text that has ended by itself (also by an error)."""
        stream = self._running.pop(key)
        self.seconds_per_text += 0.1 * (now - stream.started - self.seconds_per_text)
        self.meters.ended(stream, step, now)
        failed = step.finish_reason == "error"
        self._put(stream, TextFailed("this text failed; the others go on") if failed else step)

    def _advance(self, job: Job) -> None:
        """Run one piece of a job. An exception ends this job only."""
        try:
            next(job.work)
            self._jobs.rotate(-1)
        except StopIteration as end:
            self._jobs.remove(job)
            self._put(job, end.value)
        except Exception:
            log.exception("a computation of engine %s", self.name)
            self._drop(job, TextFailed("this computation failed; the others go on"))

    def _drop(self, item: Stream | Job, error: ApiError | None = None) -> None:
        """Remove a text or job from the engine, and hand over the error, if there is one."""
        if isinstance(item, Job):
            if item in self._jobs:
                self._jobs.remove(item)
        elif item in self._waiting:
            self._waiting.remove(item)
        else:
            for key in [key for key, stream in self._running.items() if stream is item]:
                self._batcher.remove(key)
                del self._running[key]
                self.meters.dropped(error.code if error is not None else "abort")
        self._put(item, error)

    def _put(self, item: Stream | Job, value: Any) -> None:
        """Put the last value of a text or job into the outbox, to be handed over at once."""
        self._outbox[item].append(value)
        self._urgent.add(item)

    def _flush(self) -> None:
        """Hand over the outbox: all of it if `_due`, otherwise only urgent items (first and last bytes, results)."""
        if self._due():
            self._expire()
            self.meters.stepped(self._paces)
            ready, self._outbox, self._paces = self._outbox, defaultdict(list), []
        else:
            ready = {item: self._outbox.pop(item) for item in self._urgent}
        self._urgent.clear()
        if ready:
            self._call(self._hand_out, ready)

    def _due(self) -> bool:
        """True if it is time for a full hand-over and for the work that is not done at every step."""
        waited = self._turned - self._flushed
        if self._running and waited < WORK:
            return False
        worked = time.thread_time()
        enough = worked - self._worked >= WORK + EACH * len(self._outbox)
        if due := enough or waited >= LATEST or not self._running:
            self._worked, self._flushed = worked, self._turned
        return due

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function in the event loop. If the loop is closed, no reader is left, and the engine stops."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            self._stopping = True
