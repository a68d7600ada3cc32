"""The runs of a study: which there are, and in what order."""

from dataclasses import dataclass

from .recipe import Study


@dataclass(frozen=True)
class Run:
    """One training of one model."""

    model: str
    size: str
    seed: int
    lr: float | None = None
    """Of a try in the search for a learning rate; None takes the one that was found."""

    @property
    def name(self) -> str:
        tried = "" if self.lr is None else f"-lr{self.lr:g}"
        return f"{self.model}-{self.size}-seed{self.seed}{tried}"


def tries(study: Study, model: str) -> list[Run]:
    """The tries that decide on a model's learning rate; none where it is given or another model's."""
    contender, size = study.models[model], study.sizes(model)[0]
    if contender.lr or contender.lr_of or study.sweep is None:
        return []
    return [Run(model, size, study.budgets[size].seeds[0], lr) for lr in study.sweep.lr]


def plan(study: Study) -> list[Run]:
    """All runs, in the order in which they are best done: all models at one size before any at the next."""
    found = [run for model in study.models for run in tries(study, model)]
    for size, budget in study.budgets.items():
        for seed in budget.seeds:
            found += [Run(model, size, seed) for model in study.models if size in study.sizes(model)]
    return found


def budget_of(study: Study, run: Run) -> tuple[str, float]:
    """What a run may take: flops, bytes or seconds, and how many."""
    share = study.sweep.share if run.lr and study.sweep else 1.0
    ((name, amount),) = study.budgets[run.size].amounts.items()
    return name, amount * share
