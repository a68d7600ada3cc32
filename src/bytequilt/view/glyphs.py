"""What is drawn for each character: itself where it can be seen, otherwise a sign that stands for it."""

import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

Kind = Literal["plain", "mark", "space", "tab", "newline", "control", "invalid"]
SIGNS: dict[str, tuple[Kind, str]] = {"\n": ("newline", "↵"), "\t": ("tab", "→"), "\x7f": ("control", "␡")}
JOINERS = "\u200c\u200d"  # invisible, but emoji and several scripts fall apart without them
VIRAMA = 9  # combining class of the signs that tie two letters of Indic scripts together
LONGEST = 32  # code points drawn as one: marks can be piled up without end
CUT = "¦"
"""Stands at the head of a patch or token that begins inside a character; the character is drawn before it."""


class Glyph(NamedTuple):
    """What a reader sees as one character: a letter and its marks, the parts of an emoji; or a byte of no UTF-8."""

    start: int
    """In bytes of the text."""
    length: int
    """In bytes."""
    kind: Kind
    shown: str
    """Harmless wherever it is printed: the character, or a sign for it; of kind `invalid` two hex digits."""

    @property
    def rtl(self) -> bool:
        """Whether it is a letter of a script that is written from right to left."""
        return self.kind == "plain" and unicodedata.bidirectional(self.shown[0]) in ("R", "AL")


class Part(NamedTuple):
    """What is drawn of a run of bytes, such as a patch: the characters whose first byte lies in it."""

    inside: bool
    """Whether the run begins inside a character, which is drawn in an earlier part."""
    glyphs: list[Glyph]

    @property
    def text(self) -> str:
        """On one line, with CUT where it begins inside a character, and bytes that are not UTF-8 in hex."""
        shown = "".join(f"‹{glyph.shown}›" if glyph.kind == "invalid" else glyph.shown for glyph in self.glyphs)
        return CUT * self.inside + shown


def glyphs(data: bytes) -> Iterator[Glyph]:
    """The glyphs of a text, which cover its bytes in order."""
    at = 0
    for cluster in _clusters(data.decode("utf-8", "surrogateescape")):
        kind, shown = _seen(cluster)
        length = 1 if kind == "invalid" else len(cluster.encode())
        yield Glyph(at, length, kind, f"{data[at]:02x}" if kind == "invalid" else shown)
        at += length


def parts(data: bytes, starts: Sequence[int]) -> list[Part]:
    """What is drawn of each run of a text that is cut before the bytes `starts`, which ascend from 0."""
    cut = [Part(False, []) for _ in starts]
    for glyph in glyphs(data):
        first = bisect_right(starts, glyph.start) - 1
        cut[first].glyphs.append(glyph)
        for later in range(first + 1, bisect_right(starts, glyph.start + glyph.length - 1)):
            cut[later] = Part(True, [])
    return cut


def harmless(text: str) -> str:
    """A text as it may be printed: line breaks and tabs kept, anything else that is invisible as a middle dot."""
    return "".join("·" if _seen(char)[0] in ("control", "invalid") and char not in JOINERS else char for char in text)


def _clusters(text: str) -> Iterator[str]:
    """The characters of a text with what is drawn upon them or joined to them."""
    begin = 0
    for at in range(1, len(text) + 1):
        if at == len(text) or at - begin >= LONGEST or not _joined(text[begin], text[at - 1], text[at], at - begin):
            yield text[begin:at]
            begin = at


def _joined(base: str, before: str, char: str, size: int) -> bool:
    """Whether a character belongs to the one that began `size` code points ago."""
    if char < "\u0300" or base == " " or _seen(base)[0] not in ("plain", "mark"):
        return False
    if unicodedata.category(char)[0] == "M" or char in JOINERS or "\U0001f3fb" <= char <= "\U0001f3ff":
        return True
    if "\U0001f1e6" <= base <= "\U0001f1ff":  # two letters make a flag
        return size == 1 and "\U0001f1e6" <= char <= "\U0001f1ff"
    if before == "\u200d" or "\u1160" <= char <= "\u11ff":  # parts of an emoji, of a Korean syllable
        return char.isprintable()
    return unicodedata.combining(before) == VIRAMA and unicodedata.category(char) == "Lo"


def _seen(cluster: str) -> tuple[Kind, str]:
    char = cluster[0]
    if char in SIGNS:
        return SIGNS[char]
    if char < " ":
        return "control", chr(0x2400 + ord(char))
    if "\udc80" <= char <= "\udcff":
        return "invalid", ""
    if unicodedata.category(char)[0] == "M":
        return "mark", f"◌{cluster}"
    if char.isprintable() and char != " ":
        return "plain", cluster
    return ("space", "␣") if unicodedata.category(char) == "Zs" else ("control", "·")
