"""Glyphs: visible forms of all characters. A visible character is shown as itself, others as a sign."""

import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

Kind = Literal["plain", "mark", "space", "tab", "newline", "control", "invalid"]
SIGNS: dict[str, tuple[Kind, str]] = {"\n": ("newline", "↵"), "\t": ("tab", "→"), "\x7f": ("control", "␡")}
JOINERS = "\u200c\u200d"  # invisible characters that emoji and several scripts need
VIRAMA = 9  # combining class of signs that join two letters in Indic scripts
LONGEST = 32  # largest number of code points per glyph, since a text may have endless combining marks
CUT = "¦"
"""Printed before a patch or token that begins inside a character. The character belongs to the patch before."""


class Glyph(NamedTuple):
    """One visible character: a letter with its marks, a whole emoji, or a single byte that is not valid UTF-8."""

    start: int
    """Byte offset in the text."""
    length: int
    """Length in bytes."""
    kind: Kind
    shown: str
    """Text that is safe to print: the character or a sign for it; two hex digits if the kind is `invalid`."""

    @property
    def rtl(self) -> bool:
        """True for a letter of a script that is written from right to left."""
        return self.kind == "plain" and unicodedata.bidirectional(self.shown[0]) in ("R", "AL")


class Part(NamedTuple):
    """The glyphs of a run of bytes, such as a patch. A glyph belongs to the run that has its first byte."""

    inside: bool
    """True if the run begins inside a character. An earlier part then has the glyph."""
    glyphs: list[Glyph]

    @property
    def text(self) -> str:
        """The part as one line: first CUT if it begins inside a character; invalid bytes in hex."""
        shown = "".join(f"‹{glyph.shown}›" if glyph.kind == "invalid" else glyph.shown for glyph in self.glyphs)
        return CUT * self.inside + shown


def glyphs(data: bytes) -> Iterator[Glyph]:
    """The glyphs of a text in order. Together they cover all its bytes."""
    at = 0
    for cluster in _clusters(data.decode("utf-8", "surrogateescape")):
        kind, shown = _seen(cluster)
        length = 1 if kind == "invalid" else len(cluster.encode())
        yield Glyph(at, length, kind, f"{data[at]:02x}" if kind == "invalid" else shown)
        at += length


def parts(data: bytes, starts: Sequence[int]) -> list[Part]:
    """The parts of a text that is cut before each byte in `starts`; `starts` are in rising order and begin with 0."""
    cut = [Part(False, []) for _ in starts]
    for glyph in glyphs(data):
        first = bisect_right(starts, glyph.start) - 1
        cut[first].glyphs.append(glyph)
        for later in range(first + 1, bisect_right(starts, glyph.start + glyph.length - 1)):
            cut[later] = Part(True, [])
    return cut


def harmless(text: str) -> str:
    """A text that is safe to print: control characters become middle dots, except line breaks and tabs."""
    return "".join("·" if _seen(char)[0] in ("control", "invalid") and char not in JOINERS else char for char in text)


def _clusters(text: str) -> Iterator[str]:
    """Split a text into visible characters, each with its combining marks and joined parts."""
    begin = 0
    for at in range(1, len(text) + 1):
        if at == len(text) or at - begin >= LONGEST or not _joined(text[begin], text[at - 1], text[at], at - begin):
            yield text[begin:at]
            begin = at


def _joined(base: str, before: str, char: str, size: int) -> bool:
    """True if `char` belongs to the visible character that began with `base`, `size` code points before."""
    if char < "\u0300" or base == " " or _seen(base)[0] not in ("plain", "mark"):
        return False
    if unicodedata.category(char)[0] == "M" or char in JOINERS or "\U0001f3fb" <= char <= "\U0001f3ff":
        return True
    if "\U0001f1e6" <= base <= "\U0001f1ff":  # two letters make a flag
        return size == 1 and "\U0001f1e6" <= char <= "\U0001f1ff"
    if before == "\u200d" or "\u1160" <= char <= "\u11ff":  # part of an emoji, or of a Korean syllable
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
