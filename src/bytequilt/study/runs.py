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
from .plan import Known, Run, budget_of, plan, tries
from .recipe import Rate, Study
from .table import whole
from .trial import Trial
from .work import work_off

RESULT = "result.json"


def learning_rate(study: Study, folder: Path, model: str) -> Rate | None:
    """The learning rates of a model: given, or the best of its tries. None while the search goes on."""
    contender = study.models[model]
    if contender.lr:
        return Rate(contender.lr, contender.hash_lr_factor or 1.0)
    if contender.lr_of:
        return learning_rate(study, folder, contender.lr_of)
    _, best = tries(study, model, known(folder))
    return best.rate if best else None


def known(folder: Path) -> Known:
    """What the tries in a folder came to."""

    def bpb(run: Run) -> float | None:
        result = result_of(folder, run)
        return result and (result["val_bpb"] or math.inf)

    return bpb


def result_of(folder: Path, run: Run) -> dict[str, Any] | None:
    """What a run came to; None where it is not done."""
    path = folder / "runs" / run.name / RESULT
    return json.loads(path.read_text()) if path.is_file() else None


def check(study: Study, folder: Path, run: Run, rate: Rate) -> None:
    """Raises UserError where a run was begun with another recipe; notes the recipe where it was not begun."""
    home, made_of = folder / "runs" / run.name, json.dumps(_recipe(study, run) | rate._asdict(), indent=2)
    if (home / RESULT).is_file() and not (home / "recipe.json").is_file():
        raise UserError(f"{home} does not say what made it; delete it to run it anew")
    same_as_before(home / "recipe.json", made_of, f"{home} is of another recipe")


def _recipe(study: Study, run: Run) -> dict[str, Any]:
    """All that a run depends on besides the corpus and its learning rates."""
    model = study.models[run.model].model_dump(mode="json", include={"patching", "tokenizer", "vocabulary"})
    return model | {
        "network": study.network(run.model, run.size).model_dump(mode="json"),
        "train": study.training(run.model, 1, Rate(1.0, 1.0), run.seed).model_dump(mode="json"),
        "budget": budget_of(study, run),
        "test_bytes": study.test_bytes,
    }


def done(study: Study, folder: Path, corpus: Corpus) -> list[dict[str, Any]]:
    """The results of the runs that are done. Raises UserError where one is of another recipe or another corpus."""
    found = []
    for run in plan(study, known(folder)):
        if result := result_of(folder, run):
            was = Rate(result["lr"], result["hash_lr_factor"])
            check(study, folder, run, run.rate or learning_rate(study, folder, run.model) or was)
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
    failed = set[Run]()

    def missing() -> list[Run]:
        runs = plan(study, known(folder))
        return [run for run in runs if run not in failed and result_of(folder, run) is None]

    def ready(run: Run) -> bool:
        return bool(run.rate or learning_rate(study, folder, run.model))

    def do(run: Run) -> None:
        console.print(f"{run.name}, {len(missing())} runs to go")
        rate = run.rate or learning_rate(study, folder, run.model)
        assert rate is not None
        check(study, folder, run, rate)
        try:
            path = folder / "runs" / run.name / RESULT
            whole(path, json.dumps(Trial(study, folder, corpus, run, rate).take(), indent=2) + "\n")
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
