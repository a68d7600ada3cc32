"""The runs of a study in order, and the search for learning rates."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Self

from .recipe import Rate, Study, Sweep


@dataclass(frozen=True)
class Run:
    """One training of one model."""

    model: str
    size: str
    seed: int
    rate: Rate | None = None
    """The learning rates of a try; None for a full run, which uses the rates that the search found."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """The run that a row of results describes."""
        rate = Rate(row["lr"], row["hash_lr_factor"]) if row["search"] else None
        return cls(row["model"], row["size"], row["seed"], rate)

    @property
    def row_fields(self) -> dict[str, str | int]:
        """The fields that identify the run in a row of results."""
        return {"model": self.model, "size": self.size, "seed": self.seed}

    @property
    def name(self) -> str:
        tried = "" if self.rate is None else f"-lr{self.rate.lr:g}x{self.rate.hash_lr_factor:g}"
        return f"{self.model}-{self.size}-seed{self.seed}{tried}"


HeldOutBPB = Callable[[Run], float | None]
"""Returns the held-out bits per byte of a try: infinity if it diverged, None if it is not done."""


def held_out_bpb(rows: Iterable[Mapping[str, Any]]) -> HeldOutBPB:
    """The look-up of held-out bits per byte in rows of results."""
    return {Run.of(row): row["val_bpb"] or math.inf for row in rows if row["search"]}.get


def tries(study: Study, model: str, bpb: HeldOutBPB, size: str | None = None) -> tuple[list[Run], Run | None]:
    """The tries of a model's learning-rate search known so far, and the best one if the search has ended, otherwise
    None.

    The search starts in the middle of the grid and moves to the best neighbouring rates until no neighbour is better.
    At a larger size it starts from the best rates of the size below as well, because there may be two valleys; the
    better end counts. There are no tries if the rate is given or taken from another model.
    """
    searched = study.searched_sizes(model)
    size = size or study.sizes(model)[0]
    if study.sweep is None or size not in searched:
        return [], None
    starts = [study.sweep.middle]
    if index := searched.index(size):
        _, below = tries(study, model, bpb, searched[index - 1])
        if below is None or below.rate is None:
            return [], None
        starts.insert(0, below.rate)
    known_tries, ends = list[Run](), list[Run | None]()
    for start in starts:
        walked, end = _walk(study.sweep, Run(model, size, study.budgets[size].seeds[0], start), bpb)
        known_tries += [run for run in walked if run not in known_tries]
        ends.append(end)
    reached = [end for end in ends if end is not None]
    return known_tries, min(reached, key=bpb) if len(reached) == len(ends) else None


def _walk(sweep: Sweep, start: Run, bpb: HeldOutBPB) -> tuple[list[Run], Run | None]:
    """The tries of one search known so far, in their order, and its end; None while a try is missing."""
    neighbours, centre, walked = _neighbours(sweep), start, list[Run]()
    while True:
        around = [centre, *(replace(start, rate=rate) for rate in neighbours[centre.rate])]
        walked += [run for run in around if run not in walked]
        reached = {run: value for run in around if (value := bpb(run)) is not None}
        if len(reached) < len(around):
            return walked, None
        if (best := min(reached, key=lambda run: reached[run])) == centre:
            return walked, centre
        centre = best


def _neighbours(sweep: Sweep) -> dict[Rate | None, list[Rate]]:
    grid = {
        (i, j): Rate(lr, factor)
        for (i, lr), (j, factor) in product(enumerate(sorted(sweep.lr)), enumerate(sorted(sweep.hash_lr_factor)))
    }
    steps = ((-1, 0), (1, 0), (0, -1), (0, 1))
    return {
        rate: [grid[i + di, j + dj] for di, dj in steps if (i + di, j + dj) in grid] for (i, j), rate in grid.items()
    }


def learning_rate(study: Study, model: str, bpb: HeldOutBPB, size: str | None = None) -> Rate | None:
    """The learning rates of a model: given, or those of its best try. None while the search continues. At `size`, the
    result of the largest searched size up to it is used; without `size`, that of the smallest size."""
    contender = study.models[model]
    if contender.lr:
        return Rate(contender.lr, contender.hash_lr_factor or 1.0)
    if contender.lr_of:
        return learning_rate(study, contender.lr_of, bpb, size)
    order, searched = list(study.budgets), study.searched_sizes(model)
    below = [at for at in searched if size and order.index(at) <= order.index(size)] or searched[:1]
    _, best = tries(study, model, bpb, below[-1])
    return best.rate if best else None


def planned(study: Study, bpb: HeldOutBPB) -> list[Run]:
    """All runs and all known tries, in the order in which they should be done. The order is by stage, then by size, and
    tries come before runs. So smaller sizes are complete first."""
    runs = []
    for size, budget in study.budgets.items():
        for model in study.models:
            runs += tries(study, model, bpb, size)[0]
        for seed in budget.seeds:
            runs += [Run(model, size, seed) for model in study.models if size in study.sizes(model)]
    return sorted(runs, key=lambda run: study.models[run.model].stage)


def budget_of(study: Study, run: Run) -> tuple[str, float]:
    """The budget of a run: its unit (flops, bytes or seconds) and its amount. A try gets only a share."""
    share = study.sweep.share if run.rate and study.sweep else 1.0
    ((unit, amount),) = study.budgets[run.size].amounts.items()
    return unit, amount * share
