"""Generation: one byte after another out of a session, or out of many texts at once."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..codec import encode
from .batcher import Batcher
from .sampling import Sampling
from .session import Session
from .speculate import speculate
from .writer import NOTHING, FinishReason, Meter, Stats, Step, Writer


@dataclass(frozen=True)
class Completion:
    """A generated text, without its prompt."""

    text: str
    data: bytes = field(repr=False)
    finish_reason: FinishReason
    stats: Stats
    logprobs: tuple[float, ...] = field(default=(), repr=False)
    """Log-probability of each byte of `data` under the model itself, in nats, where asked for."""

    @classmethod
    def of(cls, steps: Iterable[Step]) -> "Completion":
        """All the steps of one text as one."""
        steps = list(steps)
        last = steps[-1]
        assert last.finish_reason is not None
        assert last.stats is not None
        text, data = "".join(step.text for step in steps), b"".join(step.data for step in steps)
        return cls(text, data, last.finish_reason, last.stats, tuple(p for step in steps for p in step.logprobs))


def stream(session: Session, prompt: bytes, sampling: Sampling, draft: int = 0) -> Iterator[Step]:
    """Generate after a prompt, of any bytes. The last step carries the finish reason, and what it took.

    With `draft` the decoder guesses up to so many bytes ahead; the session must reserve one more.
    """
    writer, meter = Writer(prompt, sampling), Meter()
    if writer.finish_reason is not None:
        yield NOTHING
        return
    logits = session.prefill(torch.from_numpy(encode(prompt)))
    meter.prompted(session.rows[0], session.counts)
    for step in speculate(session, writer, logits, draft) if draft else _plain(session, writer, logits):
        last = step.finish_reason is not None
        yield replace(step, stats=meter.stats(session.rows[0], writer, session.counts)) if last else step


def complete_all(batcher: Batcher, requests: Iterable[tuple[bytes, Sampling]]) -> list[Completion]:
    """The whole of many texts, made side by side, in their order."""
    steps: dict[int, list[Step]] = {batcher.insert(*request): [] for request in requests}
    while len(batcher):
        for key, step in batcher.step():
            steps[key].append(step)
    return [Completion.of(of_text) for of_text in steps.values()]


def _plain(session: Session, writer: Writer, logits: Tensor) -> Iterator[Step]:
    """Byte by byte."""
    while True:
        id = writer.draw(logits)
        yield writer.push(id, logits)
        if writer.finish_reason is not None:
            return
        logits = session.step(torch.tensor([id]))[0]
