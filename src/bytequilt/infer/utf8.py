"""Masks for logits that allow only bytes which keep a text valid UTF-8, by Python's own decoder."""

from codecs import utf_8_decode

import torch
from torch import Tensor

from ..codec import EOS, OFFSET, VOCAB_SIZE

BEGUN = (b"\xc2", b"\xe0", b"\xed", b"\xf0", b"\xf4")
"""Unfinished characters, one for each set of bytes that may come next. After all others it is the set of the first."""


def state_of(text: bytes, left: int) -> int:
    """The row of `ALLOWED` to use after `text` if `left` more bytes may be drawn."""
    tail = text[-3:]
    begun = tail[utf_8_decode(tail, "ignore")[1] :]  # the decoder waits for the rest of an unfinished character
    if not begun or not _completes(begun, 3):  # and for the rest of a surrogate, which is no character
        return min(left, 4)
    return 5 + (BEGUN.index(begun) if begun in BEGUN else 0)


def only(ids: list[int]) -> Tensor:
    """A mask (V,): 0 for these ids, minus infinity for all others."""
    return torch.full((VOCAB_SIZE,), -torch.inf).index_fill_(0, torch.tensor(ids), 0.0)


def _allowed(begun: bytes, left: int) -> Tensor:
    """The mask after an unfinished character, or between characters if it is empty, where EOS may follow too."""
    fitting = [byte + OFFSET for byte in range(256) if _completes(begun + bytes([byte]), left - 1)]
    return only(fitting if begun else [EOS, *fitting])


def _completes(data: bytes, most: int) -> bool:
    """True if `data` is UTF-8, or becomes UTF-8 by at most `most` more bytes."""
    texts = (data + fill * count for fill in (b"\x80", b"\xbf") for count in range(max(most, 0) + 1))
    return any(text.decode(errors="ignore").encode() == text for text in texts)


ALLOWED = torch.stack([*(_allowed(b"", left) for left in range(5)), *(_allowed(begun, 4) for begun in BEGUN)])
"""(states, V): 0 for an id that may follow, else minus infinity. Rows 0 to 4: between characters, with that many bytes
left (4 or more for row 4). Row 5 + i: after BEGUN[i]."""
