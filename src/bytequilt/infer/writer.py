"""The output of one generated text: from drawn ids to text, with stop strings, statistics and log-probabilities."""

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
"""`error`: the model's logits were NaN or infinite."""
TopLogprobs = tuple[tuple[int, float], ...]
"""Pairs of a byte and its log-probability in nats, likeliest first."""


@dataclass(frozen=True)
class Stats:
    """Counts and times of a generation."""

    bytes: int
    """Number of drawn bytes, a stop string included."""
    patches: int
    """Number of patches that begin with a drawn byte."""
    seconds: float
    latent_calls: int
    """Number of latent transformer passes after the prompt that this text took part in."""
    decoder_calls: int
    """Number of local decoder passes after the prompt, drafts included."""
    drafted: int = 0
    """Number of bytes guessed by self-speculation."""
    accepted: int = 0
    """Number of guessed bytes that were accepted."""

    @property
    def bytes_per_second(self) -> float:
        return self.bytes / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Step:
    """The output that one drawn id adds. Bytes that may begin a stop string are held back, so `data` may be empty now
    and longer later."""

    text: str
    data: bytes
    finish_reason: FinishReason | None = None
    logprobs: tuple[float, ...] = ()
    """Log-probability in nats of each byte of `data`, before sampling options; empty unless requested."""
    stats: Stats | None = None
    """Counts and times of the text; None except in its last step."""
    top_logprobs: tuple[TopLogprobs, ...] = ()
    """For each byte of `data`, the likeliest bytes at its position; empty unless requested."""


NOTHING = Step("", b"", "length", stats=Stats(0, 0, 0.0, 0, 0))
"""The only step of a text with `max_bytes` 0."""


def byte_of(id: int) -> bytes:
    """The byte that an id stands for."""
    return bytes([id - OFFSET])


class Writer:
    """Turns drawn ids into steps. Detects the end of the text, and holds back bytes that may begin a stop string."""

    def __init__(self, recent: Sequence[int], sampling: Sampling, data: Callable[[int], bytes] = byte_of) -> None:
        """`recent` are the ids of the prompt. `data` maps an id to its bytes."""
        self.sampling, self.data = sampling, data
        self.random = Random() if sampling.seed is None else Random(sampling.seed % 2**64)
        self.past = Past(list(recent)[-REPEATS:], sampling.max_bytes)
        self.drawn = 0
        """Number of drawn bytes, a stop string included."""
        self.finish_reason: FinishReason | None = None if sampling.max_bytes else "length"
        self._kept, self._logprobs, self._top_logprobs = b"", [], []
        self._stream = TextStream()

    def push(self, id: int, logprob: float | None = None, top: TopLogprobs = ()) -> Step:
        """Process a drawn id. The step that ends the text has a finish reason."""
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
        """Number of newest bytes that may be the beginning of a stop string."""
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
    """Measures one text. The time begins when this object is created, so it includes the prompt. The counts of COUNTS
    (patches, calls, drafts) begin at the end of the prompt."""

    def __init__(self) -> None:
        self._begun, self._before = time.perf_counter(), Counter[str]()

    def prompted(self, counts: Counter[str]) -> None:
        """Store the session's counts at the end of the prompt; `stats` subtracts them."""
        self._before = counts.copy()

    def stats(self, writer: Writer, counts: Counter[str], closed: bool) -> Stats:
        """The statistics of the text so far. `counts` are the session's counts (`COUNTS`).

        A text that ends by its length or a stop string ends in a byte that was drawn but never given to the model. If
        the byte before it closed its patch (`closed`), this last byte begins a patch that `counts` does not have."""
        begins = writer.finish_reason in ("length", "stop") and writer.drawn > 0 and closed
        taken = {name: counts[name] - self._before[name] for name in COUNTS}
        taken["patches"] += begins
        return Stats(bytes=writer.drawn, seconds=time.perf_counter() - self._begun, **taken)


COUNTS = ("patches", "latent_calls", "decoder_calls", "drafted", "accepted")
