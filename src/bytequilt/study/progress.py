"""Progress of a study: which runs are done and which are missing."""

from collections.abc import Sequence
from dataclasses import dataclass

from .markdown import grid
from .recipe import Study
from .search import Run, held_out_bpb, planned
from .table import Row


@dataclass(frozen=True)
class Progress:
    """The runs of one size, counting models included, without tries."""

    planned: int
    missing: dict[str, int]
    """Number of missing runs by model."""

    @property
    def done(self) -> int:
        return self.planned - sum(self.missing.values())


def progress(study: Study, rows: Sequence[Row]) -> dict[str, Progress]:
    """The progress of each size, smallest first."""
    names = {Run.of(row).name for row in rows if not row["search"]}
    runs = [run for run in planned(study, held_out_bpb(rows)) if run.rate is None]
    runs += [Run(name, size, 0) for name, count in study.counts.items() for size in study.sizes(count.text_of)]
    sizes = {}
    for size in study.budgets:
        here, missing = [run for run in runs if run.size == size], dict[str, int]()
        for run in here:
            if run.name not in names:
                missing[run.model] = missing.get(run.model, 0) + 1
        sizes[size] = Progress(len(here), missing)
    return sizes


def progress_table(sizes: dict[str, Progress]) -> str:
    """A table of finished and missing runs."""
    rows = []
    for size, state in sizes.items():
        missing = ", ".join(name if count == 1 else f"{name} x {count}" for name, count in state.missing.items())
        rows.append([size, f"{state.done} of {state.planned}", missing or "none"])
    return grid(["size", "runs done", "missing"], rows, left=3)
