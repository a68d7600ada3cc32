"""Patches as an HTML page or SVG figure. A curve above the text shows the entropy of each byte; for kind `budget` it
shows the running sum within a patch."""

from collections.abc import Iterator
from html import escape
from itertools import accumulate
from math import ceil
from typing import TYPE_CHECKING

from .flow import FLOW_STYLE, flow
from .glyphs import Glyph, Part, harmless, parts
from .legend import ACCENT, BITS, NEUTRAL, Scale, level, summary, token_summary

if TYPE_CHECKING:
    from .patched import Patch, PatchedText

COLUMNS = 72
FEWEST = 24  # smallest number of columns, so that labels fit beside a short text
CELL, PLOT, LINE, GAP = 10, 60, 20, 16  # width of a byte; heights of the curve, of the text and of the gap below
STRIP = 8  # height of the tokens below the text
LEFT, RIGHT, TOP = 42, 58, 14
ZOOM = 1.4  # page pixels per unit of the figure

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
    ".bytequilt .cut{stroke:" + ACCENT + ";stroke-width:1;stroke-dasharray:2 2;pointer-events:none}"
    ".bytequilt .tokens path{fill:" + NEUTRAL + ";fill-opacity:.75}.bytequilt .tokens .odd{fill-opacity:.4}"
    ".bytequilt .tokens path:hover{fill-opacity:1}"
    ".bytequilt .n{fill:"
    + NEUTRAL
    + "}"
    + "".join(f".bytequilt .c{at}{{fill:{hue}}}" for at, hue in enumerate(BITS))
    # Half-transparent colours are readable on white and on black, so one figure serves both.
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
FRAGMENT_STYLE = FLOW_STYLE + (
    ".bytequilt-figure{margin:0;overflow-x:auto}"
    ".bytequilt-words{font-size:13px;opacity:.8;margin:.2rem 0 .8rem}"
    ".bytequilt-words i{font-style:normal;padding:.1em .5em}"
)


