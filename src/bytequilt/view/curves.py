"""Plots of a study: bits per byte against cost, differences to the best baseline, and accuracy after fine-tuning.

Needs matplotlib, the extra `bytequilt[plot]`.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..config import UserError
from .figures import DASHED, HUES, saved

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

COSTS = {
    "train_flops": "FLOPs of training",
    "inference_flops": "FLOPs per byte of inference",
    "seconds": "seconds of training",
}
"""The costs that bits per byte can be plotted against, with their axis labels."""
MARKERS = "os^DvPX*"
STEPS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7))
"""Sets of multiples of a power of ten that can label a logarithmic axis, the smallest set first."""
MAX_LABELS = 9  # largest number of labels of an axis
SMALLEST, GROWTH = 6.0, 1.2  # marker size in points for the first model size, and the growth per model size
PARTS = {"held_out": "held-out words and numbers", "longer": "and longer than any example"}
LEVELS = {"char": "letters", "word": "words", "number": "numbers"}

Summary = Mapping[tuple[str, str], Mapping[str, Any]]
"""Maps (model, size) to named quantities. A quantity has `mean`, `low`, `high` and `count` over the seeds."""


def bpb_by_cost(summary: Summary, cost: str, path: Path) -> None:
    """Plot test bits per byte against one of COSTS: a curve per model, a marker per size, bars for the range over
    seeds.

    Raises UserError if `path` is not a .png or .svg file, `summary` is empty, or matplotlib is missing.
    """
    if not summary:
        raise UserError("no run of the study is done: nothing to draw")
    models = list(dict.fromkeys(model for model, _ in summary))
    sizes = list(dict.fromkeys(size for _, size in summary))
    last = {model: quantities["test_bpb"].mean for (model, _), quantities in summary.items()}
    with saved(path, 8.4, 4.8) as figure:
        axes = figure.subplots()
        for model in sorted(models, key=lambda model: -last[model]):  # legend in the order of the curves, top first
            place = models.index(model)
            points = {size: quantities for (name, size), quantities in summary.items() if name == model}
            _curve(axes, model, points, sizes, cost, HUES[place % len(HUES)], MARKERS[place % len(MARKERS)])
        axes.set_xscale("log")
        axes.margins(x=0.08, y=0.08)
        label_log_axis(axes.xaxis, *axes.get_xlim())
        axes.set_xlabel(COSTS[cost])
        axes.set_ylabel("bits per byte of test text")
        title = f"sizes {', '.join(sizes)}:\nmarkers grow" if len(sizes) > 1 else None
        figure.legend(loc="outside right upper", title=title, alignment="left", handletextpad=0.6)


def leads(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot differences in bits per byte to the best baseline, with intervals: a panel per kind of matching. Below zero
    the BLT is better.

    A line has model, size, matching, difference, low and high. Raises UserError for a wrong path or without matplotlib.
    """
    panels, sizes = (list(dict.fromkeys(line[field] for line in lines)) for field in ("matching", "size"))
    models = list(dict.fromkeys(line["model"] for line in lines))
    with saved(path, 2.4 + 2.8 * len(panels), 3.6) as figure:
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for panel, axes in zip(panels, row, strict=True):
            for place, model in enumerate(models):
                own = [line for line in lines if (line["model"], line["matching"]) == (model, panel)]
                x = [sizes.index(line["size"]) + 0.12 * (place - (len(models) - 1) / 2) for line in own]
                y = [line["difference"] for line in own]
                bars = [
                    [line["difference"] - line["low"] for line in own],
                    [line["high"] - line["difference"] for line in own],
                ]
                style = {"color": HUES[place % len(HUES)], "marker": MARKERS[place % len(MARKERS)], "label": model}
                axes.errorbar(x, y, bars, linestyle="none", capsize=2.5, **style)
            axes.axhline(0.0, **DASHED)
            axes.set_xticks(range(len(sizes)), sizes)
            axes.set_title(f"equal {panel}", fontsize=10)
        row[0].set_ylabel("bits per byte above\nthe best baseline")
        figure.legend(*row[0].get_legend_handles_labels(), loc="outside right upper")


