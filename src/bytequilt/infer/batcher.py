"""Continuous batching: many texts are generated together, one byte per step. A text can be added or removed between
any two steps."""

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

PREFILL = 512  # largest number of prompt ids read per step, so that a long prompt does not delay the running texts


class Decoder(Protocol):
    """A language model with a cache of a fixed number of rows. Each row holds one text."""

    size: int
    """Number of rows."""
    vocabulary: int
    device: torch.device

    def encode(self, prompt: bytes) -> np.ndarray:
        """The ids (n,) int64 of a prompt; the first is BOS."""

    def data(self, id: int) -> bytes:
        """The bytes that an id stands for."""

    def clear(self, row: int) -> None:
        """Empty a row for a new text."""

    def prefill(self, ids_n: Tensor, row: int) -> Tensor:
        """Feed the next ids (n,) of a row. Returns the logits (V,) after the last one."""

    def lookahead(self, ids_n: Tensor, rows: Sequence[int]) -> Tensor:
        """One number (n,) int64 for the next id of each of these rows, which the host must know before `advance`. The
        result stays on the device."""

    def advance(self, ids_n: Tensor, ids: Sequence[int], known: Sequence[int], rows: Sequence[int]) -> Tensor:
        """Feed the next id of each of these rows. Returns logits (n, V). `ids` and `known` are the host's copies of
        `ids_n` and of the result of `lookahead`."""

    def counts(self, row: int) -> tuple[Counter[str], bool]:
        """The counts of a row so far (see `COUNTS` in writer.py), and True if the next byte begins a patch."""


class BLTDecoder:
    """Gives a `Session` the interface of a `Decoder`."""

    def __init__(self, session: Session) -> None:
        self.session, self.size, self.device, self.vocabulary = session, len(session.rows), session.device, VOCAB_SIZE
        self.clear, self.prefill, self.advance = session.clear, session.prefill, session.advance
        self.encode, self.data = encode, byte_of

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
    """The ids of the prompt that have not been read yet."""
    writer: Writer
    meter: Meter = field(default_factory=Meter)
    row: int = -1
    id: int = 0
    """The last drawn id. The next step feeds it."""
    known: int = 0
    """The result of `lookahead` for `id`."""


class Batcher:
    """Generates many texts together. A text is the same as if it were generated alone, except where two ids are equally
    likely within rounding error.

    A step copies from the device to the host once for all texts: the drawn ids and the results of `lookahead`.
    """

    def __init__(self, decoder: Decoder) -> None:
        """At most `decoder.size` texts run at once. Further texts wait for a free row."""
        self.decoder = decoder
        self._keys = 0
        self._free = list(range(decoder.size))
        self._waiting: deque[_Text] = deque()
        self._reading: _Text | None = None
        self._running: list[_Text] = []
        """The texts that are being generated, sorted by row."""
        self._ids_n: Tensor | None = None
        """The last drawn id of each text in `_running`, on the device."""
        self._sampler: tuple[list[_Text], Sampler] | None = None

    def __len__(self) -> int:
        """Number of texts that are not finished."""
        return len(self._waiting) + (self._reading is not None) + len(self._running)

    def insert(self, prompt: bytes, sampling: Sampling) -> int:
        """Add a text, which starts as soon as a row is free. Returns its key: `step` marks the text's steps with it."""
        if not isinstance(prompt, bytes) or not isinstance(sampling, Sampling):
            given = f"{type(prompt).__name__} and {type(sampling).__name__}"
            raise UserError(f"a prompt must be bytes and come with a Sampling, not {given}")
        self._keys += 1
        ids = self.decoder.encode(prompt)
        writer = Writer(ids[1:].tolist(), sampling, self.decoder.data)
        self._waiting.append(_Text(self._keys, torch.from_numpy(ids), writer))
        return self._keys

    def remove(self, key: int) -> None:
        """Stop a text and free its row. An unknown key is ignored."""
        self._waiting = deque(text for text in self._waiting if text.key != key)
        if self._reading is not None and self._reading.key == key:
            self._release(self._reading)
            self._reading = None
        for text in [text for text in self._running if text.key == key]:
            self._release(text)
        self._keep([text for text in self._running if text.key != key])

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Step]]:
        """Draw one id for each running text and for each text whose prompt was finished in this step. Returns (key,
        step) pairs."""
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
        """Read up to PREFILL ids of the waiting prompts while rows are free. Yields each text with a finished prompt,
        and the logits (V,) after it. Texts of zero bytes add their only step to `steps`."""
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
        """Draw the next id of each of these texts from logits (n, V). All results reach the host in one copy."""
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
        """The sampler of these texts. A new one is made only if the list of texts has changed."""
        if self._sampler is None or self._sampler[0] != texts:
            samplings = [text.writer.sampling for text in texts]
            self._sampler = texts, Sampler(samplings, self.decoder.device, self.decoder.vocabulary)
        return self._sampler[1]

    def _release(self, text: _Text) -> None:
        self._free = sorted([*self._free, text.row])

    def _keep(self, texts: list[_Text]) -> None:
        """Reduce the running texts to `texts`, in the same order."""
        if len(texts) < len(self._running):
            places = [place for place, text in enumerate(self._running) if text in texts]
            assert self._ids_n is not None
            self._ids_n = self._ids_n[torch.tensor(places, dtype=torch.int64, device=self._ids_n.device)]
            self._running = texts


def logprobs_of(told: list[int]) -> tuple[float | None, TopLogprobs]:
    """Decode one row of `Sampler.report`: the log-probability of the drawn id, and those of the likeliest bytes."""
    if not told:
        return None, ()
    count = len(told) // 2
    top = zip(told[1 : 1 + count], told[1 + count :], strict=True)
    return number(told[0]), tuple((byte, number(bits)) for byte, bits in top)
