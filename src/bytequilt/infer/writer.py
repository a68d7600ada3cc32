"""One text in the making: what lies between the logits of a model and the reader of its text."""

import time
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..codec import EOS, OFFSET, TextStream
from .row import Row
from .sampling import REPEATS, Sampler, Sampling

FinishReason = Literal["length", "eos", "stop"]


@dataclass(frozen=True)
class Stats:
    """What a generation took."""

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
    """Those of them that were true."""

    @property
    def bytes_per_second(self) -> float:
        return self.bytes / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Step:
    """What one more byte brought to light: mostly itself; nothing while it may be part of a stop string."""

    text: str
    data: bytes
    finish_reason: FinishReason | None = None
    logprobs: tuple[float, ...] = ()
    """Log-probability of each byte of `data` under the model itself, in nats, where asked for."""
    stats: Stats | None = None
    """What the text took; with its last step."""


NOTHING = Step("", b"", "length", stats=Stats(0, 0, 0.0, 0, 0))
"""The only step of a text of no bytes."""


class Writer:
    """Draws ids, notices the end of the text, and gives out what is certain to belong to it."""

    def __init__(self, prompt: bytes, sampling: Sampling) -> None:
        self.sampling, self.sampler = sampling, Sampler(sampling)
        self.text = prompt[-REPEATS:]
        """The end of the prompt and of the bytes drawn: what sampling may look at."""
        self.drawn = 0
        self.finish_reason: FinishReason | None = None if sampling.max_bytes else "length"
        self._held, self._logprobs = b"", []
        self._stream = TextStream()

    @property
    def left(self) -> int:
        """Bytes that may still be drawn."""
        return self.sampling.max_bytes - self.drawn

    def probabilities(self, logits: Tensor) -> Tensor:
        """The distribution (V,) of the next id."""
        return self.sampler.probabilities(logits, self.text, self.left)

    def draw(self, logits: Tensor) -> int:
        """The next id."""
        return self.sampler.draw(self.probabilities(logits))

    def push(self, id: int, logits: Tensor) -> Step:
        """Take an id that was drawn after these logits. The step that ends the text says why."""
        if id == EOS:
            return self._give(len(self._held), "eos")
        if self.sampling.logprobs:
            self._logprobs.append(float(logits.float().log_softmax(-1)[id]))
        byte = bytes([id - OFFSET])
        self.text, self._held, self.drawn = self.text[1 - REPEATS :] + byte, self._held + byte, self.drawn + 1
        if ended := [len(stop) for stop in self.sampling.stop if self._held.endswith(stop)]:
            return self._give(len(self._held) - max(ended), "stop")
        if not self.left:
            return self._give(len(self._held), "length")
        return self._give(len(self._held) - self._doubtful())

    def _doubtful(self) -> int:
        """Newest bytes that may be the beginning of a stop string."""
        sizes = range(min(len(self._held), max(map(len, self.sampling.stop), default=1) - 1), 0, -1)
        return next((n for n in sizes if any(stop.startswith(self._held[-n:]) for stop in self.sampling.stop)), 0)

    def _give(self, count: int, finish_reason: FinishReason | None = None) -> Step:
        data, self._held = self._held[:count], self._held[count:]
        logprobs, self._logprobs = tuple(self._logprobs[:count]), self._logprobs[count:]
        self.finish_reason = finish_reason
        text = self._stream.feed(data) + (self._stream.close() if finish_reason else "")
        return Step(text, data, finish_reason, logprobs)


class Meter:
    """Takes the time, and counts from the end of the prompt on."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._patches, self._before = 0, Counter[str]()

    def prompted(self, row: Row, counts: Counter[str]) -> None:
        """The prompt is read."""
        self._patches, self._before = row.text_patches, counts.copy()

    def stats(self, row: Row, writer: Writer, counts: Counter[str]) -> Stats:
        """What it took until now; the byte drawn last has not been fed, unless EOS came after it."""
        begins = writer.finish_reason != "eos" and writer.drawn > 0 and row.closed
        return Stats(
            bytes=writer.drawn,
            patches=row.text_patches - self._patches + begins,
            seconds=time.perf_counter() - self._begun,
            **{name: counts[name] - self._before[name] for name in COUNTS},
        )


COUNTS = ("latent_calls", "decoder_calls", "drafted", "accepted")
