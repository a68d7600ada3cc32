"""Patches in a terminal, dark or light."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.style import Style
from rich.text import Text

from .glyphs import Glyph, glyphs
from .legend import BITS, colour, has_levels, summary

if TYPE_CHECKING:
    from .patched import PatchedText

INK = "#16181d"


def coloured(patched: "PatchedText") -> Text:
    """The text with a background for each patch, by the entropy that opened it, and a line of legend below."""
    text = Text()
    for index, part in enumerate(_by_patch(patched)):
        style = Style(color=INK, bgcolor=_tint(colour(patched.patches[index]), 0.62 if index % 2 else 0.36))
        text.append("".join(map(_shown, part)), style)
    _newline(text)
    text.append(summary(patched), "dim")
    if has_levels(patched):
        text.append(" · ", "dim")
        for bits, hue in enumerate(BITS):
            last = "+" if bits == len(BITS) - 1 else ""
            text.append(f" {bits}{last}", Style(color=INK, bgcolor=_tint(hue, 0.5)))
        text.append(" bits", "dim")
    return text


def shown(patched: "PatchedText") -> str:
    """The patched text as a string: coloured by ANSI codes for a terminal, otherwise with | between patches."""
    console = Console(force_jupyter=False)
    if console.color_system is None or console.no_color:
        text = Text("|".join("".join(map(_shown, part)) for part in _by_patch(patched)))
        _newline(text)
        return text.plain + summary(patched)
    with console.capture() as capture:
        console.print(coloured(patched), end="", soft_wrap=True)
    return capture.get()


# ------------------------------------------------------------------------------------------------------------ patches


def _by_patch(patched: "PatchedText") -> list[list[Glyph]]:
    starts = {patch.start: index for index, patch in enumerate(patched)}
    parts: list[list[Glyph]] = []
    for glyph in glyphs(patched.data, starts):
        if glyph.start in starts:
            parts.append([])
        parts[-1].append(glyph)
    return parts


def _shown(glyph: Glyph) -> str:
    special = {"space": " ", "newline": "↵\n", "control": "·", "fragment": f"‹{glyph.shown}›", "invalid": "�"}
    return special.get(glyph.kind, glyph.shown)


def _newline(text: Text) -> None:
    if text.plain and not text.plain.endswith("\n"):
        text.append("\n")


def _tint(hue: str, strength: float) -> str:
    """A colour laid thinly on white: with dark ink on it, it reads the same on a dark and on a light terminal."""
    return "#" + "".join(f"{round(255 - strength * (255 - int(hue[at : at + 2], 16))):02x}" for at in (1, 3, 5))
