"""What the models of a study cost, and what they reach for it. Needs matplotlib, the extra `bytequilt[plot]`."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import UserError
from ..view.figures import STYLE, drawable
from .table import Spread, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

COSTS = {
    "train_flops": "FLOPs of training",
    "inference_flops": "FLOPs per byte of inference",
    "seconds": "seconds of training",
}
"""Quantities that bits per byte are drawn against, and what their axis says."""
HUES = ("#4263eb", "#e8590c", "#2f9e44", "#9c36b5", "#0c8599", "#e03131", "#495057", "#f08c00", "#c2255c")
MARKERS = "os^DvPX*"
STEPS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7))
"""Numbers that labels of a logarithmic axis may begin with, the few first."""
MOST = 9  # labels of an axis
SMALLEST, GROWTH = 6.0, 1.2  # points of a marker at the first size, and what each size adds


def plot(found: Summary, cost: str, path: Path) -> None:
    """Test BPB over one of COSTS, a curve a model and a marker a size, with the range over seeds, as PNG or SVG.

    The same summary gives the same bytes of an SVG. Raises UserError for a path of another kind, where nothing is to
    be drawn, and where matplotlib is missing.
    """
    drawable(path)
    if not found:
        raise UserError("no run of the study is done: nothing to draw")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE | {"svg.hashsalt": "bytequilt"}):
        figure = Figure(figsize=(8.4, 4.8), dpi=150, layout="constrained")
        axes = figure.subplots()
        for model in _by_last(found):
            place = _models(found).index(model)
            _curve(axes, model, found, cost, HUES[place % len(HUES)], MARKERS[place % len(MARKERS)])
        axes.set_xscale("log")
        axes.margins(x=0.08, y=0.08)
        _ticks(axes.xaxis, *axes.get_xlim())
        axes.set_xlabel(COSTS[cost])
        axes.set_ylabel("bits per byte of test text")
        sizes = _sizes(found)
        title = f"sizes {', '.join(sizes)}:\nmarkers grow" if len(sizes) > 1 else None
        figure.legend(loc="outside right upper", title=title, alignment="left", handletextpad=0.6)
        kept = {"Date": None} if path.suffix.lower() == ".svg" else {}
        figure.savefig(path, metadata=kept)


def _curve(axes: "Axes", model: str, found: Summary, cost: str, hue: str, marker: str) -> None:
    """One model over its sizes; bars reach from the best seed to the worst."""
    points = {size: quantities for (name, size), quantities in found.items() if name == model}
    bpb, at = ([one[quantity] for one in points.values()] for quantity in ("test_bpb", cost))
    centre = [one.mean for one in at], [one.mean for one in bpb]
    axes.plot(*centre, color=hue, linewidth=1.4, alpha=0.75)
    axes.plot([], [], marker, color=hue, markersize=6.5, label=model)
    if any(one.count > 1 for one in bpb):
        axes.errorbar(*centre, xerr=_bars(at), yerr=_bars(bpb), fmt="none", ecolor=hue, elinewidth=1.1, capsize=2.5)
    for size, x, y in zip(points, *centre, strict=True):
        width = SMALLEST + GROWTH * _sizes(found).index(size)
        axes.plot(x, y, marker, color=hue, markersize=width, markeredgecolor="white", markeredgewidth=0.6, zorder=3)


def _bars(spreads: list[Spread]) -> list[list[float]]:
    """How far the ranges reach below and above the means."""
    return [[one.mean - one.low for one in spreads], [one.high - one.mean for one in spreads]]


def _ticks(axis: "Axis", low: float, high: float) -> None:
    """Four labels or more where they can be had: a single decade has but one power of ten, and a part of it none."""
    from matplotlib.ticker import EngFormatter, FixedLocator, MaxNLocator, NullLocator

    decades = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    shown = list(MaxNLocator(4).tick_values(low, high)) if high < 3 * low else decades[:: 1 + len(decades) // MOST]
    for steps in STEPS:
        if sum(low <= tick <= high for tick in shown) >= 4:
            break
        finer = [step * decade for decade in decades for step in steps]
        shown = finer if sum(low <= tick <= high for tick in finer) <= MOST else shown
    axis.set_major_locator(FixedLocator([tick for tick in shown if low <= tick <= high]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(EngFormatter(sep=" "))


def _models(found: Mapping[tuple[str, str], object]) -> list[str]:
    return list(dict.fromkeys(model for model, _ in found))


def _sizes(found: Mapping[tuple[str, str], object]) -> list[str]:
    return list(dict.fromkeys(size for _, size in found))


def _by_last(found: Summary) -> list[str]:
    """Models from the worst to the best at their last size, as their curves lie from top to bottom."""
    last = {model: quantities["test_bpb"].mean for (model, _), quantities in found.items()}
    return sorted(last, key=lambda model: -last[model])
