"""Tokenizers for display: where each token of a text starts and how long it is, in bytes."""

import lzma
from collections.abc import Callable, Sequence
from importlib import resources
from itertools import accumulate
from pathlib import Path
from typing import Any

from ..codec import LETTERS
from ..config import UserError, library, one_line
from .vocabulary import BPE, RANKS_FILE, runs, spelled

Pieces = list[tuple[int, int]]
"""Start and length in bytes of each token, in order. Bytes that belong to no token are left out."""
DEFAULT = Path(str(resources.files("bytequilt") / "tokenizers" / "default.json.xz"))


class Tokenizer:
    """A tokenizer whose tokens are shown beside patches. It is not used for training."""

    def __init__(self, name: str, about: str, cut: Callable[[str], Pieces]) -> None:
        self.name, self.about, self._cut = name, about, cut

    def pieces(self, text: str | bytes) -> Pieces:
        """The tokens of a text of any bytes; a byte that is not UTF-8 is a separate token."""
        pieces, offset = Pieces(), 0
        for run, byte in runs(text):
            pieces += [(offset + start, length) for start, length in self._cut(run)]
            offset += len(run.encode())
            pieces += [(offset, 1)] if byte else []
            offset += len(byte)
        return pieces

    @classmethod
    def find(cls, name: str) -> "Tokenizer":
        """The tokenizer `default`, shipped with the package, or one from a path.

        The path is a `tokenizer.json`, a file of ranks as tiktoken and Llama 3 write it, or the directory of a model
        with a BPE. Raises UserError if there is no tokenizer, or if the library that reads it is not installed.
        """
        if name == "default":
            data, about = lzma.decompress(DEFAULT.read_bytes()), "bytequilt's own BPE of 32,000 entries, not Llama's"
            return cls.of_json(name, data, f"{name}, which ships with bytequilt", about)
        path = Path(name)
        if path.is_dir():
            path = next((path / file for file in ("tokenizer.json", RANKS_FILE) if (path / file).is_file()), path)
        try:
            data = path.read_bytes()
        except OSError as error:
            reason = error.strerror or "it cannot be read"
            raise UserError(f"no tokenizer '{name[:100]}' ({reason}); give `default` or a tokenizer file") from None
        if data.lstrip()[:1] == b"{":
            return cls.of_json(path.name, data, str(path))
        ranks = BPE.read(path)
        return cls(
            path.name,
            f"{len(ranks.ranks):,} ranks",
            lambda text: _in_a_row([ranks.text(id) for id in ranks.encode(text, bos=False).tolist()]),
        )

    @classmethod
    def of_json(cls, name: str, data: bytes, source: str, about: str = "") -> "Tokenizer":
        """A tokenizer of the Hugging Face library `tokenizers`, from the content of a file; `source` names the file in
        messages."""
        tokenizers = library("tokenizers", "a tokenizer.json needs tokenizers: pip install tokenizers")
        try:
            tokenizer = tokenizers.Tokenizer.from_buffer(data)
        except Exception as error:  # the library raises exceptions of several types
            raise UserError(f"{source[:150]} is not a tokenizer.json: {one_line(error)[:100]}") from None
        about = about or f"{tokenizer.get_vocab_size():,} entries"
        return cls(name, about, lambda text: _library_pieces(tokenizer, text))


def _in_a_row(tokens: Sequence[bytes]) -> Pieces:
    lengths = [len(token) for token in tokens]
    return list(zip(accumulate(lengths, initial=0), lengths, strict=False))


def _library_pieces(tokenizer: Any, text: str) -> Pieces:
    """Tokens by the bytes that they spell if the tokenizer is a byte-level BPE, otherwise by character offsets."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    if all(char in LETTERS for token in encoding.tokens for char in token):
        tokens = [spelled(token) for token in encoding.tokens]
        if b"".join(tokens) == text.encode():
            return _in_a_row(tokens)
    return _by_characters(encoding.offsets, text)


def _by_characters(offsets: list[tuple[int, int]], text: str) -> Pieces:
    """Convert character offsets to bytes. If tokens share a character, each of them except the last gets one byte."""
    offset = [0]
    for char in text:
        offset.append(offset[-1] + len(char.encode()))
    pieces: Pieces = []
    at = 0
    for index, (begin, end) in enumerate(offsets):
        start, stop = max(offset[begin], at), offset[end]
        shared = index + 1 < len(offsets) and offsets[index + 1][0] < end
        length = min(1, stop - start) if shared else stop - start
        pieces.append((start, max(0, length)))
        at = max(at, start + max(0, length))
    return pieces