def page(patched: "PatchedText", title: str = "Patches") -> str:
    """A complete HTML file. It needs no script, no network and no other file."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(harmless(title))}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{PAGE_STYLE}</style></head>\n<body><h1>{escape(harmless(title))}</h1>\n{fragment(patched)}</body></html>\n"
    )


def fragment(patched: "PatchedText") -> str:
    """HTML to insert into a page: text with patches, tokens, legend and figure, in the text colour of the page."""
    scale = Scale.of(patched)
    words = escape(summary(patched))
    if scale is not None:
        swatches = "".join(f'<i class="bytequilt-c{at}"></i>' for at in scale.levels)
        words += f" · opened by {scale.ends[0]} {swatches} {scale.ends[1]}, grey: not opened by entropy"
    if patched.summed and patched.entropy_bits:
        words += " · the curve adds up within a patch"
    tokens = f'<p class="bytequilt-words">{escape(token_summary(patched))}</p>\n' if patched.tokens else ""
    figure = f'<figure class="bytequilt-figure">{_figure(patched)}</figure>'
    return (
        f"<style>{FRAGMENT_STYLE}{FIGURE_STYLE}</style>{flow(patched, scale)}"
        f'<p class="bytequilt-words">{words}</p>\n{tokens}{figure}\n'
    )


def svg(patched: "PatchedText") -> str:
    """Only the figure, as an SVG file."""
    ink = f".bytequilt{{{INK}}}@media(prefers-color-scheme:dark){{.bytequilt{{{DARK_INK}}}}}"
    return _figure(patched, ' xmlns="http://www.w3.org/2000/svg"', f"<style>{FIGURE_STYLE}{ink}</style>") + "\n"


class _Layout:
    """The vertical layout of a row of the figure, and its colours.

    `bits` are the values of the curve, one per byte: entropies, or sums of them for kind `budget`.
    """

    def __init__(self, patched: "PatchedText") -> None:
        self.bits = _sums(patched) if patched.summed else patched.entropy_bits
        self.colours = Scale.of(patched)
        self.plot = 0 if self.bits is None else PLOT
        self.row = self.plot + LINE + (STRIP if patched.tokens else 0) + GAP
        highest = max([*(self.bits or ()), patched.threshold_bits or 0.0])
        self.tick = max(2, 2 * ceil(highest / 8))  # distance of the axis ticks in bits; at most four ticks
        self.top = self.tick * max(ceil(highest / self.tick), 2 if self.tick == 2 else 1)

    def y(self, bits: float) -> str:
        return _short(self.plot * (1 - bits / self.top))


def _figure(patched: "PatchedText", attributes: str = "", style: str = "") -> str:
    layout = _Layout(patched)
    size = len(patched.data)
    rows = range(0, max(size, 1), COLUMNS)
    width = LEFT + CELL * min(COLUMNS, max(size, FEWEST)) + RIGHT
    height = TOP + layout.row * len(rows)
    drawn_parts = parts(patched.data, [patch.start for patch in patched])
    pieces = _pieces(patched, drawn_parts, layout)
    strips = _strips(patched, layout)
    cells = _cells(patched, drawn_parts, layout)
    drawn = "".join(
        f'<g transform="translate({LEFT},{TOP + layout.row * at})">'
        f"{_grid(patched, layout, row)}{pieces[at]}{_curve(layout, row)}{cells[at]}{strips[at]}</g>\n"
        for at, row in enumerate(rows)
    )
    return (
        f'<svg{attributes} class="bytequilt" viewBox="0 0 {width} {height}" width="{ZOOM * width:.0f}" role="img" '
        f'aria-label="{escape(summary(patched))}" '
        f'style="width:100%;min-width:{width}px;max-width:{ZOOM * width:.0f}px;height:auto">{style}\n{drawn}</svg>'
    )


def _grid(patched: "PatchedText", layout: _Layout, row: int) -> str:
    """SVG of the axis, the threshold line and the number of the first byte of a row."""
    out = [f'<text class="axis" x="-6" y="{layout.plot + 14}">{row}</text>']
    if layout.bits is None:
        return out[0]
    right = CELL * min(COLUMNS, max(len(patched.data) - row, 1))
    ticks = range(0, layout.top + 1, layout.tick)
    out.append(f'<path class="grid" d="{"".join(f"M0 {layout.y(bits)}h{right}" for bits in ticks)}"/>')
    out += [
        f'<text class="axis" x="-6" y="{_short(float(layout.y(bits)) + 3)}">{bits}'
        f"{' bits' * (bits == layout.top)}</text>"
        for bits in ticks[1:]
    ]
    if patched.threshold_bits is not None:
        y = layout.y(patched.threshold_bits)
        out.append(f'<path class="threshold" d="M0 {y}h{right}"/>')
        out.append(
            f'<text class="limit" x="{right + 5}" y="{_short(float(y) + 3)}">{patched.threshold_bits:.2f} bits</text>'
        )
    return "".join(out)


def _sums(patched: "PatchedText") -> tuple[float, ...] | None:
    """For each byte, the sum of the entropies of its patch up to this byte."""
    bits = patched.entropy_bits
    if bits is None:
        return None
    return tuple(total for patch in patched for total in accumulate(bits[patch.start : patch.start + patch.length]))


def _curve(layout: _Layout, row: int) -> str:
    if not layout.bits:
        return ""
    steps = "".join(f"V{layout.y(bits)}h{CELL}" for bits in layout.bits[row : row + COLUMNS])
    return f'<path class="curve" d="M0 {layout.plot}{steps}V{layout.plot}"/>'


def _pieces(patched: "PatchedText", drawn: list[Part], layout: _Layout) -> list[str]:
    """SVG of the patches in each row: a line at the start, a block behind the bytes, a bar up to the curve."""
    count = len(range(0, max(len(patched.data), 1), COLUMNS))
    lines: list[str] = [""] * count
    cuts: list[str] = [""] * count
    blocks: list[list[str]] = [[] for _ in range(count)]
    for index, patch in enumerate(patched):
        hue = level(layout.colours, patch)
        classes = f'"{"n" if hue is None else f"c{hue}"}{" odd" * (index % 2)}"'
        title = _tooltip(patch, drawn[index])
        for row, x, wide in _boxes(patch.start, patch.length):
            shape = f"M{x + 0.5} {layout.plot}h{wide - 1}v{LINE}h{1 - wide}z"
            if row == patch.start // COLUMNS:
                if layout.bits is not None:
                    shape += f"M{x} {layout.plot}V{layout.y(layout.bits[patch.start])}h{CELL}V{layout.plot}z"
                    lines[row] += f"M{x} 0V{layout.plot}"
                if drawn[index].inside:
                    cuts[row] += f"M{x} {layout.plot}v{LINE}"
            blocks[row].append(f'<path class={classes} d="{shape}"><title>{title}</title></path>')
    return [
        f'<path class="starts" d="{lines[row]}"/><g class="patches">{"".join(blocks[row])}</g>'
        + (f'<path class="cut" d="{cuts[row]}"/>' if cuts[row] else "")
        for row in range(count)
    ]


def _strips(patched: "PatchedText", layout: _Layout) -> list[str]:
    """SVG of each row's tokens, as boxes below the text; empty for a row without tokens."""
    size = len(patched.data)
    strips: list[list[str]] = [[] for _ in range(0, max(size, 1), COLUMNS)]
    if patched.tokens is None:
        return [""] * len(strips)
    runs = patched.tokens.runs(size)
    starts = [start for start, _ in runs]
    drawn = parts(patched.data, starts)
    for index, (start, token) in enumerate(runs):
        length = [*starts, size][index + 1] - start
        odd = ' class="odd"' * (index % 2)
        title = escape(f"{drawn[index].text} · token of {_bytes(length)} from {start}")
        for row, x, wide in _boxes(start, length) if token else ():
            shape = f"M{x + 0.5} {layout.plot + LINE + 1}h{wide - 1}v{STRIP - 1}h{1 - wide}z"
            strips[row].append(f'<path{odd} d="{shape}"><title>{title}</title></path>')
    return [f'<g class="tokens">{"".join(strip)}</g>' if strip else "" for strip in strips]


