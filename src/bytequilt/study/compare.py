"""A whole study: corpus, trials, fine-tunings and report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import UserError
from ..files import read_json, write_json
from .corpus import Corpus, prepared
from .counting import countings
from .evidence import evidence
from .finetune import fine_tunings
from .jobs import Job, Results, done, results_in, run_all
from .models import check_inputs
from .recipe import Study
from .report import write_report
from .search import Run
from .trial import spread, trials

SIZES = "bytes.json"  # sizes of the test documents, beside the files with their bits


def compare(study: Study, folder: Path, report_only: bool = False) -> dict[str, Any]:
    """Run the missing parts of a study and write its report; returns the content of results.json.

    Other processes may work on the same study. With `report_only`, nothing is trained. Raises UserError if the folder
    holds results of another recipe or corpus.
    """
    corpus = prepared(study, folder)
    if not report_only:
        train(study, folder, corpus)
    rows, finetuned = results_of(study, folder, corpus)
    rows = [row | entropy_seconds(row, study, corpus) for row in rows]
    return write_report(study, rows, folder, corpus, finetuned, evidence_of(study, rows, folder, corpus))


def entropy_seconds(row: dict[str, Any], study: Study, corpus: Corpus) -> dict[str, float]:
    """Seconds in which the entropies of the text of a run are computed, for models that need them. All runs share these
    entropies, but a single run would have to compute them."""
    model = study.models.get(row["model"])
    per_byte = corpus.seconds(corpus.scored(model)) if model else None
    return {} if per_byte is None else {"entropy_seconds": row["trained_bytes"] * per_byte}


def evidence_of(study: Study, rows: Sequence[dict[str, Any]], folder: Path, corpus: Corpus) -> dict[str, Any]:
    """Differences between models, and slopes over budgets, with confidence intervals, from the bits of each test
    document."""
    documents = folder / "documents"
    sizes = [len(text) for text in spread(corpus.test, study.test_bytes)]
    write_json(documents / SIZES, sizes)
    return evidence(
        rows, lambda row: read_json(documents / f"{Run.of(row).name}.json"), sizes, study.counts, study.blts
    )


def train(study: Study, folder: Path, corpus: Corpus, wait: float = 5.0) -> None:
    """Run all missing trials and fine-tunings. `wait` is explained at `run_all`."""
    check_inputs(study)
    results_of(study, folder, corpus)

    def plan(results: Results) -> Sequence[Job]:
        tuning = [job for job in fine_tunings(study, folder, results) if job.trained_in in results]
        counts = countings(study, folder, corpus, results)  # first, because they take only minutes
        return [*counts, *trials(study, folder, corpus, results), *tuning]

    run_all(plan, folder, wait)


def results_of(study: Study, folder: Path, corpus: Corpus) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Results of finished trials, and results of finished fine-tunings. Raises UserError if a result belongs to another
    recipe or corpus."""
    results = results_in(folder)
    jobs = [*trials(study, folder, corpus, results), *countings(study, folder, corpus, results)]
    rows = done(jobs, results)
    if strange := [row for row in rows if row["split"] != corpus.split]:
        raise UserError(
            f"{strange[0]['model']} in {folder} was trained on another split of documents; results cannot be compared"
        )
    return rows, done(fine_tunings(study, folder, results), results)
