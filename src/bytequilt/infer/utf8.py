"""Which bytes keep a text valid UTF-8, as masks of logits."""

import torch
from torch import Tensor

from ..codec import EOS, OFFSET, VOCAB_SIZE

LENGTH = dict.fromkeys(range(194, 224), 2) | dict.fromkeys(range(224, 240), 3)
LENGTH |= dict.fromkeys(range(240, 245), 4)
SECOND = {0xE0: (0xA0, 0xBF), 0xED: (0x80, 0x9F), 0xF0: (0x90, 0xBF), 0xF4: (0x80, 0x8F)}
"""Where the byte after a lead byte has a narrower range (Unicode 15, table 3-7)."""
RANGES = [(0x80, 0xBF), *SECOND.values()]


def state_of(text: bytes, left: int) -> int:
    """Which row of `ALLOWED` holds after a text, with so many bytes left to draw."""
    begun = _unfinished(text)
    if not begun:
        return min(left, 4)
    return 5 + RANGES.index(SECOND.get(begun[0], RANGES[0]) if len(begun) == 1 else RANGES[0])


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


def only(ids: list[int]) -> Tensor:
    """Zero for these ids, minus infinity for the rest: (V,)."""
    return torch.full((VOCAB_SIZE,), -torch.inf).index_fill_(0, torch.tensor(ids), 0.0)


def _begins(left: int) -> Tensor:
    """What may begin a character that `left` bytes can end, or end the text."""
    leads = [lead + OFFSET for lead, size in LENGTH.items() if size <= left]
    return only([EOS, *range(OFFSET, 0x80 + OFFSET), *leads])


ALLOWED = torch.stack(
    [*map(_begins, range(5)), *(only(list(range(low + OFFSET, high + OFFSET + 1))) for low, high in RANGES)]
)
"""(states, V): 0 for what may come next, minus infinity for the rest."""