def _boxes(start: int, length: int) -> Iterator[tuple[int, int, int]]:
    """The boxes that a run of bytes covers, one per row: (row, x, width)."""
    end = start + length
    for row in range(start // COLUMNS, (end - 1) // COLUMNS + 1):
        left = max(start, row * COLUMNS)
        yield row, CELL * (left - row * COLUMNS), CELL * (min(end, (row + 1) * COLUMNS) - left)


def _tooltip(patch: "Patch", drawn: Part) -> str:
    words = [drawn.text, f"{_bytes(patch.length)} from {patch.start}"]
    if patch.entropy_bits is not None:
        words.append(f"opened by {patch.entropy_bits:.2f} bits")
    return escape(" · ".join(words))


def _bytes(count: int) -> str:
    return f"{count} byte{'s' * (count != 1)}"


def _cells(patched: "PatchedText", drawn: list[Part], layout: _Layout) -> list[str]:
    """SVG of the characters in each row. A character is in the row of its first byte, centred over its bytes there."""
    rows: list[list[Glyph]] = [[] for _ in range(0, max(len(patched.data), 1), COLUMNS)]
    for part in drawn:
        for glyph in _words(part.glyphs):
            rows[glyph.start // COLUMNS].append(glyph)
    return ["".join(_texts(row, layout.plot)) for row in rows]


def _words(row: list[Glyph]) -> Iterator[Glyph]:
    """The glyphs, with neighbours of a right-to-left script joined into one: their shapes depend on each other."""
    waiting: Glyph | None = None
    for glyph in row:
        if waiting and glyph.rtl and glyph.start // COLUMNS == waiting.start // COLUMNS:
            waiting = Glyph(waiting.start, waiting.length + glyph.length, "plain", waiting.shown + glyph.shown)
            continue
        if waiting:
            yield waiting
        waiting = glyph if glyph.rtl else None
        if not glyph.rtl:
            yield glyph
    if waiting:
        yield waiting


def _texts(row: list[Glyph], top: int) -> list[str]:
    """SVG texts: glyphs of a style together; a character that is not ASCII alone, since it may combine with others."""
    y = top + 14
    plain, faint, digits = [], [], []
    alone = []
    for glyph in row:
        first = glyph.start % COLUMNS
        middle = CELL * first + CELL * min(glyph.length, COLUMNS - first) / 2
        if glyph.kind == "invalid":
            digits += [(middle - 2.3, glyph.shown[0]), (middle + 2.3, glyph.shown[1])]
        elif glyph.kind not in ("plain", "mark"):
            faint.append((middle, glyph.shown))
        elif glyph.shown.isascii():
            plain.append((middle, glyph.shown))
        else:
            alone.append(f'<text x="{_short(middle)}" y="{y}">{escape(glyph.shown)}</text>')
    lists = [("", y, plain), (' class="faint"', y, faint), (' class="hex"', y - 1, digits)]
    together = [
        f'<text{attribute} x="{" ".join(_short(x) for x, _ in items)}" y="{height}">'
        f"{escape(''.join(char for _, char in items))}</text>"
        for attribute, height, items in lists
        if items
    ]
    return together + alone


def _short(value: float) -> str:
    return f"{round(value, 1):g}"
