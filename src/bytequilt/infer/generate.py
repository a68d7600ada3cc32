"""Generation: a stream of the steps of one text, or whole texts."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .batcher import Batcher
from .sampling import Sampling
from .writer import FinishReason, Stats, Step, TopLogprobs


@dataclass(frozen=True)
class Completion:
    """A generated text, without its prompt."""

    text: str
    data: bytes = field(repr=False)
    finish_reason: FinishReason
    stats: Stats
    logprobs: tuple[float, ...] = field(default=(), repr=False)
    """Log-probability in nats of each byte of `data`, before sampling options; empty unless requested."""
    top_logprobs: tuple[TopLogprobs, ...] = field(default=(), repr=False)
    """For each byte of `data`, the likeliest bytes at its position; empty unless requested."""

    @classmethod
    def of(cls, steps: Iterable[Step]) -> "Completion":
        """Join all steps of one text."""
        steps = list(steps)
        last = steps[-1]
        assert last.finish_reason is not None
        assert last.stats is not None
        return cls(
            "".join(step.text for step in steps),
            b"".join(step.data for step in steps),
            last.finish_reason,
            last.stats,
            tuple(p for step in steps for p in step.logprobs),
            tuple(top for step in steps for top in step.top_logprobs),
        )


def stream(batcher: Batcher, prompt: bytes, sampling: Sampling) -> Iterator[Step]:
    """Generate after a prompt of any bytes. Only the last step has a finish reason and statistics."""
    batcher.insert(prompt, sampling)
    while len(batcher):
        for _, step in batcher.step():
            yield step


def complete_all(batcher: Batcher, requests: Iterable[tuple[bytes, Sampling]]) -> list[Completion]:
    """Generate a text for each (prompt, sampling) pair, all in one batch. Results are in the order of the requests."""
    steps: dict[int, list[Step]] = {batcher.insert(*request): [] for request in requests}
    while len(batcher):
        for key, step in batcher.step():
            steps[key].append(step)
    return [Completion.of(of_text) for of_text in steps.values()]
