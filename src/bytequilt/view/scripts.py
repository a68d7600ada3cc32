"""Languages as dots: bytes per patch over bytes per token. Needs matplotlib, the extra `bytequilt[plot]`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import UserError
from .figures import STYLE, drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

FAMILIES = {
    "Arabic, Hebrew": "Arabic Hebrew Syriac Thaana",
    "Brahmic": "Bengali Chakma Devanagari Grantha Gujarati Gurmukhi Javanese Kannada Khmer Lao Malayalam Myanmar "
    "Sinhala Tagalog Tai Tamil Telugu Thai Tibetan",
    "Cyrillic, Greek": "Cyrillic Greek",
    "Han, kana, Hangul": "Han Hangul Hiragana Katakana",
    "Latin": "Latin",
}
OTHERS = "others"
HUES = {  # in the order of drawing: the few lie on the many
    "Latin": "#adb5bd",
    OTHERS: "#495057",
    "Cyrillic, Greek": "#4263eb",
    "Brahmic": "#9c36b5",
    "Arabic, Hebrew": "#2f9e44",
    "Han, kana, Hangul": "#e8590c",
}
NAMED = ("eng", "deu_1996", "rus", "arb", "hin", "tha", "cmn_hans", "amh")
TICKS = (1, 1.5, 2, 3, 4, 5, 6, 8)
"""Of each power of ten; where an axis spans more than one of them, 1 and 3 alone."""
ROOM = 0.2
"""Of the span of an axis, beyond the outermost dots: names need some."""


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Bytes per patch over bytes per token, a dot a row of `languages` and a panel a tokenizer, as PNG or SVG.

    Raises UserError for a path of another kind, for rows without patches or tokens, and where matplotlib is missing.
    """
    drawable(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    tokenizers = list(rows[0]["bytes_per_token"]) if rows else []
    if not tokenizers or any(row["mean_patch_bytes"] is None for row in rows):
        raise UserError("patches beside tokens need rows of languages, of a model with patches and of a tokenizer")
    with rc_context(STYLE):
        figure = Figure(figsize=(2 + 4.4 * len(tokenizers), 4.6), dpi=150, layout="constrained")
        panels = figure.subplots(1, len(tokenizers), sharex=True, sharey=True, squeeze=False)[0]
        for axes, tokenizer in zip(panels, tokenizers, strict=True):
            _panel(axes, rows, tokenizer)
        panels[0].set_ylabel("bytes per patch")
        _span(panels[0].xaxis, [row["bytes_per_token"][name] for row in rows for name in tokenizers])
        _span(panels[0].yaxis, [row["mean_patch_bytes"] for row in rows])
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
        figure.savefig(path)


def _panel(axes: "Axes", rows: Sequence[Mapping[str, Any]], tokenizer: str) -> None:
    """Ratios are what is compared, so both scales are logarithmic."""
    for family, hue in HUES.items():
        dots = [_place(row, tokenizer) for row in rows if _family(row["script"]) == family]
        if dots:
            edge = {"markeredgecolor": "white", "markeredgewidth": 0.5}
            axes.plot(*zip(*dots, strict=True), "o", color=hue, markersize=5.5, label=family, **edge)
    for row in rows:
        if row["code"] in NAMED:
            _name(axes, row["name"].split(",")[0], _place(row, tokenizer))
    axes.axline((1, 1), (2, 2), color="#868e96", linewidth=1, linestyle=(0, (4, 3)), label="equal", zorder=1.5)
    axes.loglog()
    axes.set_xlabel(f"bytes per token, {tokenizer}")


def _span(axis: "Axis", values: Sequence[float]) -> None:
    """Set limits around all values, and ticks from end to end; axes that share it follow."""
    from matplotlib.ticker import LogLocator, NullLocator

    least, most = min(values), max(values)
    room = max((most / least) ** ROOM, 1.1)
    axis.axes.set(**{f"{axis.axis_name}lim": (least / room, most * room)})
    axis.set_major_locator(LogLocator(subs=TICKS if most / least < 10 else (1, 3), numticks=100))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def _place(row: Mapping[str, Any], tokenizer: str) -> tuple[float, float]:
    return row["bytes_per_token"][tokenizer], row["mean_patch_bytes"]


def _family(script: str) -> str:
    return next((family for family, scripts in FAMILIES.items() if script in scripts.split()), OTHERS)


def _name(axes: "Axes", name: str, place: tuple[float, float]) -> None:
    """A name right of its dot, edged with white against the dots that it lies on."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2, foreground="white")]
    axes.annotate(
        name, place, xytext=(5, 0), textcoords="offset points", va="center", fontsize=8, path_effects=halo, zorder=3
    )
