"""Jobs that several processes share: each is done once, by the process that holds its folder, and has one result."""

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
    """A piece of work that can be interrupted and goes on where it was."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def folder(self) -> Path:
        """A folder of its own for its lock, its checkpoints and its result."""
        ...

    @property
    def recipe(self) -> dict[str, Any]:
        """All that its result depends on, besides the corpus."""
        ...

    def run(self) -> dict[str, Any]:
        """Do the job, or what is missing of it, and return the result. Raises Diverged where it cannot be done."""
        ...


Results = dict[Path, dict[str, Any]]
"""Results of jobs that are done, by the folders of the jobs."""
Plan = Callable[[Results], Sequence[Job]]
"""The jobs that can be done now, best first. Some follow from the results of others, so it is asked again and again."""


def results_in(folder: Path) -> Results:
    """The results of all jobs whose folders are two levels below a folder."""
    return {path.parent: read_json(path) for path in sorted(folder.glob(f"*/*/{RESULT}"))}


def done(jobs: Iterable[Job], results: Results) -> list[dict[str, Any]]:
    """The results of those jobs that are done, in the order of the jobs.

    Raises UserError where a job was done by another recipe.
    """
    finished = [job for job in jobs if job.folder in results]
    for job in finished:
        keep_recipe(job.folder / RECIPE, job.recipe, f"{job.folder} is of another recipe")
    return [results[job.folder] for job in finished]


def run_all(plan: Plan, folder: Path, wait: float = 5.0) -> Results:
    """Do the jobs of a plan that are missing, beside other processes that do the same; returns all results.

    Results are read once a round, and each round does one job. A job in other hands is passed over: this process goes
    on with the next one, and waits (`wait` seconds, then another round) only where nothing else is left.
    A job that diverges is left out with a warning.
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
    """Do a job unless another process holds it; False where it does."""
    with locked(job.folder) as mine:
        if mine and not (job.folder / RESULT).is_file():  # another may have finished it since results were read
            keep_recipe(job.folder / RECIPE, job.recipe, f"{job.folder} is of another recipe")
            console.print(f"{job.name}, {missing} jobs to go")
            try:
                write_json(job.folder / RESULT, job.run(), indent=2)
            except Diverged as error:
                console.print(f"warning: {error}")
                diverged.add(job.folder)
        return mine


def keep_recipe(path: Path, recipe: Any, complaint: str) -> None:
    """Write a recipe to a JSON file. Raises UserError, with the complaint, where the file holds another recipe."""
    if not path.is_file():
        write_json(path, recipe, indent=2)
    elif read_json(path) != recipe:
        raise UserError(f"{complaint}; delete {path.parent}, or give another --out")
