"""Curves of a study: what models cost and what they reach for it; what they answer after learning.

Needs matplotlib, the extra `bytequilt[plot]`. The same results give the same bytes of an SVG.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..config import UserError
from .figures import STYLE, drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

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
MAX_LABELS = 9  # of an axis
SMALLEST, GROWTH = 6.0, 1.2  # points of a marker at the first size, and what each size adds
PARTS = {"held_out": "held-out words and numbers", "longer": "and longer than any example"}
LEVELS = {"char": "letters", "word": "words", "number": "numbers"}

Summary = Mapping[tuple[str, str], Mapping[str, Any]]
"""By model and size, quantities with `mean`, `low`, `high` and `count` over the seeds."""


@contextmanager
def _saved(path: Path, width: float, height: float) -> "Iterator[Figure]":
    """A figure that is written as PNG or SVG when the block ends."""
    drawable(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE | {"svg.hashsalt": "bytequilt"}):
        figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
        yield figure
        figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else {})


def bpb_by_cost(summary: Summary, cost: str, path: Path) -> None:
    """Test BPB over one of COSTS, a curve for each model and a marker for each size, with the range over seeds.

    Raises UserError for a file that is no PNG or SVG, where nothing is to be drawn, and where matplotlib is missing.
    """
    if not summary:
        raise UserError("no run of the study is done: nothing to draw")
    models = list(dict.fromkeys(model for model, _ in summary))
    sizes = list(dict.fromkeys(size for _, size in summary))
    last = {model: quantities["test_bpb"].mean for (model, _), quantities in summary.items()}
    with _saved(path, 8.4, 4.8) as figure:
        axes = figure.subplots()
        for model in sorted(models, key=lambda model: -last[model]):  # as their curves lie from top to bottom
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


def _curve(
    axes: "Axes", model: str, points: Mapping[str, Any], sizes: list[str], cost: str, hue: str, marker: str
) -> None:
    """One model over its sizes; bars reach from the best seed to the worst."""
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
    """How far the ranges reach below and above the means."""
    return [[spread.mean - spread.low for spread in spreads], [spread.high - spread.mean for spread in spreads]]


def label_log_axis(axis: "Axis", low: float, high: float) -> None:
    """Put four labels or more on a logarithmic axis where they can be had: a single decade has one power of ten."""
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


def accuracy_by_examples(results: Sequence[Mapping[str, Any]], path: Path, panels: Sequence[str] = ()) -> None:
    """Accuracy over examples, a line for each model and a panel for each level, or for each of these levels and tasks.

    Below are the questions on longer words and numbers. Bars are standard errors, the mean over seeds is drawn; the
    dashed line is what the most frequent answer would reach. Raises UserError as `bpb_by_cost` does.
    """
    if not results:
        raise UserError("no model of the study is fine-tuned: nothing to draw")
    shown = [*panels] or [level for level in LEVELS if level in results[0]["points"][0]["held_out"]["means"]]
    with _saved(path, 1.6 + 2.9 * len(shown), 5.6) as figure:
        rows = figure.subplots(len(PARTS), len(shown), sharex=True, sharey=True, squeeze=False)
        for (part, words), row in zip(PARTS.items(), rows, strict=True):
            for name, axes in zip(shown, row, strict=True):
                _panel(axes, results, part, name)
            row[0].set_ylabel(f"accuracy\n{words}")
        for name, above, below in zip(shown, *rows, strict=True):
            above.set_title(LEVELS.get(name) or name, fontsize=10)
            below.set_xlabel("examples learnt from")
        figure.legend(*rows[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4)


def _panel(axes: "Axes", results: Sequence[Mapping[str, Any]], part: str, name: str) -> None:
    from matplotlib.ticker import EngFormatter, NullLocator

    examples = [point["examples"] for point in results[0]["points"]]
    for place, model in enumerate(dict.fromkeys(result["model"] for result in results)):
        seeds = [_scores(result["points"], part, name) for result in results if result["model"] == model]
        points = list(zip(*seeds, strict=True))
        accuracy = [fmean(score["accuracy"] for score in point) for point in points]
        bars = [sum(score["stderr"] ** 2 for score in point) ** 0.5 / len(seeds) for point in points]
        hue, marker = HUES[place % len(HUES)], MARKERS[place % len(MARKERS)]
        axes.errorbar(examples, accuracy, bars, color=hue, linewidth=1.4, elinewidth=0.8)
        axes.plot(examples, accuracy, marker, color=hue, markersize=5, markeredgecolor="white", label=model)
    constant = fmean(_scores(result["points"], part, name)[0]["constant"] for result in results)
    axes.axhline(constant, color="#868e96", linewidth=1.2, linestyle=(0, (4, 3)), label="one answer to all")
    axes.set_xscale("symlog", linthresh=examples[1])  # a logarithm from the first count on, and a place for none
    axes.set_ylim(-0.03, 1.03)
    axes.set_xticks(examples)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _scores(points: Sequence[Mapping[str, Any]], part: str, name: str) -> list[Mapping[str, float]]:
    """What was measured of a level or of a task at each point."""
    return [point[part]["means" if name in point[part]["means"] else "tasks"][name] for point in points]
