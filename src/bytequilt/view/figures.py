"""Plots of a training run and of decoding speed, and the style of all plots. Needs matplotlib, the extra
`bytequilt[plot]`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..config import UserError, library
from ..files import check_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HUES = ("#4263eb", "#e8590c", "#2f9e44", "#9c36b5", "#0c8599", "#e03131", "#495057", "#f08c00", "#c2255c")
DASHED = {"color": "#868e96", "linewidth": 1.2, "linestyle": (0, (4, 3))}  # a line to compare with
STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelcolor": "#495057",
    "axes.edgecolor": "#adb5bd",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 10,
    "grid.color": "#e9ecef",
    "legend.frameon": False,
    "xtick.color": "#495057",
    "ytick.color": "#495057",
}


def training_curve(records: Iterable[Mapping], path: Path) -> None:
    """Plot bits per byte and learning rate against the number of bytes read, as a PNG file.

    A record is a row of `metrics.jsonl`: `bytes`, and optionally `bpb` and `val_bpb` (bits per byte), `lr` and `stage`.
    Each stage has its own curves. Raises UserError if no record has bits per byte.
    """
    stages: dict[str, list[Mapping]] = {}
    for record in records:
        if "bytes" in record:
            stages.setdefault(record.get("stage") or "train", []).append(record)
    if not any(_column(rows, key)[0].size for rows in stages.values() for key in ("bpb", "val_bpb")):
        raise UserError("no bits per byte to draw: the metrics hold no finished step")
    with saved(path, 8, 5) as figure:
        loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=[5, 1])
        for index, (stage, rows) in enumerate(stages.items()):
            _stage(loss, rate, stage, rows, HUES[index % len(HUES)])
        _finish(loss, rate)


def drawable(path: Path) -> None:
    """Check before a long measurement that a plot can be written. Raises UserError if the file is not .png or .svg, its
    folder does not exist, or matplotlib is missing."""
    if path.suffix.lower() not in (".png", ".svg"):
        raise UserError(f"a plot is a .png or .svg file, unlike {path}")
    check_folder(path)
    library("matplotlib.figure", "pictures need matplotlib: pip install 'bytequilt[plot]'")


@contextmanager
def saved(path: Path, width: float, height: float) -> "Iterator[Figure]":
    """Context manager: a figure of this size in inches, which is saved as PNG or SVG at the end of the block. Equal
    figures give byte-identical SVG files. Raises UserError as `drawable` does."""
    drawable(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE | {"svg.hashsalt": "bytequilt"}):
        figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
        yield figure
        figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else {})


def decode_speed(bars: Sequence[tuple[str, float, float | None]], path: Path) -> None:
    """Plot decoding speeds as PNG or SVG. A bar is (name, bytes per second, upper bound set by memory bandwidth or
    None)."""
    names, speeds, bounds = zip(*bars, strict=True)
    with saved(path, 8, 1.4 + 0.32 * len(bars)) as figure:
        axes = figure.subplots()
        axes.plot(speeds, range(len(bars)), "o", color=HUES[0], markersize=8)
        for place, speed in enumerate(speeds):
            axes.annotate(f"{speed:,.0f}", (speed, place), xytext=(8, 0), textcoords="offset points", va="center")
        known = [(bound, place) for place, bound in enumerate(bounds) if bound is not None]
        if known:
            axes.plot(*zip(*known, strict=True), "|", color=HUES[1], markersize=14, markeredgewidth=2)
            axes.plot([], [], "|", color=HUES[1], markersize=10, markeredgewidth=2, label="weights read at full speed")
            figure.legend(loc="outside lower right")
        axes.set_yticks(range(len(bars)), names)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.margins(x=0.15, y=0.5 / len(bars))
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("bytes per second")


def _stage(loss: "Axes", rate: "Axes", stage: str, rows: list[Mapping], hue: str) -> None:
    at, bpb = _column(rows, "bpb")
    loss.plot(at, bpb, color=hue, linewidth=0.6, alpha=0.3)
    loss.plot(at, _smooth(bpb), color=hue, linewidth=1.8, label=stage)
    at, bpb = _column(rows, "val_bpb")
    if at.size:
        loss.plot(at, bpb, "o", color=hue, markersize=5, markeredgecolor="white", label=f"{stage}, held out", zorder=3)
        loss.annotate(
            f"{bpb[-1]:.3f}", (at[-1], bpb[-1]), xytext=(0, 8), textcoords="offset points", color=hue, ha="center"
        )
    rate.plot(*_column(rows, "lr"), color=hue, linewidth=1.2)


def _finish(loss: "Axes", rate: "Axes") -> None:
    from matplotlib.ticker import EngFormatter, ScalarFormatter

    # The loss of the first steps is far larger than the rest; to show it all would flatten the curve.
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in loss.lines])
    loss.set_ylim(top=1.06 * np.quantile(values, 0.97))
    loss.set_ylabel("bits per byte")
    loss.legend()
    rate.set_ylim(bottom=0)
    rate.set_ylabel("learning rate")
    numbers = ScalarFormatter(useMathText=True)
    numbers.set_powerlimits((-2, 3))
    rate.yaxis.set_major_formatter(numbers)
    rate.set_xlabel("bytes read")
    rate.xaxis.set_major_formatter(EngFormatter(unit="B"))
    loss.figure.align_ylabels()


def _column(rows: list[Mapping], key: str) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of bytes read and the values of one key, from all rows with a finite value."""
    pairs = [(row["bytes"], row[key]) for row in rows if row.get(key) is not None and np.isfinite(row[key])]
    at, values = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(at, float), np.array(values, float)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Moving average over a fortieth of the run; at both ends it has fewer neighbours."""
    if not len(values):
        return values
    window = np.ones(max(1, len(values) // 40) | 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")
