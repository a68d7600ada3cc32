"""The runs of a study: which there are, and in what order."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from .recipe import Rate, Study, Sweep

Known = Callable[["Run"], float | None]
"""Held-out BPB of a try: infinite where it diverged, None where it is not done."""


@dataclass(frozen=True)
class Run:
    """One training of one model."""

    model: str
    size: str
    seed: int
    rate: Rate | None = None
    """Of a try in the search for learning rates; None takes what was found."""

    @property
    def place(self) -> dict[str, str | int]:
        """What a result says of it."""
        return {"model": self.model, "size": self.size, "seed": self.seed}

    @property
    def name(self) -> str:
        tried = "" if self.rate is None else f"-lr{self.rate.lr:g}x{self.rate.hash_lr_factor:g}"
        return f"{self.model}-{self.size}-seed{self.seed}{tried}"


def tries(study: Study, model: str, known: Known) -> tuple[list[Run], Run | None]:
    """The tries of a model's search for learning rates as far as it has come; and the best, once it has ended.

    It starts in the middle of the grid and goes on to the best of the rates beside it, until none of them is better.
    There are no tries where the rate is given, or another model's.
    """
    contender, size = study.models[model], study.sizes(model)[0]
    if contender.lr or contender.lr_of or study.sweep is None:
        return [], None
    around = _neighbours(study.sweep)
    asked: list[Run] = []
    at = study.sweep.middle
    while True:
        here = {rate: Run(model, size, study.budgets[size].seeds[0], rate) for rate in (at, *around[at])}
        asked += [run for run in here.values() if run not in asked]
        found = {rate: bpb for rate, run in here.items() if (bpb := known(run)) is not None}
        if len(found) < len(here):
            return asked, None
        if (best := min(found, key=lambda rate: found[rate])) == at:
            return asked, here[at]
        at = best


def _neighbours(sweep: Sweep) -> dict[Rate, list[Rate]]:
    places = {
        (i, j): Rate(lr, factor)
        for (i, lr), (j, factor) in product(enumerate(sorted(sweep.lr)), enumerate(sorted(sweep.hash_lr_factor)))
    }
    steps = ((-1, 0), (1, 0), (0, -1), (0, 1))
    return {
        rate: [places[i + di, j + dj] for di, dj in steps if (i + di, j + dj) in places]
        for (i, j), rate in places.items()
    }


def plan(study: Study, known: Known) -> list[Run]:
    """All runs, with the tries that are asked for till now, in the order in which they are best done: size by size."""
    found = [run for model in study.models for run in tries(study, model, known)[0]]
    for size, budget in study.budgets.items():
        for seed in budget.seeds:
            found += [Run(model, size, seed) for model in study.models if size in study.sizes(model)]
    return found


def budget_of(study: Study, run: Run) -> tuple[str, float]:
    """What a run may take: flops, bytes or seconds, and how many."""
    share = study.sweep.share if run.rate and study.sweep else 1.0
    ((name, amount),) = study.budgets[run.size].amounts.items()
    return name, amount * share
