"""Which documents of a recipe's sources are trained on, and which are held out."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice

from ..config import DataConfig, foreign
from .sources import Document, documents, files
from .walk import Identity, identity

HELD_PART = 10
"""Where there are few documents, one byte in so many is held out."""

Row = tuple[bool, int, Document]
"""Whether it is held out, the number of its source, and the document."""


class Corpus:
    """The documents of a data configuration. Counts what it leaves out."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self._dropped: Counter[str] = Counter()
        self._total = 0
        self._foreign: list[str] = []

    def documents(self) -> Iterator[Row]:
        """Every document once, in the order of the sources, those of `val` last.

        Without `val` every `val_every`-th document is held out; of fewer documents than that, the last tenth of their
        bytes, cut at a paragraph.
        """
        config = self.config
        held_out = {identity(path) for source in config.val for path in files(source)}
        rows = self._rows(config.train, held_out)
        if config.val:
            yield from self._shared((False, *row) for row in rows)
            yield from ((True, *row) for row in self._rows(config.val, set()))
            return
        first = list(islice(rows, config.val_every))
        if len(first) < config.val_every:
            yield from self._shared(split_by_bytes(first))
        else:
            numbered = enumerate(chain(first, rows), 1)
            yield from self._shared((number % config.val_every == 0, *row) for number, row in numbered)

    def not_utf8(self) -> str:
        """Which documents are not UTF-8, as a line; empty where all are."""
        count = len(self._foreign)
        more = f", and so are {count - 1:,} more" if count > 1 else ""
        return f"corpus: {self._foreign[0]}, not UTF-8{more}; bytes are taken as they are" if count else ""

    def left_out(self) -> str:
        """What `where` and `share` left out of the sources, as a line; empty where they left out nothing."""
        config, parts = self.config, []
        if count := self._dropped["where"]:
            wanted = ", ".join(f"{name} = {' or '.join(values)}" for name, values in config.where.items())
            parts.append(f"`where` ({wanted[:120]}) leaves out {count:,}")
        if count := self._dropped["share"]:
            parts.append(f"`share` ({config.share:g}) leaves out {count:,}")
        total = self._total + self._dropped["where"]
        return f"corpus: of {total:,} documents, {' and '.join(parts)}" if parts else ""

    def _rows(self, sources: tuple[str, ...], besides: set[Identity]) -> Iterator[tuple[int, Document]]:
        for index, source in enumerate(sources):
            for document in documents(source, self.config, besides, self._dropped):
                self._total += 1
                if encoding := foreign(document.data):
                    self._foreign.append(f"{document.id[-100:]} is {encoding}")
                yield index, document
            besides |= {identity(path) for path in files(source)} if len(sources) > 1 else set()

    def _shared(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Without the training documents that `share` leaves out: always the same ones for the same share."""
        for held_out, source, document in rows:
            if held_out or _kept(document.id, self.config.share):
                yield held_out, source, document
            else:
                self._dropped["share"] += 1


def split_by_bytes(rows: list[tuple[int, Document]]) -> Iterator[Row]:
    """The documents with their last tenth held out; one that straddles the border is cut, unless it has a prompt."""
    total = sum(len(document.data) for _, document in rows)
    border = left = total - max(1, total // HELD_PART)
    for source, document in rows:
        size = len(document.data)
        if size <= left or (document.prompt and left == border):
            yield False, source, document
        elif left <= 0 or document.prompt:
            yield True, source, document
        else:
            cut = paragraph(document.data, left)
            yield False, source, replace(document, data=document.data[:cut])
            yield True, source, replace(document, id=f"{document.id}:{cut}", data=document.data[cut:])
        left -= size


def paragraph(data: bytes, near: int) -> int:
    """Where a paragraph begins before this byte, else a line, else a word or a character; never 0 or beyond `near`."""
    for mark in (b"\n\n", b"\r\n\r\n", b"\n", b" "):
        at = data.rfind(mark, near // 2, near)
        if at >= 0 and at + len(mark) <= near:
            return at + len(mark)
    whole = (at for at in range(near, max(0, near - 4), -1) if not 0x80 <= data[at] < 0xC0)
    return next(whole, near)


def _kept(id: str, share: float) -> bool:
    """Whether a document is among the share to keep: always the same ones, and more of them for a larger share."""
    return int.from_bytes(hashlib.sha256(id.encode("utf-8", "surrogatepass")).digest()[:8]) < share * 2**64
