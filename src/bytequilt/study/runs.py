"""The runs of a study, done and to be done: what they came to, and doing what is missing."""

import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import torch

from ..baselines.baseline import build
from ..baselines.vocabulary import BPE
from ..config import UserError
from ..train.loop import Diverged
from ..view.progress import console
from .corpus import Corpus, same_as_before
from .plan import Run, budget_of, plan, tries
from .recipe import Study
from .table import whole
from .trial import Trial
from .work import work_off

RESULT = "result.json"


def learning_rate(study: Study, folder: Path, model: str) -> float | None:
    """The learning rate of a model: given, or the best of its tries. None while they are not all done."""
    contender = study.models[model]
    if contender.lr:
        return contender.lr
    if contender.lr_of:
        return learning_rate(study, folder, contender.lr_of)
    found = [result_of(folder, run) for run in tries(study, model)]
    if any(result is None for result in found):
        return None
    return min(found, key=lambda result: result["val_bpb"] or math.inf)["lr"]


def result_of(folder: Path, run: Run) -> dict[str, Any] | None:
    """What a run came to; None where it is not done."""
    path = folder / "runs" / run.name / RESULT
    return json.loads(path.read_text()) if path.is_file() else None


def check(study: Study, folder: Path, run: Run, lr: float) -> None:
    """Raises UserError where a run was begun with another recipe; notes the recipe where it was not begun."""
    home, made_of = folder / "runs" / run.name, json.dumps(_recipe(study, run) | {"lr": lr}, indent=2)
    if (home / RESULT).is_file() and not (home / "recipe.json").is_file():
        raise UserError(f"{home} does not say what made it; delete it to run it anew")
    same_as_before(home / "recipe.json", made_of, f"{home} is of another recipe")


def _recipe(study: Study, run: Run) -> dict[str, Any]:
    """All that a run depends on besides the corpus and its learning rate."""
    model = study.models[run.model].model_dump(mode="json", include={"patching", "tokenizer", "vocabulary"})
    return model | {
        "network": study.network(run.model, run.size).model_dump(mode="json"),
        "train": study.training(run.model, 1, 1.0, run.seed).model_dump(mode="json"),
        "budget": budget_of(study, run),
        "test_bytes": study.test_bytes,
    }


def done(study: Study, folder: Path, corpus: Corpus) -> list[dict[str, Any]]:
    """The results of the runs that are done. Raises UserError where one is of another recipe or another corpus."""
    found = []
    for run in plan(study):
        if result := result_of(folder, run):
            check(study, folder, run, run.lr or learning_rate(study, folder, run.model) or result["lr"])
            if result["split"] != corpus.split:
                raise UserError(f"{folder / 'runs' / run.name} was trained on another split; it cannot be compared")
            found.append(result)
    return found


def do_all(study: Study, folder: Path, corpus: Corpus) -> list[dict[str, Any]]:
    """Do the runs that are missing, beside other processes that do the same in this folder; returns all results.

    A run that diverges is left out, and said; of tries it is the worst.
    """
    _check_inputs(study)
    done(study, folder, corpus)
    runs, failed = plan(study), set[Run]()

    def missing() -> list[Run]:
        return [run for run in runs if run not in failed and result_of(folder, run) is None]

    def ready(run: Run) -> bool:
        return bool(run.lr or learning_rate(study, folder, run.model))

    def do(run: Run) -> None:
        console.print(f"run {len(runs) - len(missing()) + 1} of {len(runs)}: {run.name}")
        lr = run.lr or learning_rate(study, folder, run.model)
        assert lr is not None
        check(study, folder, run, lr)
        try:
            path = folder / "runs" / run.name / RESULT
            whole(path, json.dumps(Trial(study, folder, corpus, run, lr).take(), indent=2) + "\n")
        except Diverged as error:
            console.print(f"warning: {error}")
            failed.add(run)

    work_off(missing, ready, lambda run: folder / "runs" / run.name, do)
    return done(study, folder, corpus)


def _check_inputs(study: Study) -> None:
    """Raises UserError for what would only be missed in the middle: a tokenizer, or a package."""
    for name, model in study.models.items():
        if model.tokenizer is not None:
            BPE.read(Path(model.tokenizer), model.vocabulary)
        if model.patching is None:
            with torch.device("meta"):
                build(study.network(name, study.sizes(name)[0]))


def machine() -> dict[str, Any]:
    """What the runs were done on."""
    return {"machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, torch {torch.__version__}"}
