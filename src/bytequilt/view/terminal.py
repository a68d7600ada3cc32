"""Patches in a terminal with a dark or a light background."""

from bisect import bisect_right
from collections.abc import Container, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from rich.text import Text

from .glyphs import CUT, Glyph, glyphs, parts
from .legend import BITS, NEUTRAL, Scale, level, summary, token_summary

if TYPE_CHECKING:
    from .patched import PatchedText

INK = "#16181d"
WIDTH = 76


def coloured(patched: "PatchedText", width: int = WIDTH) -> Text:
    """The text and its legend. The background colour of a patch shows the entropy that opened it.

    If there are tokens, lines of at most `width` cells alternate: one of patches, one of tokens.
    """
    scale = Scale.of(patched)
    text = body(patched, scale) if patched.tokens is None else _two_layers(patched, scale, width)
    _newline(text)
    return text.append_text(legend(summary(patched), scale, token_summary(patched), _inside(patched)))


def shown(patched: "PatchedText") -> str:
    """The patched text as a string: coloured by ANSI codes in a terminal, otherwise with | between patches.

    A patch that begins inside a character is marked by ¦ after the character.
    """
    console = Console(force_jupyter=False)
    if is_plain(console):
        text = Text(barred(patched.data, [patch.start for patch in patched]))
        _newline(text)
        if patched.tokens is not None:
            text.append(barred(patched.data, [start for start, _ in patched.tokens.runs(len(patched.data))]))
            _newline(text)
        return "\n".join(filter(None, (text.plain + summary(patched), token_summary(patched))))
    return ansi(console, coloured(patched, console.width))


def ansi(console: Console, text: Text) -> str:
    """A coloured text as a string with ANSI codes."""
    with console.capture() as capture:
        console.print(text, end="", soft_wrap=True)
    return capture.get()


def is_plain(console: Console) -> bool:
    """True if a console shows no colours."""
    return console.color_system is None or console.no_color


def barred(data: bytes, starts: Sequence[int]) -> str:
    """A text with | at each cut, or ¦ if the cut is inside the character before it."""
    out = []
    for index, part in enumerate(parts(data, starts)):
        bar = "" if index == 0 else CUT if part.inside else "|"
        out.append(bar + "".join(map(_shown, part.glyphs)))
    return "".join(out)


def body(patched: "PatchedText", scale: Scale | None) -> Text:
    """The text with a background colour for each patch."""
    text = Text()
    for index, part in enumerate(parts(patched.data, [patch.start for patch in patched])):
        drawn = CUT * part.inside + "".join(map(_shown, part.glyphs))
        text.append(drawn, _style(level(scale, patched.patches[index]), index))
    return text


def legend(words: str, scale: Scale | None, tokens: str = "", cut: bool = False) -> Text:
    """The lines below a text: the summary `words`, the colours of `scale`, and with `cut` the sign ¦; then the line of
    `tokens`."""
    text = Text(words, "dim")
    if scale is not None:
        low, high = scale.ends
        text.append(f" · opened by {low} ", "dim")
        for at in scale.levels:
            text.append("██", Style(color=_tint(BITS[at], 0.5)))  # seen where there are no colours, too
        text.append(f" {high}, grey: not opened by entropy", "dim")
    if cut:
        text.append(f" · {CUT} cuts a character", "dim")
    return text.append(f"\n{tokens}", "dim") if tokens else text


def _two_layers(patched: "PatchedText", scale: Scale | None, width: int) -> Text:
    """Lines of patches; under each line, the tokens of the same characters in the same columns."""
    assert patched.tokens is not None
    patch_starts = [patch.start for patch in patched]
    runs = patched.tokens.runs(len(patched.data))
    layers = (
        (patch_starts, [_style(level(scale, patch), index) for index, patch in enumerate(patched)]),
        ([start for start, _ in runs], [_token_style(token, index) for index, (_, token) in enumerate(runs)]),
    )
    lines: list[list[list[tuple[str, Style]]]] = []
    used = width
    for cell, place, mark in _cells(patched.data, {start for starts, _ in layers for start in starts}):
        size = cell_len(cell)
        if used + size > width:
            lines.append([[], []])
            used = 0
        for line, (starts, styles) in zip(lines[-1], layers, strict=True):
            index = bisect_right(starts, place) - 1
            line.append((" " if mark and starts[index] != place else cell, styles[index]))
        used = width if cell == "↵" else used + size
    between = "\n\n" if len(lines) > 1 else "\n"
    return Text(between).join(Text("\n").join(map(_joined, line)) for line in lines)


def _joined(cells: list[tuple[str, Style]]) -> Text:
    """The cells as one text; neighbours of the same style become one piece."""
    runs = groupby(cells, key=lambda cell: cell[1])
    return Text.assemble(*(("".join(text for text, _ in run), style) for style, run in runs))


def _cells(data: bytes, starts: Container[int]) -> Iterator[tuple[str, int, bool]]:
    """The cells of a text: (what is drawn, byte offset, True for a CUT sign inside a character)."""
    for glyph in glyphs(data):
        yield "↵" if glyph.kind == "newline" else _shown(glyph), glyph.start, False
        for place in range(glyph.start + 1, glyph.start + glyph.length):
            if place in starts:
                yield CUT, place, True


def _inside(patched: "PatchedText") -> bool:
    """True if a patch or token begins inside a character."""
    starts = [patch.start for patch in patched], [start for start, _ in patched.tokens.pieces] if patched.tokens else []
    between = {glyph.start for glyph in glyphs(patched.data)} | {len(patched.data)}
    return any(start not in between for layer in starts for start in layer)


def _style(level: int | None, index: int) -> Style:
    hue = NEUTRAL if level is None else BITS[level]
    return Style(color=INK, bgcolor=_tint(hue, 0.62 if index % 2 else 0.36))


def _token_style(token: bool, index: int) -> Style:
    return Style(color=INK, bgcolor=_tint(NEUTRAL, 0.5 if index % 2 else 0.24)) if token else Style(dim=True)


def _shown(glyph: Glyph) -> str:
    special = {"space": " ", "newline": "↵\n", "invalid": f"‹{glyph.shown}›"}
    return special.get(glyph.kind, glyph.shown)


def _newline(text: Text) -> None:
    if text.plain and not text.plain.endswith("\n"):
        text.append("\n")


def _tint(hue: str, strength: float) -> str:
    """A colour mixed with white; `strength` is its share. Dark letters on it are readable in any terminal."""
    return "#" + "".join(f"{round(255 - strength * (255 - int(hue[at : at + 2], 16))):02x}" for at in (1, 3, 5))
