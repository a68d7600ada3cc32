"""Patches, and below them tokens, as running text of an HTML page. Letters join, and lines run left or right, as usual
in their script."""

from html import escape
from typing import TYPE_CHECKING

from .glyphs import CUT, Glyph, parts
from .legend import ACCENT, BITS, NEUTRAL, Scale, level

if TYPE_CHECKING:
    from .patched import PatchedText

FLOW_STYLE = (
    ".bytequilt-text{margin:0 0 .5rem;line-height:1.9;font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"
    "'DejaVu Sans Mono',monospace;overflow-wrap:anywhere}"
    ".bytequilt-text bdi{display:block;white-space:pre-wrap}"
    ".bytequilt-text span{color:#16181d;padding:.15em 0}"
    ".bytequilt-text .odd{filter:brightness(1.12)}"
    ".bytequilt-text u{text-decoration:none;opacity:.45}"
    f".bytequilt-text b{{color:{ACCENT};font-weight:400}}"
    f".bytequilt-n{{background:{NEUTRAL}}}.bytequilt-t{{background:#c9cdd2}}.bytequilt-t.odd{{background:#e4e6e9}}"
) + "".join(f".bytequilt-c{at}{{background:{hue}}}" for at, hue in enumerate(BITS))


def flow(patched: "PatchedText", scale: Scale | None) -> str:
    """HTML: the text coloured by patches, then the text coloured by tokens if there are any."""
    levels = [level(scale, patch) for patch in patched]
    classes = ["n" if at is None else f"c{at}" for at in levels]
    paragraphs = _paragraph(patched.data, [patch.start for patch in patched], classes, "")
    if patched.tokens is not None:
        runs = patched.tokens.runs(len(patched.data))
        classes = ["t" if token else "" for _, token in runs]
        paragraphs += _paragraph(patched.data, [start for start, _ in runs], classes, " bytequilt-tokens")
    return paragraphs


def _paragraph(data: bytes, starts: list[int], classes: list[str], kind: str) -> str:
    """HTML of runs of bytes from `starts`, with CSS `classes`. Each line has the direction of its first letter."""
    lines: list[list[str]] = [[]]
    for index, (part, name) in enumerate(zip(parts(data, starts), classes, strict=True)):
        attribute = f' class="bytequilt-{name}{" odd" * (index % 2)}"' if name else ""
        pieces = [f"<b>{CUT}</b>"] * part.inside
        for glyph in part.glyphs:
            pieces.append(_shown(glyph))
            if glyph.kind == "newline":
                lines[-1].append(f"<span{attribute}>{''.join(pieces)}</span>")
                lines.append([])
                pieces = []
        if pieces:
            lines[-1].append(f"<span{attribute}>{''.join(pieces)}</span>")
    drawn = "".join(f'<bdi dir="auto">{"".join(line)}</bdi>' for line in lines if line)
    return f'<div class="bytequilt-text{kind}">{drawn}</div>\n'


def _shown(glyph: Glyph) -> str:
    match glyph.kind:
        case "plain" | "mark":
            return escape(glyph.shown)
        case "space":
            return " "
        case "invalid":
            return f"<u>‹{glyph.shown}›</u>"
        case _:
            return f"<u>{glyph.shown}</u>"
