"""Patches as a figure: the entropy of each byte above the text, the threshold, and a patch wherever it is crossed."""

from html import escape
from math import ceil
from typing import TYPE_CHECKING

from .glyphs import BYTES, Glyph, glyphs, harmless
from .legend import ACCENT, BITS, NEUTRAL, has_levels, level, summary

if TYPE_CHECKING:
    from .patched import Patch, PatchedText

COLUMNS = 72
FEWEST = 24  # columns of a short text, so that the words of the legend fit beside it
CELL, PLOT, LINE, GAP = 10, 60, 20, 16  # width of a byte, then heights: of the curve, of the text, between rows
LEFT, RIGHT, TOP = 42, 58, 14
ZOOM = 1.4  # pixels of a page for a unit of the figure

FIGURE_STYLE = (
    ".bytequilt{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:13px}"
    ".bytequilt text{fill:currentColor;text-anchor:middle;pointer-events:none}"
    ".bytequilt .faint{opacity:.38}"
    ".bytequilt .hex{font-size:7.5px;opacity:.75}"
    ".bytequilt .axis{font-size:8px;opacity:.55;text-anchor:end}"
    ".bytequilt .limit{font-size:8px;fill:" + ACCENT + ";text-anchor:start}"
    ".bytequilt .grid{stroke:currentColor;stroke-width:.5;opacity:.14}"
    ".bytequilt .starts{stroke:currentColor;stroke-width:.5;opacity:.3}"
    ".bytequilt .curve{fill:none;stroke:currentColor;stroke-width:1;opacity:.75;pointer-events:none}"
    ".bytequilt .threshold{stroke:" + ACCENT + ";stroke-width:1;stroke-dasharray:4 3}"
    ".bytequilt .n{fill:"
    + NEUTRAL
    + "}"
    + "".join(f".bytequilt .c{at},.bytequilt-c{at}{{fill:{hue};background:{hue}}}" for at, hue in enumerate(BITS))
    # Thin colours lie well on white and on black, so one figure serves both.
    + ".bytequilt .patches path{fill-opacity:.62}.bytequilt .patches .odd{fill-opacity:.36}"
    ".bytequilt .patches path:hover{fill-opacity:.85}"
)
INK = "color:#1f2328"
DARK_INK = "color:#e6edf3"
PAGE_STYLE = (
    f":root{{color-scheme:light dark}}body{{{INK};background:#fff;margin:0 auto;padding:2.5rem 1.5rem;max-width:1150px;"
    "font:15px/1.5 system-ui,sans-serif}h1{font-size:1.35rem;margin:0 0 .25rem}"
    f"@media(prefers-color-scheme:dark){{body{{{DARK_INK};background:#0d1117}}}}"
)
FRAGMENT_STYLE = (
    ".bytequilt-figure{margin:0;overflow-x:auto}"
    ".bytequilt-words{font-size:13px;opacity:.8;margin:0 0 .8rem}"
    ".bytequilt-words i{font-style:normal;padding:.1em .5em;color:#16181d}"
)


