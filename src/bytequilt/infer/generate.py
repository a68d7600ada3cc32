"""Generation: the bytes of one text as they come, or whole texts."""

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
    """Log-probability of each byte of `data` under the model itself, in nats, where asked for."""
    top_logprobs: tuple[TopLogprobs, ...] = field(default=(), repr=False)
    """The likeliest bytes at the place of each byte of `data`, where asked for."""

    @classmethod
    def of(cls, steps: Iterable[Step]) -> "Completion":
        """All the steps of one text as one."""
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
    """Generate after a prompt, of any bytes. The last step carries the finish reason, and what it took."""
    batcher.insert(prompt, sampling)
    while len(batcher):
        for _, step in batcher.step():
            yield step


def complete_all(batcher: Batcher, requests: Iterable[tuple[bytes, Sampling]]) -> list[Completion]:
    """The whole of many texts, made side by side, in their order."""
    steps: dict[int, list[Step]] = {batcher.insert(*request): [] for request in requests}
    while len(batcher):
        for key, step in batcher.step():
            steps[key].append(step)
    return [Completion.of(of_text) for of_text in steps.values()]
