"""Divides the documents of a recipe's sources into training documents and held-out documents."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from types import MappingProxyType

import numpy as np

from ..config import DataConfig, foreign
from .sources import Document, Part, files, nothing, parts
from .walk import Identity, identity

HELD_PART = 10
"""With few documents, the last 1 / HELD_PART of their bytes is held out."""

EVERYTHING: Mapping[int, np.ndarray] = MappingProxyType({})
"""An empty set of counts: all parts are read."""
Row = tuple[bool, int, Document]
"""(held out or not, number of the source, document)."""


@dataclass(frozen=True)
class Counted(Document):
    """A document that was counted but not read. `data` has its length, but not its content."""

    part: int = 0
    kept: bool = True
    """False if `share` leaves the document out."""


class Corpus:
    """Reads the documents that a data configuration names, one at a time. It counts those that `where`
    and `share` leave out, so that the user can be told how many there were."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self._dropped: Counter[str] = Counter()
        self._total = 0
        besides = {identity(path) for source in config.val for path in files(source)}
        self.parts = self._parts(config.train, besides)
        """(number of its source, function that reads its documents) of each part, usually a file; `val` is last."""
        self._border = len(self.parts)
        self.parts += self._parts(config.val, set())
        self._foreign: list[str] = []

    def documents(self, counted: Mapping[int, np.ndarray] = EVERYTHING) -> Iterator[Row]:
        """Yield every document once, in the order of the sources; documents of `val` are last.

        Without `val`, every `val_every`-th document is held out. If there are fewer documents than that, the last tenth
        of their bytes is held out, cut at a paragraph. `counted` maps part numbers to results of `count`: these parts
        are not read, and their documents are `Counted` objects.
        """
        config = self.config
        rows = self._rows(range(self._border), config.train, counted)
        if config.val:
            yield from self._shared((False, *row) for row in rows)
            held_out = self._rows(range(self._border, len(self.parts)), config.val, counted)
            yield from ((True, *row) for row in held_out)
            return
        first = list(islice(rows, config.val_every))
        if len(first) < config.val_every:
            yield from self._shared(split_by_bytes(first))
        else:
            numbered = enumerate(chain(first, rows), 1)
            yield from self._shared((number % config.val_every == 0, *row) for number, row in numbered)

    def count(self, number: int) -> np.ndarray:
        """Read a part; return int64 numbers: how many documents `where` leaves out, then the size of each other one. A
        size is negative if `share` leaves the document out."""
        dropped: Counter[str] = Counter()
        _, read_part = self.parts[number]
        texts = [(len(d.data), _kept(d.id, self.config.share)) for d in read_part(dropped) if d.data]
        return np.array([dropped["where"], *(size if kept else -size for size, kept in texts)], np.int64)

    def not_utf8(self) -> str:
        """A one-line message about the documents read by this process that are not UTF-8; empty if there are none."""
        count = len(self._foreign)
        more = f", and so are {count - 1:,} more" if count > 1 else ""
        return f"corpus: {self._foreign[0]}, not UTF-8{more}; bytes are taken as they are" if count else ""

    def left_out(self) -> str:
        """A one-line message about the documents that `where` and `share` left out; empty if there are none."""
        config, parts = self.config, []
        if count := self._dropped["where"]:
            wanted = ", ".join(f"{name} = {' or '.join(values)}" for name, values in config.where.items())
            parts.append(f"`where` ({wanted[:120]}) leaves out {count:,}")
        if count := self._dropped["share"]:
            parts.append(f"`share` ({config.share:g}) leaves out {count:,}")
        total = self._total + self._dropped["where"]
        return f"corpus: of {total:,} documents, {' and '.join(parts)}" if parts else ""

    def _parts(self, sources: tuple[str, ...], besides: set[Identity]) -> list[tuple[int, Part]]:
        numbered = []
        for index, source in enumerate(sources):
            numbered += [(index, part) for part in parts(source, self.config, besides)]
            besides |= {identity(path) for path in files(source)} if len(sources) > 1 else set()
        return numbered

    def _rows(
        self, numbers: range, sources: tuple[str, ...], counted: Mapping[int, np.ndarray]
    ) -> Iterator[tuple[int, Document]]:
        for index, group in groupby(numbers, lambda number: self.parts[number][0]):
            empty = True
            for number in group:
                for document in self._known(number, counted[number]) if number in counted else self._read(number):
                    if document.data:
                        empty = False
                        self._total += 1
                        yield index, document
            if empty:
                raise nothing(sources[index], self.config)

    def _read(self, number: int) -> Iterator[Document]:
        for document in self.parts[number][1](self._dropped):
            if encoding := foreign(document.data):
                self._foreign.append(f"{document.id[-100:]} is {encoding}")
            yield document

    def _known(self, number: int, counts: np.ndarray) -> Iterator[Document]:
        self._dropped["where"] += int(counts[0])
        return (Counted("", range(abs(n)), part=number, kept=n > 0) for n in counts[1:].tolist())  # type: ignore[arg-type]

    def _shared(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Drop the training documents that `share` leaves out, and count them."""
        for held_out, source, document in rows:
            kept = document.kept if isinstance(document, Counted) else _kept(document.id, self.config.share)
            if held_out or kept:
                yield held_out, source, document
            else:
                self._dropped["share"] += 1


def split_by_bytes(rows: list[tuple[int, Document]]) -> Iterator[Row]:
    """Hold out the last tenth of the bytes. A document across the border is cut in two, unless it has a prompt."""
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
    """Where to cut at or before byte `near`: after the last empty line, else after a line, a word or a character.

    Only the half before `near` is searched. The result is more than 0 and at most `near`.
    """
    for mark in (b"\n\n", b"\r\n\r\n", b"\n", b" "):
        at = data.rfind(mark, near // 2, near)
        if at >= 0 and at + len(mark) <= near:
            return at + len(mark)
    whole = (at for at in range(near, max(0, near - 4), -1) if not 0x80 <= data[at] < 0xC0)
    return next(whole, near)


def _kept(id: str, share: float) -> bool:
    """True if a hash of the id is below `share`. A larger share keeps the same documents and more."""
    return int.from_bytes(hashlib.sha256(id.encode("utf-8", "surrogatepass")).digest()[:8]) < share * 2**64