def page(patched: "PatchedText", title: str = "Patches") -> str:
    """A whole HTML file: needs no script, no network and no other file."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(harmless(title))}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{PAGE_STYLE}</style></head>\n<body><h1>{escape(harmless(title))}</h1>\n{fragment(patched)}</body></html>\n"
    )


def fragment(patched: "PatchedText") -> str:
    """The figure and its legend as a piece of HTML, which takes the text colour of what is around it."""
    words = escape(summary(patched))
    if has_levels(patched):
        names = [str(bits) for bits in range(len(BITS) - 1)] + [f"{len(BITS) - 1}+"]
        swatches = "".join(f'<i class="bytequilt-c{at}">{name}</i>' for at, name in enumerate(names))
        words += f" · opened by an entropy of {swatches} bits"
    return (
        f"<style>{FRAGMENT_STYLE}{FIGURE_STYLE}</style>"
        f'<p class="bytequilt-words">{words}</p>\n<figure class="bytequilt-figure">{_figure(patched)}</figure>\n'
    )


def svg(patched: "PatchedText") -> str:
    """The figure alone, as an SVG file."""
    ink = f".bytequilt{{{INK}}}@media(prefers-color-scheme:dark){{.bytequilt{{{DARK_INK}}}}}"
    return _figure(patched, ' xmlns="http://www.w3.org/2000/svg"', f"<style>{FIGURE_STYLE}{ink}</style>") + "\n"


# ------------------------------------------------------------------------------------------------------------- figure


class _Scale:
    """Heights of the figure: bits to y, counted from the top of a row."""

    def __init__(self, patched: "PatchedText") -> None:
        self.bits = patched.entropy_bits
        self.plot = 0 if self.bits is None else PLOT
        self.row = self.plot + LINE + GAP
        highest = max([*(self.bits or ()), patched.threshold_bits or 0.0])
        self.top = max(4, 2 * ceil(highest / 2))

    def y(self, bits: float) -> str:
        return _short(self.plot * (1 - bits / self.top))


def _figure(patched: "PatchedText", attributes: str = "", style: str = "") -> str:
    scale = _Scale(patched)
    size = len(patched.data)
    rows = range(0, max(size, 1), COLUMNS)
    width = LEFT + CELL * min(COLUMNS, max(size, FEWEST)) + RIGHT
    height = TOP + scale.row * len(rows)
    pieces = _pieces(patched, scale)
    cells = _cells(patched)
    drawn = "".join(
        f'<g transform="translate({LEFT},{TOP + scale.row * at})">'
        f"{_grid(patched, scale, row)}{pieces[at]}{_curve(scale, row)}{cells[at]}</g>\n"
        for at, row in enumerate(rows)
    )
    return (
        f'<svg{attributes} class="bytequilt" viewBox="0 0 {width} {height}" width="{ZOOM * width:.0f}" role="img" '
        f'aria-label="{escape(summary(patched))}" '
        f'style="width:100%;min-width:{width}px;max-width:{ZOOM * width:.0f}px;height:auto">{style}\n{drawn}</svg>'
    )


def _grid(patched: "PatchedText", scale: _Scale, row: int) -> str:
    """Axis, threshold line, and number of the first byte of a row."""
    out = [f'<text class="axis" x="-6" y="{scale.plot + 14}">{row}</text>']
    if scale.bits is None:
        return out[0]
    right = CELL * min(COLUMNS, max(len(patched.data) - row, 1))
    ticks = range(0, scale.top + 1, 2)
    out.append(f'<path class="grid" d="{"".join(f"M0 {scale.y(bits)}h{right}" for bits in ticks)}"/>')
    out += [
        f'<text class="axis" x="-6" y="{_short(float(scale.y(bits)) + 3)}">{bits}{" bits" * (bits == scale.top)}</text>'
        for bits in ticks[1:]
    ]
    if patched.threshold_bits is not None:
        y = scale.y(patched.threshold_bits)
        out.append(f'<path class="threshold" d="M0 {y}h{right}"/>')
        out.append(
            f'<text class="limit" x="{right + 5}" y="{_short(float(y) + 3)}">{patched.threshold_bits:.2f} bits</text>'
        )
    return "".join(out)


def _curve(scale: _Scale, row: int) -> str:
    if not scale.bits:
        return ""
    steps = "".join(f"V{scale.y(bits)}h{CELL}" for bits in scale.bits[row : row + COLUMNS])
    return f'<path class="curve" d="M0 {scale.plot}{steps}V{scale.plot}"/>'


def _pieces(patched: "PatchedText", scale: _Scale) -> list[str]:
    """For each row, its patches: a line where each starts, a block under its bytes, a bar as high as what opened it."""
    count = len(range(0, max(len(patched.data), 1), COLUMNS))
    lines: list[str] = [""] * count
    blocks: list[list[str]] = [[] for _ in range(count)]
    for index, patch in enumerate(patched):
        hue = level(patch)
        classes = f'"{"n" if hue is None else f"c{hue}"}{" odd" * (index % 2)}"'
        title = _tooltip(patch)
        end = patch.start + patch.length
        for row in range(patch.start // COLUMNS, (end - 1) // COLUMNS + 1):
            left = max(patch.start, row * COLUMNS)
            x = CELL * (left - row * COLUMNS)
            wide = CELL * (min(end, (row + 1) * COLUMNS) - left)
            shape = f"M{x + 0.5} {scale.plot}h{wide - 1}v{LINE}h{1 - wide}z"
            if scale.bits is not None and left == patch.start:
                shape += f"M{x} {scale.plot}V{scale.y(scale.bits[left])}h{CELL}V{scale.plot}z"
                lines[row] += f"M{x} 0V{scale.plot}"
            blocks[row].append(f'<path class={classes} d="{shape}"><title>{title}</title></path>')
    return [
        f'<path class="starts" d="{lines[row]}"/><g class="patches">{"".join(blocks[row])}</g>' for row in range(count)
    ]


def _tooltip(patch: "Patch") -> str:
    shown = "".join(glyph.shown if glyph.kind not in BYTES else f"‹{glyph.shown}›" for glyph in glyphs(patch.data))
    parts = [shown, f"{patch.length} byte{'s' * (patch.length != 1)} from {patch.start}"]
    if patch.entropy_bits is not None:
        parts.append(f"opened by {patch.entropy_bits:.2f} bits")
    return escape(" · ".join(parts))


def _cells(patched: "PatchedText") -> list[str]:
    """For each row, its characters, each over the middle of its bytes."""
    size = len(patched.data)
    cuts = {patch.start for patch in patched} | set(range(0, size, COLUMNS))
    rows: list[list[Glyph]] = [[] for _ in range(0, max(size, 1), COLUMNS)]
    for glyph in glyphs(patched.data, cuts):
        rows[glyph.start // COLUMNS].append(glyph)
    return ["".join(_texts(row, PLOT if patched.entropy_bits is not None else 0)) for row in rows]


def _texts(row: list[Glyph], top: int) -> list[str]:
    """One element for all glyphs alike, with an x for each; characters beyond ASCII, which may combine, stand alone."""
    y = top + 14
    plain, faint, digits = [], [], []
    alone = []
    for glyph in row:
        middle = CELL * (glyph.start % COLUMNS) + CELL * glyph.length / 2
        if glyph.kind in BYTES:
            digits += [(middle - 2.3, glyph.shown[0]), (middle + 2.3, glyph.shown[1])]
        elif glyph.kind != "plain":
            faint.append((middle, glyph.shown))
        elif glyph.shown.isascii():
            plain.append((middle, glyph.shown))
        else:
            alone.append([(middle, glyph.shown)])
    lists = [("", y, plain), (' class="faint"', y, faint), (' class="hex"', y - 1, digits)]
    lists += [("", y, items) for items in alone]
    return [
        f'<text{attribute} x="{" ".join(_short(x) for x, _ in items)}" y="{height}">'
        f"{escape(''.join(char for _, char in items))}</text>"
        for attribute, height, items in lists
        if items
    ]


def _short(value: float) -> str:
    return f"{round(value, 1):g}"
