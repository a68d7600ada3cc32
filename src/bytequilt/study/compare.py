"""A whole study: the corpus, all trials, all fine-tunings, the report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import UserError
from .corpus import Corpus, prepared
from .finetune import fine_tunings
from .jobs import Job, Results, done, results_in, run_all
from .models import check_inputs
from .recipe import Study
from .report import write_report
from .trial import trials


def compare(study: Study, folder: Path, report_only: bool = False) -> dict[str, Any]:
    """Do what is missing of a study, beside other processes that do the same, and report it; returns the results.

    With `report_only` nothing is trained, and what is done so far is reported. Raises UserError where the folder holds
    results of another recipe or another corpus.
    """
    corpus = prepared(study, folder)
    if not report_only:
        train(study, folder, corpus)
    rows, finetuned = results_of(study, folder, corpus)
    return write_report(study, rows, folder, corpus, finetuned)


def train(study: Study, folder: Path, corpus: Corpus, wait: float = 5.0) -> None:
    """Do the trials and fine-tunings that are missing; `wait` as in `run_all`."""
    check_inputs(study)
    results_of(study, folder, corpus)

    def plan(results: Results) -> Sequence[Job]:
        tuning = [job for job in fine_tunings(study, folder, results) if job.trained_in in results]
        return [*trials(study, folder, corpus, results), *tuning]

    run_all(plan, folder, wait)


def results_of(study: Study, folder: Path, corpus: Corpus) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Results of the trials and of the fine-tunings that are done.

    Raises UserError where one is of another recipe or another corpus.
    """
    results = results_in(folder)
    rows = done(trials(study, folder, corpus, results), results)
    if strange := [row for row in rows if row["split"] != corpus.split]:
        raise UserError(f"{strange[0]['model']} in {folder} was trained on another split; it cannot be compared")
    return rows, done(fine_tunings(study, folder, results), results)
