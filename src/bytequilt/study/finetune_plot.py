"""What fine-tuned models answer, over the examples they have learnt from. Needs matplotlib: `bytequilt[plot]`."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..config import UserError
from ..evals.characters import TASKS
from ..view.figures import STYLE, drawable
from .plots import HUES, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS = {"held_out": "held-out words and numbers", "longer": "and longer than any example"}
LEVELS = {"char": "letters", "word": "words", "number": "numbers"}


def plot(results: Sequence[Mapping[str, Any]], path: Path, panels: Sequence[str] = ()) -> None:
    """Accuracy over examples, a line a model and a panel for each level, or for each of these levels and tasks.

    Below are the questions on longer words and numbers. Bars are standard errors, the mean over seeds is drawn; the
    dashed line is what the one most frequent answer would reach. The same results give the same bytes of an SVG.
    Raises UserError for a path of another kind, where nothing is to be drawn, and where matplotlib is missing.
    """
    drawable(path)
    if not results:
        raise UserError("no model of the study is fine-tuned: nothing to draw")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    shown = [*panels] or [level for level in LEVELS if level in results[0]["points"][0]["held_out"]["means"]]
    with rc_context(STYLE | {"svg.hashsalt": "bytequilt"}):
        figure = Figure(figsize=(1.6 + 2.9 * len(shown), 5.6), dpi=150, layout="constrained")
        rows = figure.subplots(len(PARTS), len(shown), sharex=True, sharey=True, squeeze=False)
        for (part, words), row in zip(PARTS.items(), rows, strict=True):
            for name, axes in zip(shown, row, strict=True):
                _panel(axes, results, part, name)
            row[0].set_ylabel(f"accuracy\n{words}")
        for name, above, below in zip(shown, *rows, strict=True):
            above.set_title(LEVELS.get(name) or name, fontsize=10)
            below.set_xlabel("examples learnt from")
        figure.legend(*rows[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
        figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else {})


def _panel(axes: "Axes", results: Sequence[Mapping[str, Any]], part: str, name: str) -> None:
    from matplotlib.ticker import EngFormatter, NullLocator

    examples = [point["examples"] for point in results[0]["points"]]
    for place, model in enumerate(dict.fromkeys(result["model"] for result in results)):
        found = [_numbers(r["points"], part, name) for r in results if r["model"] == model]
        accuracy = [fmean(seeds) for seeds in zip(*(_column(one, "accuracy") for one in found), strict=True)]
        variance = [sum(e * e for e in seeds) for seeds in zip(*(_column(one, "stderr") for one in found), strict=True)]
        bars = [sum_of**0.5 / len(found) for sum_of in variance]
        hue, marker = HUES[place % len(HUES)], MARKERS[place % len(MARKERS)]
        axes.errorbar(examples, accuracy, bars, color=hue, linewidth=1.4, elinewidth=0.8)
        axes.plot(examples, accuracy, marker, color=hue, markersize=5, markeredgecolor="white", label=model)
    constant = fmean(_numbers(r["points"], part, name)[0]["constant"] for r in results)
    axes.axhline(constant, color="#868e96", linewidth=1.2, linestyle=(0, (4, 3)), label="one answer to all")
    axes.set_xscale("symlog", linthresh=examples[1])  # a logarithm from the first count on, and a place for none
    axes.set_ylim(-0.03, 1.03)
    axes.set_xticks(examples)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _numbers(points: Iterable[Mapping[str, Any]], part: str, name: str) -> list[Mapping[str, float]]:
    """What was measured of a level or of a task at each point."""
    kind = "tasks" if name in TASKS else "means"
    return [point[part][kind][name] for point in points]


def _column(numbers: Iterable[Mapping[str, float]], key: str) -> list[float]:
    return [each[key] for each in numbers]
