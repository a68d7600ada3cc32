"""Jobs shared by several processes. The process that locks a job's folder runs it, once, and stores one result."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..config import UserError
from ..files import locked, read_json, write_json
from ..train.loop import Diverged
from ..view.progress import console

RESULT, RECIPE = "result.json", "recipe.json"


class Job(Protocol):
    """The protocol of a job, which continues after an interruption."""

    @property
    def name(self) -> str:
        """Name for messages."""
        ...

    @property
    def folder(self) -> Path:
        """The job's own folder, for its lock, checkpoints and result."""
        ...

    @property
    def recipe(self) -> dict[str, Any]:
        """All settings on which the result depends, except the corpus."""
        ...

    def run(self) -> dict[str, Any]:
        """Run the job, or its missing part, and return the result. Raises Diverged if training fails."""
        ...


Results = dict[Path, dict[str, Any]]
"""Results of finished jobs, by folder."""
Plan = Callable[[Results], Sequence[Job]]
"""Returns the jobs that can run now, most urgent first. New results can make new jobs possible, so it is called
repeatedly."""


def results_in(folder: Path) -> Results:
    """The results of all jobs in `folder/*/*`."""
    return {path.parent: read_json(path) for path in sorted(folder.glob(f"*/*/{RESULT}"))}


def done(jobs: Iterable[Job], results: Results) -> list[dict[str, Any]]:
    """The results of the finished jobs among `jobs`, in their order. Raises UserError if a result belongs to another
    recipe."""
    finished = [job for job in jobs if job.folder in results]
    for job in finished:
        keep_recipe(job.folder / RECIPE, job.recipe, f"{job.folder} is of another recipe")
    return [results[job.folder] for job in finished]


def run_all(plan: Plan, folder: Path, wait: float = 5.0) -> Results:
    """Run all missing jobs of a plan, together with other processes; returns all results.

    Each round reads the results and runs one job. A job locked by another process is skipped. If all remaining jobs are
    locked, the process waits `wait` seconds. A job that diverges is reported and not repeated.
    """
    diverged: set[Path] = set()
    while True:
        results = results_in(folder)
        jobs = [job for job in plan(results) if job.folder not in results and job.folder not in diverged]
        if not jobs:
            return results
        if not any(_run_if_free(job, len(jobs), diverged) for job in jobs):
            time.sleep(wait)


def _run_if_free(job: Job, missing: int, diverged: set[Path]) -> bool:
    """Run a job if no other process has locked it. Returns False if it is locked."""
    with locked(job.folder) as acquired:
        if acquired and not (job.folder / RESULT).is_file():  # another process may have finished it meanwhile
            keep_recipe(job.folder / RECIPE, job.recipe, f"{job.folder} is of another recipe")
            console.print(f"{job.name}, {missing} jobs to go")
            try:
                write_json(job.folder / RESULT, job.run(), indent=2)
            except Diverged as error:
                console.print(f"warning: {error}")
                diverged.add(job.folder)
        return acquired


def cached(path: Path, make: Callable[[], Any]) -> Any:
    """The content of a JSON file; if it does not exist, it is first written with the result of `make`."""
    if not path.is_file():
        write_json(path, make(), indent=2)
    return read_json(path)


def keep_recipe(path: Path, recipe: Any, complaint: str) -> None:
    """Write a recipe to a JSON file, or compare it with the file. Raises UserError with `complaint` if they differ."""
    if not path.is_file():
        write_json(path, recipe, indent=2)
    elif read_json(path) != recipe:
        raise UserError(f"{complaint}; delete {path.parent}, or give another --out")
