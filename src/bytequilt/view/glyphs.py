"""What is drawn for each byte: its character where that is whole and visible, otherwise a sign that stands for it."""

import unicodedata
from collections.abc import Collection, Iterator
from typing import Literal, NamedTuple

Kind = Literal["plain", "space", "tab", "newline", "control", "fragment", "invalid"]
BYTES = ("control", "fragment", "invalid")
SIGNS: dict[str, tuple[Kind, str]] = {"\n": ("newline", "↵"), "\t": ("tab", "→")}
JOINERS = "\u200c\u200d"  # invisible, but emoji and several scripts fall apart without them


class Glyph(NamedTuple):
    """A character, or a byte of one that is invisible (control), was cut (fragment), or never was one (invalid)."""

    start: int
    """In bytes of the text."""
    length: int
    """In bytes."""
    kind: Kind
    shown: str
    """Harmless wherever it is printed: the character or a sign for it; two hex digits for the kinds in `BYTES`."""


def glyphs(data: bytes, cuts: Collection[int] = frozenset()) -> Iterator[Glyph]:
    """The glyphs of a text, which cover its bytes in order; a character with a cut inside falls into its bytes."""
    at = 0
    for char in data.decode("utf-8", "surrogateescape"):
        kind, shown = _seen(char)
        length = 1 if kind == "invalid" else len(char.encode())
        if length > 1 and any(cut in cuts for cut in range(at + 1, at + length)):
            kind = "fragment"
        if kind in BYTES:
            yield from (Glyph(place, 1, kind, f"{data[place]:02x}") for place in range(at, at + length))
        else:
            yield Glyph(at, length, kind, shown)
        at += length


def harmless(text: str) -> str:
    """A text as it may be printed: line breaks and tabs kept, anything else that is invisible as a middle dot."""
    return "".join("·" if _seen(char)[0] in BYTES else char for char in text)


def _seen(char: str) -> tuple[Kind, str]:
    if char in SIGNS:
        return SIGNS[char]
    if (char.isprintable() and char != " ") or char in JOINERS:
        return "plain", char
    if unicodedata.category(char) == "Zs":
        return "space", "␣"
    return ("invalid" if "\udc80" <= char <= "\udcff" else "control"), ""
