"""Many texts at once: they take their steps together, and come and go as they please."""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..codec import VOCAB_SIZE, encode
from ..config import UserError
from .sampler import Sampler, number
from .sampling import Sampling
from .session import Session
from .writer import NOTHING, Meter, Step, TopLogprobs, Writer, byte_of

PREFILL = 512  # ids of prompts read between two steps, so that long prompts do not hold up the texts that are running


class Decoder(Protocol):
    """A language model with a cache of a fixed number of rows, a text in each."""

    size: int
    """Rows."""
    vocabulary: int
    device: torch.device

    def encode(self, prompt: bytes) -> np.ndarray:
        """Ids (n,) int64 of a prompt, BOS first."""
        ...

    def data(self, id: int) -> bytes:
        """The bytes of an id."""
        ...

    def clear(self, row: int) -> None:
        """Empty a row for a new text."""
        ...

    def prefill(self, ids_n: Tensor, row: int) -> Tensor:
        """Logits (V,) after the last of the next ids of a row."""
        ...

    def lookahead(self, ids_n: Tensor, rows: Sequence[int]) -> Tensor:
        """What the host must know of the next ids (n,) of some rows besides themselves: (n,) int64, without a read."""
        ...

    def advance(self, ids_n: Tensor, ids: Sequence[int], known: Sequence[int], rows: Sequence[int]) -> Tensor:
        """Logits (n, V) after these ids, when the host knows them and what `lookahead` told."""
        ...

    def counts(self, row: int) -> tuple[Counter[str], bool]:
        """Passes and patches of a row so far, and whether the next byte begins a patch."""
        ...


class BLTDecoder:
    """A session as a decoder."""

    def __init__(self, session: Session) -> None:
        self.session, self.size, self.device, self.vocabulary = session, len(session.rows), session.device, VOCAB_SIZE
        self.clear, self.prefill, self.advance = session.clear, session.prefill, session.advance

    def encode(self, prompt: bytes) -> np.ndarray:
        return encode(prompt)

    def data(self, id: int) -> bytes:
        return byte_of(id)

    def lookahead(self, ids_n: Tensor, rows: Sequence[int]) -> Tensor:
        return self.session.lookahead(ids_n, rows, text=True)

    def counts(self, row: int) -> tuple[Counter[str], bool]:
        text = self.session.rows[row]
        passes = Counter(latent_calls=text.patches, decoder_calls=text.ids, patches=text.text_patches)
        return passes, text.closed


@dataclass(eq=False)
class _Text:
    key: int
    prompt: Tensor
    """Ids that are still to be read."""
    writer: Writer
    meter: Meter = field(default_factory=Meter)
    row: int = -1
    id: int = 0
    """The last id drawn, which the next step feeds."""
    known: int = 0
    """What `lookahead` told of it."""


