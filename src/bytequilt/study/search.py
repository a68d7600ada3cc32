"""The runs of a study and their order; the search for the learning rates of each model."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
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
    """The rate that it tries, in the search for learning rates; None for a run at the rate that the search chose."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """The run that a row of results is of."""
        rate = Rate(row["lr"], row["hash_lr_factor"]) if row["search"] else None
        return cls(row["model"], row["size"], row["seed"], rate)

    @property
    def place(self) -> dict[str, str | int]:
        """Its fields in a row of results."""
        return {"model": self.model, "size": self.size, "seed": self.seed}

    @property
    def name(self) -> str:
        tried = "" if self.rate is None else f"-lr{self.rate.lr:g}x{self.rate.hash_lr_factor:g}"
        return f"{self.model}-{self.size}-seed{self.seed}{tried}"


HeldOutBPB = Callable[[Run], float | None]
"""Held-out bits per byte of a try: infinite where it diverged, None where it is not done."""


def held_out_bpb(rows: Iterable[Mapping[str, Any]]) -> HeldOutBPB:
    """What the tries among rows of results reached."""
    return {Run.of(row): row["val_bpb"] or math.inf for row in rows if row["search"]}.get


def tries(study: Study, model: str, bpb: HeldOutBPB, size: str | None = None) -> tuple[list[Run], Run | None]:
    """The tries of a model's search for learning rates so far; and the best of them, once the search has ended.

    The search starts in the middle of the grid, or at a larger size where the one below ended. It moves to the best of
    the neighbouring rates until none is better. There are no tries where the rate is given, or is another model's.
    """
    searched = study.searched_sizes(model)
    size = size or study.sizes(model)[0]
    if study.sweep is None or size not in searched:
        return [], None
    neighbours = _neighbours(study.sweep)
    asked: list[Run] = []
    centre = study.sweep.middle
    if place := searched.index(size):
        _, below = tries(study, model, bpb, searched[place - 1])
        if below is None or below.rate is None:
            return [], None
        centre = below.rate
    while True:
        here = {rate: Run(model, size, study.budgets[size].seeds[0], rate) for rate in (centre, *neighbours[centre])}
        asked += [run for run in here.values() if run not in asked]
        reached = {rate: value for rate, run in here.items() if (value := bpb(run)) is not None}
        if len(reached) < len(here):
            return asked, None
        if (best := min(reached, key=lambda rate: reached[rate])) == centre:
            return asked, here[centre]
        centre = best


def _neighbours(sweep: Sweep) -> dict[Rate, list[Rate]]:
    grid = {
        (i, j): Rate(lr, factor)
        for (i, lr), (j, factor) in product(enumerate(sorted(sweep.lr)), enumerate(sorted(sweep.hash_lr_factor)))
    }
    steps = ((-1, 0), (1, 0), (0, -1), (0, 1))
    return {
        rate: [grid[i + di, j + dj] for di, dj in steps if (i + di, j + dj) in grid] for (i, j), rate in grid.items()
    }


def learning_rate(study: Study, model: str, bpb: HeldOutBPB, size: str | None = None) -> Rate | None:
    """The learning rates of a model: given, or the best of its tries. None while the search goes on.

    At a size they are those of the largest searched size up to it; without a size, those of the smallest.
    """
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
    """All runs, and the tries asked for so far, in the order in which they are best done.

    Models of one stage come before those of the next. In a stage it goes size by size, tries before runs: what is done
    at any time is whole at the smaller sizes.
    """
    runs = []
    for size, budget in study.budgets.items():
        for model in study.models:
            runs += tries(study, model, bpb, size)[0]
        for seed in budget.seeds:
            runs += [Run(model, size, seed) for model in study.models if size in study.sizes(model)]
    return sorted(runs, key=lambda run: study.models[run.model].stage)


def budget_of(study: Study, run: Run) -> tuple[str, float]:
    """The budget of a run: its unit (flops, bytes or seconds) and its amount."""
    share = study.sweep.share if run.rate and study.sweep else 1.0
    ((unit, amount),) = study.budgets[run.size].amounts.items()
    return unit, amount * share
