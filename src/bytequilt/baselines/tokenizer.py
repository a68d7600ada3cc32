"""Tokenizers from files, to show how they cut a text: where each token starts, and how long it is, in bytes."""

import lzma
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from ..codec import as_bytes
from ..config import UserError, one_line
from .vocabulary import BPE, LETTERS, NOT_TEXT

Pieces = list[tuple[int, int]]
"""Start and length of each token, in bytes, in order; bytes that no token stands for are left out."""
DEFAULT = Path(str(resources.files("bytequilt") / "tokenizers" / "default.json.xz"))
LEARNT = "tokenizer.model"
"""The file of a model directory that holds the ranks of a BPE learnt by `compare`."""


class Tokenizer:
    """A tokenizer that is not used to train anything, but shown beside patches."""

    def __init__(self, name: str, about: str, cut: Callable[[str], Pieces]) -> None:
        self.name, self.about, self._cut = name, about, cut

    def pieces(self, text: str | bytes) -> Pieces:
        """The tokens of a text of any bytes; a byte that is not UTF-8 is a token of its own."""
        whole, done, place = as_bytes(text).decode("utf-8", "surrogateescape"), 0, 0
        pieces: Pieces = []
        for byte in NOT_TEXT.finditer(whole):
            pieces += [(place + start, length) for start, length in self._cut(whole[done : byte.start()])]
            place += len(whole[done : byte.start()].encode())
            pieces.append((place, 1))
            done, place = byte.end(), place + 1
        return pieces + [(place + start, length) for start, length in self._cut(whole[done:])]

    @classmethod
    def find(cls, name: str) -> "Tokenizer":
        """The tokenizer `default`, which ships with the package, or that of a file: a `tokenizer.json`, or ranks as
        tiktoken and Llama 3 write them; or of the directory of a model with a BPE.

        Raises UserError where there is none, or what reads it is not installed.
        """
        if name == "default":
            return cls.of_json(name, lzma.decompress(DEFAULT.read_bytes()), f"{name}, which ships with bytequilt", OURS)
        path = Path(name)
        if path.is_dir():
            path = next((path / file for file in ("tokenizer.json", LEARNT) if (path / file).is_file()), path)
        try:
            data = path.read_bytes()
        except OSError as error:
            reason = error.strerror or "it cannot be read"
            raise UserError(f"no tokenizer '{name[:100]}' ({reason}); `default`, or a file of one") from None
        if data.lstrip()[:1] == b"{":
            return cls.of_json(path.name, data, str(path))
        ranks = BPE.read(path)
        return cls(path.name, f"{len(ranks.ranks):,} ranks", lambda text: _in_a_row(_lengths(ranks, text)))

    @classmethod
    def of_json(cls, name: str, data: bytes, source: str, about: str = "") -> "Tokenizer":
        """A tokenizer of the Hugging Face library; `source` is what messages call it."""
        try:
            from tokenizers import Tokenizer as Library
        except ImportError:
            raise UserError("a tokenizer.json needs tokenizers: pip install tokenizers") from None
        try:
            library = Library.from_buffer(data)
        except Exception as error:  # the library raises its own kinds, and plain ones
            raise UserError(f"{source[:150]} is not a tokenizer.json: {one_line(error)[:100]}") from None
        about = about or f"{library.get_vocab_size():,} entries"
        return cls(name, about, lambda text: _library_pieces(library, text))


OURS = "bytequilt's own BPE of 32,000 entries, not Llama's"


def _lengths(ranks: BPE, text: str) -> Iterator[int]:
    return (len(ranks.text(int(id))) for id in ranks.encode(text, bos=False))


def _in_a_row(lengths: Iterator[int]) -> Pieces:
    pieces, at = [], 0
    for length in lengths:
        pieces.append((at, length))
        at += length
    return pieces


def _library_pieces(library: Any, text: str) -> Pieces:
    """By the bytes that its tokens spell, where it is a byte-level BPE; otherwise by the characters they stand for."""
    encoding = library.encode(text, add_special_tokens=False)
    if all(char in LETTERS for token in encoding.tokens for char in token):
        spelled = [bytes(LETTERS[char] for char in token) for token in encoding.tokens]
        if b"".join(spelled) == text.encode():
            return _in_a_row(map(len, spelled))
    return _by_characters(encoding.offsets, text)


def _by_characters(offsets: list[tuple[int, int]], text: str) -> Pieces:
    """Spans of characters as spans of bytes; of tokens that share characters, each but the last gets one byte."""
    place = [0]
    for char in text:
        place.append(place[-1] + len(char.encode()))
    pieces: Pieces = []
    at = 0
    for index, (begin, end) in enumerate(offsets):
        start, stop = max(place[begin], at), place[end]
        shared = index + 1 < len(offsets) and offsets[index + 1][0] < end
        length = min(1, stop - start) if shared else stop - start
        pieces.append((start, max(0, length)))
        at = max(at, start + max(0, length))
    return pieces
