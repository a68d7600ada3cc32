"""Bytes to ids and back. An id is byte + 4; ids 0 to 3 are special, so the vocabulary has 260 entries."""

import codecs
from collections.abc import Iterable, Iterator
from operator import index
from typing import Any

import numpy as np

from .config import UserError, as_bytes

BOE, BOS, EOS, BPE_DELIMITER = range(4)
OFFSET = 4
VOCAB_SIZE = 256 + OFFSET
NEWLINE = ord("\n") + OFFSET
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
LETTERS = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + index): byte for index, byte in enumerate(_OTHERS)}
"""The byte of each character of a byte-level BPE, which writes all bytes as printable characters other than spaces."""


def encode(text: str | bytes, *, bos: bool = True, eos: bool = False) -> np.ndarray:
    """Ids (n,) int64 of a text: BOS first unless told otherwise, EOS last if asked. Any bytes are valid."""
    data = np.frombuffer(as_bytes(text), dtype=np.uint8).astype(np.int64) + OFFSET
    return np.concatenate([np.full(int(bos), BOS), data, np.full(int(eos), EOS)]).astype(np.int64)


def decode(ids: Iterable[int]) -> bytes:
    """The bytes among the ids; special ids are dropped.

    Raises ValueError for an id outside the vocabulary, and UserError for what is no series of whole numbers.
    """
    try:
        values = np.fromiter(map(index, ids), dtype=np.int64)
    except (TypeError, RuntimeError, OverflowError):
        raise UserError(f"ids must be a series of whole numbers, as encode gives, not {repr(ids)[:60]}") from None
    if values.size and (values.min() < 0 or values.max() >= VOCAB_SIZE):
        raise ValueError(f"ids must lie in 0..{VOCAB_SIZE - 1}, found {values.min()}..{values.max()}")
    return (values[values >= OFFSET] - OFFSET).astype(np.uint8).tobytes()


class TextStream:
    """Text out of bytes that arrive in pieces: characters whole, invalid bytes as U+FFFD, nothing lost or doubled."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> str:
        """The text that these bytes complete; the start of an unfinished character is kept for the next call."""
        return self._decoder.decode(data)

    def close(self) -> str:
        """What is left at the end: U+FFFD for an unfinished character, otherwise nothing."""
        return self._decoder.decode(b"", final=True)


def as_texts(texts: Any) -> Iterator[bytes]:
    """Each of several texts as bytes, as they are asked for. Raises UserError, at once, for a single text or none."""
    if isinstance(texts, str | bytes) or (several := _several(texts)) is None:
        raise UserError(f"several texts are wanted, such as a list, not {type(texts).__name__}")
    return map(as_bytes, several)


def _several(things: Any) -> Iterator[Any] | None:
    """What goes through some things; None for one alone, such as an array without dimensions."""
    try:
        return iter(things)
    except TypeError:
        return None


def grouped(texts: Iterable[bytes], limit: int) -> Iterator[list[bytes]]:
    """Consecutive texts in groups of at most `limit` bytes; a longer text is a group of its own."""
    group: list[bytes] = []
    size = 0
    for text in texts:
        if group and size + len(text) > limit:
            yield group
            group, size = [], 0
        group.append(text)
        size += len(text)
    if group:
        yield group


def as_pairs(pairs: Any) -> list[tuple[bytes, bytes]]:
    """Pairs of texts as bytes. Raises UserError for anything else."""
    several = _several(pairs)
    pairs = [pairs] if several is None else list(several)
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise UserError("a context and its continuation are wanted, or a list of such pairs")
    return [(as_bytes(before), as_bytes(after)) for before, after in pairs]
