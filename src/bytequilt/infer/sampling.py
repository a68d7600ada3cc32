"""How the next byte is drawn from its logits, composed once before generation starts."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..codec import EOS, OFFSET, VOCAB_SIZE
from ..config.sampling import Sampling

REPEATS = 64  # bytes that the repetition penalty looks back


Filter = Callable[[Tensor, bytes, int], Tensor]
"""Logits (V,) after a text, with so many bytes left to draw -> logits, of which minus infinity is never drawn."""


class Sampler:
    """Draws ids of bytes and EOS; the other special ids are never drawn."""

    def __init__(self, sampling: Sampling) -> None:
        self.greedy = sampling.temperature == 0
        self.generator = torch.Generator()
        self.generator.seed() if sampling.seed is None else self.generator.manual_seed(sampling.seed)
        self.filters = list(_filters(sampling))

    def probabilities(self, logits: Tensor, text: bytes = b"", left: int = 4) -> Tensor:
        """The distribution (V,) that the next id is drawn from, on the CPU; one certain id where sampling is greedy."""
        logits = logits.float().cpu() + TEXT_ONLY
        for change in self.filters:
            logits = change(logits, text, left)
        if self.greedy:
            return torch.zeros(VOCAB_SIZE).index_fill_(0, logits.argmax(), 1.0)
        return logits.softmax(-1)

    def draw(self, probabilities: Tensor) -> int:
        """An id out of a distribution, which need not sum to 1."""
        if self.greedy:
            return int(probabilities.argmax())
        return int(torch.multinomial(probabilities, 1, generator=self.generator))

    def accepts(self, id: int, true: Tensor, drafted: Tensor) -> bool:
        """Whether an id drawn from the distribution `drafted` passes as one of `true` (Leviathan et al. 2023)."""
        return float(torch.rand((), generator=self.generator)) * float(drafted[id]) < float(true[id])

    def redraw(self, true: Tensor, drafted: Tensor) -> int:
        """An id instead of one that did not pass, so that the two together are distributed as `true`."""
        missing = (true - drafted).clamp(min=0)
        return self.draw(missing if missing.any() else true)  # nothing is missing but what rounding left


def _filters(sampling: Sampling) -> "list[Filter]":
    """In the order in which they work: first what may come at all, then how likely it is."""
    found: list[Filter] = []
    if sampling.utf8:
        found.append(valid_utf8)
    if sampling.repetition_penalty != 1:
        found.append(partial(_penalised, penalty=sampling.repetition_penalty))
    if sampling.temperature not in (0, 1):
        found.append(lambda logits, text, left: (logits - logits.max()) / sampling.temperature)
    if sampling.top_k:
        found.append(partial(_top_k, k=sampling.top_k))
    if sampling.top_p < 1:
        found.append(partial(_top_p, p=sampling.top_p))
    if sampling.min_p:
        found.append(partial(_min_p, p=sampling.min_p))
    return found


def _only(ids: list[int]) -> Tensor:
    """Zero for these ids, minus infinity for the rest."""
    return torch.full((VOCAB_SIZE,), -torch.inf).index_fill_(0, torch.tensor(ids), 0.0)


TEXT_ONLY = _only([EOS, *range(OFFSET, VOCAB_SIZE)])


def _penalised(logits: Tensor, text: bytes, left: int, penalty: float) -> Tensor:
    seen = torch.tensor(sorted({byte + OFFSET for byte in text[-REPEATS:]}), dtype=torch.long)
    before = logits[seen]
    return logits.index_copy(0, seen, torch.where(before > 0, before / penalty, before * penalty))


def _top_k(logits: Tensor, text: bytes, left: int, k: int) -> Tensor:
    return logits.masked_fill(logits < logits.topk(min(k, len(logits))).values[-1], -torch.inf)


def _top_p(logits: Tensor, text: bytes, left: int, p: float) -> Tensor:
    ordered, index = logits.sort(descending=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    return logits.masked_fill(torch.zeros_like(logits, dtype=torch.bool).scatter(0, index, before >= p), -torch.inf)


def _min_p(logits: Tensor, text: bytes, left: int, p: float) -> Tensor:
    chances = logits.softmax(-1)
    return logits.masked_fill(chances < p * chances.max(), -torch.inf)


# ---------------------------------------------------------------------------------------------------------- valid UTF-8

LENGTH = dict.fromkeys(range(194, 224), 2) | dict.fromkeys(range(224, 240), 3)
LENGTH |= dict.fromkeys(range(240, 245), 4)
SECOND = {0xE0: (0xA0, 0xBF), 0xED: (0x80, 0x9F), 0xF0: (0x90, 0xBF), 0xF4: (0x80, 0x8F)}
"""Where the byte after a lead byte has a narrower range (Unicode 15, table 3-7)."""


def valid_utf8(logits: Tensor, text: bytes, left: int) -> Tensor:
    """Keep what goes on with valid UTF-8, and starts no character that `left` bytes cannot end."""
    begun = _unfinished(text)
    if not begun:
        return logits + _BEGINS[min(left, 4)]
    low, high = SECOND.get(begun[0], (0x80, 0xBF)) if len(begun) == 1 else (0x80, 0xBF)
    return logits + _only(list(range(low + OFFSET, high + OFFSET + 1)))


def _unfinished(text: bytes) -> bytes:
    """The first bytes of a character that a text breaks off in; nothing where it ends well, or is no UTF-8 anyway."""
    for size in range(1, min(3, len(text)) + 1):
        tail = text[-size:]
        if tail[0] in LENGTH:
            low, high = SECOND.get(tail[0], (0x80, 0xBF))
            return tail if size < LENGTH[tail[0]] and (size == 1 or low <= tail[1] <= high) else b""
        if not 0x80 <= tail[0] < 0xC0:
            break
    return b""


_BEGINS = [
    _only([EOS, *range(OFFSET, 0x80 + OFFSET), *(lead + OFFSET for lead, size in LENGTH.items() if size <= left)])
    for left in range(5)
]
