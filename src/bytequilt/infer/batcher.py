"""Many texts at once: they take their steps together, and come and go as they please."""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..codec import encode
from ..config import UserError
from .row import Row
from .sampling import Sampling
from .session import Session
from .writer import NOTHING, Meter, Step, Writer

PREFILL = 512  # ids of prompts read between two steps, so that long prompts do not hold up the texts that are running


@dataclass(eq=False)
class _Text:
    key: int
    writer: Writer
    prompt: Tensor
    """Ids that are still to be read."""
    session: Session | None = field(default=None, repr=False)
    """Reads the prompt; then it joins the others."""
    id: int = 0
    """The last id drawn, which is fed in the next step."""
    meter: Meter = field(default_factory=Meter)


class Batcher:
    """Generates many texts together. A text does not depend on its neighbours, beyond ties within float error.

    Byte steps run for all texts; the latent step for those whose patch closed, in one call.
    """

    def __init__(self, fresh: Callable[[], Session], rows: int = 16) -> None:
        """`fresh` makes an empty session; at most `rows` texts run at once, and the others wait."""
        if rows < 1:
            raise UserError(f"rows must be at least 1, not {rows}")
        self.fresh, self.rows = fresh, rows
        self._keys = 0
        self._waiting: deque[_Text] = deque()
        self._running: list[_Text] = []
        self._session: Session | None = None
        """Its rows are those of `_running`, in this order."""

    def __len__(self) -> int:
        """Texts that have not come to their end."""
        return len(self._waiting) + len(self._running)

    def insert(self, prompt: bytes, sampling: Sampling) -> int:
        """Add a text; the key tells its steps from those of others. It begins as soon as there is room."""
        self._keys += 1
        self._waiting.append(_Text(self._keys, Writer(prompt, sampling), torch.from_numpy(encode(prompt))))
        return self._keys

    def remove(self, key: int) -> None:
        """Drop a text that is not wanted any more. One that has ended, or never was, is none."""
        self._waiting = deque(text for text in self._waiting if text.key != key)
        self._keep([text for text in self._running if text.key != key])

    def step(self) -> list[tuple[int, Step]]:
        """One more byte of each running text, and the first of those whose prompts are read by now; by key."""
        return [*self._advance(), *self._admit()]

    def _advance(self) -> list[tuple[int, Step]]:
        if self._session is None:
            return []
        logits_RV = self._session.step(torch.tensor([text.id for text in self._running]))
        each = zip(self._running, self._session.rows, logits_RV, strict=True)
        steps = [_draw(text, row, logits) for text, row, logits in each]
        self._keep([text for text in self._running if text.writer.finish_reason is None])
        return steps

    def _admit(self) -> list[tuple[int, Step]]:
        """Read on in the prompts that wait while there is room; texts whose prompt ends here join the others."""
        steps, budget = [], PREFILL
        while self._waiting and len(self._running) < self.rows and budget > 0:
            text = self._waiting[0]
            if text.writer.finish_reason is not None:
                steps.append((text.key, NOTHING))
                self._waiting.popleft()
                continue
            if text.session is None:
                text.session, text.meter = self.fresh(), Meter()
            part, text.prompt = text.prompt[:budget], text.prompt[budget:]
            logits = text.session.feed(part)[-1]
            budget -= len(part)
            if not len(text.prompt):
                self._waiting.popleft()
                (row,) = text.session.rows
                text.meter.prompted(row, _counts(row))
                steps.append(_draw(text, row, logits))
                if text.writer.finish_reason is None:
                    self._join(text)
        return steps

    def _join(self, text: _Text) -> None:
        assert text.session is not None
        if self._session is None:
            self._session = text.session
        else:
            self._session.join(text.session)
        self._running.append(text)
        text.session = None

    def _keep(self, texts: list[_Text]) -> None:
        """Go on with these of the running texts alone."""
        if len(texts) == len(self._running):
            return
        if texts and self._session is not None:
            self._session.select([row for row, text in enumerate(self._running) if text in texts])
        else:
            self._session = None
        self._running = texts


def _draw(text: _Text, row: Row, logits: Tensor) -> tuple[int, Step]:
    text.id = text.writer.draw(logits)
    step = text.writer.push(text.id, logits)
    if step.finish_reason is not None:
        step = replace(step, stats=text.meter.stats(row, text.writer, _counts(row)))
    return text.key, step


def _counts(row: Row) -> Counter[str]:
    """The passes that a text took part in: a byte is one of the decoder."""
    return Counter(latent_calls=row.patches, decoder_calls=row.rule.place)