def _curve(
    axes: "Axes", model: str, points: Mapping[str, Any], sizes: list[str], cost: str, hue: str, marker: str
) -> None:
    """Draw one model over its sizes. Bars reach from the best seed to the worst."""
    bpb, costs = ([point[quantity] for point in points.values()] for quantity in ("test_bpb", cost))
    centre = [spread.mean for spread in costs], [spread.mean for spread in bpb]
    axes.plot(*centre, color=hue, linewidth=1.4, alpha=0.75)
    axes.plot([], [], marker, color=hue, markersize=6.5, label=model)
    if any(spread.count > 1 for spread in bpb):
        bars = {"xerr": _bars(costs), "yerr": _bars(bpb)}
        axes.errorbar(*centre, **bars, fmt="none", ecolor=hue, elinewidth=1.1, capsize=2.5)
    for size, x, y in zip(points, *centre, strict=True):
        width = SMALLEST + GROWTH * sizes.index(size)
        axes.plot(x, y, marker, color=hue, markersize=width, markeredgecolor="white", markeredgewidth=0.6, zorder=3)


def _bars(spreads: Sequence[Any]) -> list[list[float]]:
    """Lengths of the error bars: distances from the means down to `low` and up to `high`."""
    return [[spread.mean - spread.low for spread in spreads], [spread.high - spread.mean for spread in spreads]]


def label_log_axis(axis: "Axis", low: float, high: float) -> None:
    """Label a logarithmic axis from `low` to `high` with at least four labels if possible. Powers of ten alone would
    be too few on a short axis."""
    from matplotlib.ticker import EngFormatter, FixedLocator, MaxNLocator, NullLocator

    decades = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    linear = high < 3 * low
    shown = list(MaxNLocator(4).tick_values(low, high)) if linear else decades[:: 1 + len(decades) // MAX_LABELS]
    for steps in STEPS:
        if sum(low <= tick <= high for tick in shown) >= 4:
            break
        finer = [step * decade for decade in decades for step in steps]
        shown = finer if sum(low <= tick <= high for tick in finer) <= MAX_LABELS else shown
    axis.set_major_locator(FixedLocator([tick for tick in shown if low <= tick <= high]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(EngFormatter(sep=" "))


def accuracy_by_examples(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot accuracy against the number of training examples: a line per model, and a column of panels per level.

    The lower row is about longer words and numbers. Lines are means over seeds, bars are standard errors. The dashed
    line is the accuracy of always giving the most frequent answer. Raises UserError as `bpb_by_cost` does.
    """
    if not results:
        raise UserError("no model of the study is fine-tuned: nothing to draw")
    shown = [level for level in LEVELS if level in results[0]["points"][0]["held_out"]["means"]]
    with saved(path, 1.6 + 2.9 * len(shown), 5.6) as figure:
        rows = figure.subplots(len(PARTS), len(shown), sharex=True, sharey=True, squeeze=False)
        for (part, words), row in zip(PARTS.items(), rows, strict=True):
            for name, axes in zip(shown, row, strict=True):
                _panel(axes, results, part, name)
            row[0].set_ylabel(f"accuracy\n{words}")
        for name, above, below in zip(shown, *rows, strict=True):
            above.set_title(LEVELS[name], fontsize=10)
            below.set_xlabel("examples learnt from")
        figure.legend(*rows[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4)


def _panel(axes: "Axes", results: Sequence[Mapping[str, Any]], part: str, name: str) -> None:
    from matplotlib.ticker import EngFormatter, NullLocator

    examples = [point["examples"] for point in results[0]["points"]]
    for place, model in enumerate(dict.fromkeys(result["model"] for result in results)):
        own = [result["points"] for result in results if result["model"] == model]
        seeds = [[point[part]["means"][name] for point in points] for points in own]
        points = list(zip(*seeds, strict=True))
        accuracy = [fmean(score["accuracy"] for score in point) for point in points]
        bars = [sum(score["stderr"] ** 2 for score in point) ** 0.5 / len(seeds) for point in points]
        hue, marker = HUES[place % len(HUES)], MARKERS[place % len(MARKERS)]
        axes.errorbar(examples, accuracy, bars, color=hue, linewidth=1.4, elinewidth=0.8)
        axes.plot(examples, accuracy, marker, color=hue, markersize=5, markeredgecolor="white", label=model)
    constant = fmean(result["points"][0][part]["means"][name]["constant"] for result in results)
    axes.axhline(constant, **DASHED, label="one answer to all")
    axes.set_xscale("symlog", linthresh=examples[1])  # linear below examples[1], so that 0 examples can be shown
    axes.set_ylim(-0.03, 1.03)
    axes.set_xticks(examples)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
