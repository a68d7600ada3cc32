"""One text in the making: what lies between the logits of a model and the reader of its text."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from ..codec import EOS, OFFSET, TextStream
from .sampler import FAILED, REPEATS, Past
from .sampling import Sampling

FinishReason = Literal["length", "eos", "stop", "error"]
"""`error`: the model gave no numbers."""
TopLogprobs = tuple[tuple[int, float], ...]
"""Bytes and their log-probabilities in nats, likeliest first."""


@dataclass(frozen=True)
class Stats:
    """Counts and times of a generation."""

    bytes: int
    """Bytes drawn, those of a stop string among them."""
    patches: int
    """Patches that begin with a byte that was drawn."""
    seconds: float
    latent_calls: int
    """Passes of the latent transformer after the prompt; of a text among others, those that it took part in."""
    decoder_calls: int
    """Passes of the local decoder after the prompt, drafts among them."""
    drafted: int = 0
    """Bytes guessed by self-speculation."""
    accepted: int = 0
    """Drafted bytes accepted by verification."""

    @property
    def bytes_per_second(self) -> float:
        return self.bytes / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Step:
    """What one drawn byte adds to the output: usually that byte, nothing while it may be part of a stop string."""

    text: str
    data: bytes
    finish_reason: FinishReason | None = None
    logprobs: tuple[float, ...] = ()
    """Log-probability of each byte of `data` under the model itself, in nats, where asked for."""
    stats: Stats | None = None
    """Counts and times of the text; None but in its last step."""
    top_logprobs: tuple[TopLogprobs, ...] = ()
    """The likeliest bytes at the place of each byte of `data`, where asked for."""


NOTHING = Step("", b"", "length", stats=Stats(0, 0, 0.0, 0, 0))
"""The only step of a text of no bytes."""


def byte_of(id: int) -> bytes:
    """The byte that an id stands for."""
    return bytes([id - OFFSET])


class Writer:
    """Takes the ids that are drawn, notices the end of the text, and gives out what is certain to belong to it."""

    def __init__(self, recent: Sequence[int], sampling: Sampling, data: Callable[[int], bytes] = byte_of) -> None:
        """`recent` are ids before the text; `data` tells the bytes of an id."""
        self.sampling, self.data = sampling, data
        self.random = Random() if sampling.seed is None else Random(sampling.seed % 2**64)
        self.past = Past(list(recent)[-REPEATS:], sampling.max_bytes)
        self.drawn = 0
        """Bytes drawn, those of a stop string among them."""
        self.finish_reason: FinishReason | None = None if sampling.max_bytes else "length"
        self._kept, self._logprobs, self._top_logprobs = b"", [], []
        self._stream = TextStream()

    def push(self, id: int, logprob: float | None = None, top: TopLogprobs = ()) -> Step:
        """Take an id that was drawn. The step that ends the text says why."""
        if id in (EOS, FAILED):
            return self._give(len(self._kept), "eos" if id == EOS else "error")
        data = self.data(id)
        self.past.push(id, len(data))
        for byte in data:
            self._kept, self.drawn = self._kept + bytes([byte]), self.drawn + 1
            if self.sampling.logprobs and logprob is not None:
                self._logprobs.append(logprob)
            if self.sampling.top_logprobs:
                self._top_logprobs.append(top[: self.sampling.top_logprobs])
            if ended := [len(stop) for stop in self.sampling.stop if self._kept.endswith(stop)]:
                return self._give(len(self._kept) - max(ended), "stop")
            if self.drawn == self.sampling.max_bytes:
                return self._give(len(self._kept), "length")
        return self._give(len(self._kept) - self._doubtful())

    def _doubtful(self) -> int:
        """Newest bytes that may be the beginning of a stop string."""
        if not self.sampling.stop:
            return 0
        sizes = range(min(len(self._kept), max(map(len, self.sampling.stop)) - 1), 0, -1)
        return next((n for n in sizes if any(stop.startswith(self._kept[-n:]) for stop in self.sampling.stop)), 0)

    def _give(self, count: int, finish_reason: FinishReason | None = None) -> Step:
        data, self._kept = self._kept[:count], self._kept[count:]
        logprobs, self._logprobs = tuple(self._logprobs[:count]), self._logprobs[count:]
        top, self._top_logprobs = tuple(self._top_logprobs[:count]), self._top_logprobs[count:]
        self.finish_reason = finish_reason
        text = self._stream.feed(data) + (self._stream.close() if finish_reason else "")
        return Step(text, data, finish_reason, logprobs, top_logprobs=top)


class Meter:
    """Takes the time, and counts from the end of the prompt on."""

    def __init__(self) -> None:
        self._begun, self._before = time.perf_counter(), Counter[str]()

    def prompted(self, counts: Counter[str]) -> None:
        """The prompt is read."""
        self._before = counts.copy()

    def stats(self, writer: Writer, counts: Counter[str], closed: bool) -> Stats:
        """What it took until now. The byte drawn last has not been fed: it begins a patch where the one before closed
        its own, unless it was an EOS."""
        begins = writer.finish_reason in ("length", "stop") and writer.drawn > 0 and closed
        taken = {name: counts[name] - self._before[name] for name in COUNTS}
        taken["patches"] += begins
        return Stats(bytes=writer.drawn, seconds=time.perf_counter() - self._begun, **taken)


COUNTS = ("patches", "latent_calls", "decoder_calls", "drafted", "accepted")
