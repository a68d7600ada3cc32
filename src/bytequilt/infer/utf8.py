"""Masks for logits that allow only bytes which keep a text valid UTF-8."""

import torch
from torch import Tensor

from ..codec import EOS, OFFSET, VOCAB_SIZE

LENGTH = dict.fromkeys(range(194, 224), 2) | dict.fromkeys(range(224, 240), 3)
LENGTH |= dict.fromkeys(range(240, 245), 4)
SECOND = {0xE0: (0xA0, 0xBF), 0xED: (0x80, 0x9F), 0xF0: (0x90, 0xBF), 0xF4: (0x80, 0x8F)}
"""Lead bytes with a narrower range of second bytes (Unicode 15, table 3-7)."""
RANGES = [(0x80, 0xBF), *SECOND.values()]


def state_of(text: bytes, left: int) -> int:
    """The row of `ALLOWED` to use after `text` if `left` more bytes may be drawn."""
    begun = _unfinished(text)
    if not begun:
        return min(left, 4)
    return 5 + RANGES.index(SECOND.get(begun[0], RANGES[0]) if len(begun) == 1 else RANGES[0])


def _unfinished(text: bytes) -> bytes:
    """The bytes of the incomplete character at the end of a text; empty if there is none."""
    for size in range(1, min(3, len(text)) + 1):
        tail = text[-size:]
        if tail[0] in LENGTH:
            low, high = SECOND.get(tail[0], (0x80, 0xBF))
            return tail if size < LENGTH[tail[0]] and (size == 1 or low <= tail[1] <= high) else b""
        if not 0x80 <= tail[0] < 0xC0:
            break
    return b""


def only(ids: list[int]) -> Tensor:
    """A mask (V,): 0 for these ids, minus infinity for all others."""
    return torch.full((VOCAB_SIZE,), -torch.inf).index_fill_(0, torch.tensor(ids), 0.0)


def _begins(left: int) -> Tensor:
    """The mask between characters: EOS, ASCII, and lead bytes of characters that fit into `left` bytes."""
    leads = [lead + OFFSET for lead, size in LENGTH.items() if size <= left]
    return only([EOS, *range(OFFSET, 0x80 + OFFSET), *leads])


ALLOWED = torch.stack(
    [*map(_begins, range(5)), *(only(list(range(low + OFFSET, high + OFFSET + 1))) for low, high in RANGES)]
)
"""(states, V): 0 for an id that may follow, else minus infinity. Rows 0 to 4: between characters, with that many bytes
left (4 or more for row 4). Row 5 + i: inside a character, the next byte of which must be in RANGES[i]."""
