"""A scatter plot of languages: bytes per patch against bytes per token. Needs matplotlib (`bytequilt[plot]`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import UserError
from .figures import saved

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
HUES = {  # in drawing order: families with few dots are drawn over those with many
    "Latin": "#adb5bd",
    OTHERS: "#495057",
    "Cyrillic, Greek": "#4263eb",
    "Brahmic": "#9c36b5",
    "Arabic, Hebrew": "#2f9e44",
    "Han, kana, Hangul": "#e8590c",
}
NAMED = ("eng", "deu_1996", "rus", "arb", "hin", "tha", "cmn_hans", "amh")
TICKS = (1, 1.5, 2, 3, 4, 5, 6, 8)
"""Axis ticks, as multiples of a power of ten. An axis with a range of 10 or more has only 1 and 3."""
ROOM = 0.2
"""Space beyond the outermost dots for names, as a share of the axis."""


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot bytes per patch against bytes per token as PNG or SVG: a panel per tokenizer, a dot per language. `rows` are
    the results of `evals.languages`.

    Raises UserError if the path is not .png or .svg, rows have no patches or tokens, or matplotlib is missing.
    """
    tokenizers = list(rows[0]["bytes_per_token"]) if rows else []
    if not tokenizers or any(row["mean_patch_bytes"] is None for row in rows):
        raise UserError("patches beside tokens need rows of languages, of a model with patches and of a tokenizer")
    with saved(path, 2 + 4.4 * len(tokenizers), 4.6) as figure:
        panels = figure.subplots(1, len(tokenizers), sharex=True, sharey=True, squeeze=False)[0]
        for axes, tokenizer in zip(panels, tokenizers, strict=True):
            _panel(axes, rows, tokenizer)
        panels[0].set_ylabel("bytes per patch")
        _span(panels[0].xaxis, [row["bytes_per_token"][name] for row in rows for name in tokenizers])
        _span(panels[0].yaxis, [row["mean_patch_bytes"] for row in rows])
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")


def _panel(axes: "Axes", rows: Sequence[Mapping[str, Any]], tokenizer: str) -> None:
    """Draw the panel of one tokenizer: a dot per language, names for some, and a line of equal lengths."""
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
    """Set the limits and ticks of an axis so that all values are inside. Panels that share the axis change too."""
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
    """Write a name to the right of its dot. A white outline keeps the name readable on other dots."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2, foreground="white")]
    axes.annotate(
        name, place, xytext=(5, 0), textcoords="offset points", va="center", fontsize=8, path_effects=halo, zorder=3
    )