class Batcher:
    """Generates many texts together. A text does not depend on its neighbours, beyond ties within float error.

    A step reads the device once for all texts: the ids that were drawn, together with what the decoder must tell the
    host of them.
    """

    def __init__(self, decoder: Decoder) -> None:
        """As many texts run at once as the decoder has rows, and the others wait."""
        self.decoder = decoder
        self._keys = 0
        self._free = list(range(decoder.size))
        self._waiting: deque[_Text] = deque()
        self._reading: _Text | None = None
        self._running: list[_Text] = []
        """The texts in generation, by their row."""
        self._ids_n: Tensor | None = None
        """The ids drawn last, of the texts in `_running`."""
        self._sampler: tuple[list[_Text], Sampler] | None = None

    def __len__(self) -> int:
        """Texts that have not come to their end."""
        return len(self._waiting) + (self._reading is not None) + len(self._running)

    def insert(self, prompt: bytes, sampling: Sampling) -> int:
        """Add a text; the key tells its steps from those of others. It begins as soon as there is room."""
        if not isinstance(prompt, bytes) or not isinstance(sampling, Sampling):
            raise UserError(f"a prompt must be bytes and come with a Sampling, unlike {type(prompt).__name__}")
        self._keys += 1
        ids = self.decoder.encode(prompt)
        writer = Writer(ids[1:].tolist(), sampling, self.decoder.data)
        self._waiting.append(_Text(self._keys, torch.from_numpy(ids), writer))
        return self._keys

    def remove(self, key: int) -> None:
        """Drop a text that is not wanted any more; nothing happens where there is no such text."""
        self._waiting = deque(text for text in self._waiting if text.key != key)
        if self._reading is not None and self._reading.key == key:
            self._release(self._reading)
            self._reading = None
        for text in [text for text in self._running if text.key == key]:
            self._release(text)
        self._keep([text for text in self._running if text.key != key])

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Step]]:
        """One more byte of each running text, and the first of those whose prompts are read by now; by key."""
        texts, logits, steps = list(self._running), [], []
        if texts:
            assert self._ids_n is not None
            ids, known, rows = ([getattr(text, name) for text in texts] for name in ("id", "known", "row"))
            logits.append(self.decoder.advance(self._ids_n, ids, known, rows))
        for text, logits_V in self._admitted(steps):
            texts.append(text)
            logits.append(logits_V[None])
        if texts:
            steps += self._draw(texts, logits[0] if len(logits) == 1 else torch.cat(logits))
        return steps

    def _admitted(self, steps: list[tuple[int, Step]]) -> Iterator[tuple[_Text, Tensor]]:
        """Read on in the prompts that wait while there is room: texts whose prompt ends here, with their logits."""
        budget = PREFILL
        while budget > 0 and (self._reading or (self._waiting and self._free)):
            if self._reading is None:
                text = self._waiting.popleft()
                if text.writer.finish_reason is not None:
                    steps.append((text.key, NOTHING))
                    continue
                text.row, text.meter, self._reading = self._free.pop(0), Meter(), text
                self.decoder.clear(text.row)
            text = self._reading
            part, text.prompt = text.prompt[:budget], text.prompt[budget:]
            budget -= len(part)
            logits_V = self.decoder.prefill(part.to(self.decoder.device), text.row)
            if not len(text.prompt):
                self._reading = None
                text.meter.prompted(self.decoder.counts(text.row)[0])
                yield text, logits_V

    def _draw(self, texts: list[_Text], logits_nV: Tensor) -> list[tuple[int, Step]]:
        """The next id of each of these texts, and what the host must know to go on: one read for all of it."""
        order = sorted(range(len(texts)), key=lambda place: texts[place].row)
        if order != list(range(len(texts))):
            texts = [texts[place] for place in order]
            logits_nV = logits_nV[torch.tensor(order, device=logits_nV.device)]
        sampler = self._sampler_of(texts)
        writers = [text.writer for text in texts]
        ids_n = sampler.draw(logits_nV, [w.past for w in writers], [w.random for w in writers])
        fed_n = ids_n.clamp(min=0)
        columns = torch.stack([ids_n, self.decoder.lookahead(fed_n, [text.row for text in texts])], 1)
        if sampler.tells:
            columns = torch.cat([columns, sampler.report(logits_nV, ids_n)], 1)
        steps = []
        for text, (id, known, *told) in zip(texts, columns.tolist(), strict=True):
            text.id, text.known = id, known
            step = text.writer.push(id, *logprobs_of(told))
            if step.finish_reason is not None:
                counts, closed = self.decoder.counts(text.row)
                step = replace(step, stats=text.meter.stats(text.writer, counts, closed))
                self._release(text)
            steps.append((text.key, step))
        self._running, self._ids_n = texts, fed_n
        self._keep([text for text in texts if text.writer.finish_reason is None])
        return steps

    def _sampler_of(self, texts: list[_Text]) -> Sampler:
        """Made anew only when other texts take part."""
        if self._sampler is None or self._sampler[0] != texts:
            samplings = [text.writer.sampling for text in texts]
            self._sampler = texts, Sampler(samplings, self.decoder.device, self.decoder.vocabulary)
        return self._sampler[1]

    def _release(self, text: _Text) -> None:
        self._free = sorted([*self._free, text.row])

    def _keep(self, texts: list[_Text]) -> None:
        """Go on with these of the running texts alone."""
        if len(texts) < len(self._running):
            places = [place for place, text in enumerate(self._running) if text in texts]
            assert self._ids_n is not None
            self._ids_n = self._ids_n[torch.tensor(places, dtype=torch.int64, device=self._ids_n.device)]
            self._running = texts


def logprobs_of(told: list[int]) -> tuple[float | None, TopLogprobs]:
    """Log-probabilities out of a `Sampler.report` that was read."""
    if not told:
        return None, ()
    count = len(told) // 2
    top = zip(told[1 : 1 + count], told[1 + count :], strict=True)
    return number(told[0]), tuple((byte, number(bits)) for byte, bits in top)
