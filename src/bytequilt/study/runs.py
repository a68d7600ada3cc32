"""The runs of a study: which there are, and how one of them is done."""

import fcntl
import json
import math
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..codec import VOCAB_SIZE
from ..config import TrainConfig, UserError
from ..infer.score import Score
from ..train import metrics
from ..train.loop import Diverged, Progress, Task, device_of, fit, step
from ..train.optim import optimizers
from ..train.run import threshold_stage
from ..view.progress import console
from .contender import Model, Pace, PatchModel, TokenModel, filled, leak, pace, training_flops, vocabulary_of
from .corpus import LEARN, Corpus
from .recipe import Study

RESULT = "result.json"
WARMUP, TIMED = 3, 10  # steps before, and steps of, a measurement of speed
WAIT = 5.0  # seconds until it is looked again whether another process has finished a run


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


def check(study: Study, folder: Path, run: Run) -> None:
    """Raises UserError where a run was begun with another recipe; notes the recipe where it was not begun."""
    path, made_of = folder / "runs" / run.name / "recipe.json", json.dumps(_recipe(study, run), indent=2)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made_of)
    elif path.read_text() != made_of:
        raise UserError(f"{path.parent} is of another recipe; delete it to run it anew, or give another --out")


def _recipe(study: Study, run: Run) -> dict[str, Any]:
    """All that a run depends on besides the corpus and its learning rate."""
    model = study.models[run.model].model_dump(mode="json", include={"patching", "tokenizer", "vocabulary"})
    return model | {
        "network": study.network(run.model, run.size).model_dump(mode="json"),
        "train": study.training(run.model, 1, 1.0, run.seed).model_dump(mode="json"),
        "budget": _budget(study, run),
        "test_bytes": study.test_bytes,
    }


def done(study: Study, folder: Path, corpus: Corpus) -> list[dict[str, Any]]:
    """The results of the runs that are done. Raises UserError where one is of another recipe or another corpus."""
    found = []
    for run in plan(study):
        if result := result_of(folder, run):
            check(study, folder, run)
            if result["split"] != corpus.split:
                raise UserError(f"{folder / 'runs' / run.name} was trained on another split; it cannot be compared")
            found.append(result)
    return found


def do_all(study: Study, folder: Path, corpus: Corpus) -> list[dict[str, Any]]:
    """Do the runs that are missing, beside other processes that do the same in this folder; returns all results."""
    runs = plan(study)
    done(study, folder, corpus)
    while missing := [run for run in runs if result_of(folder, run) is None]:
        ready = [run for run in missing if run.lr or learning_rate(study, folder, run.model)]
        for run in ready:
            with claimed(folder / "runs" / run.name) as mine:
                if mine and result_of(folder, run) is None:
                    before = len(runs) - len(missing)
                    console.print(f"run {before + 1} of {len(runs)}: {run.name}")
                    _do(study, folder, corpus, run)
                    break
        else:
            time.sleep(WAIT)  # the others are at work on all that is left
    return done(study, folder, corpus)


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether this process, and no other, has the run; a process that dies lets go of it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def _do(study: Study, folder: Path, corpus: Corpus, run: Run) -> None:
    """Train and measure one model; a run that was interrupted goes on from its checkpoint."""
    home = folder / "runs" / run.name
    check(study, folder, run)
    lr = run.lr or learning_rate(study, folder, run.model)
    assert lr is not None
    torch.manual_seed(run.seed)
    model = _model(study, folder, corpus, run)
    leaked = leak(model, corpus.val[0])
    budget = _budget(study, run)
    draft = study.training(run.model, 1, lr, run.seed)
    shards = corpus.scored if model.needs_entropy else corpus.plain
    held_out = _first(corpus.val, draft.eval_bytes)
    held = _share(model, budget, held_out, shards, draft, home / "steps")
    flops = model.flops(held.unit_bytes, _context(model, held, draft))
    config = study.training(run.model, held.batches // draft.accumulate, lr, run.seed)
    task, scores = model.task(held_out), {"val_bpb": None, "test_bpb": None, "test_bytes": None}
    try:
        trained = fit(task, model.batches(shards, config), config, home, "study")
        scores["val_bpb"], mean_patch = _score(model, held_out)
    except Diverged:
        if run.lr is None:
            raise
        trained, mean_patch = Progress(), None  # of all tries, the worst
    if run.lr is None:
        texts = _first(corpus.test, study.test_bytes)
        scores["test_bpb"], mean_patch = _score(model, texts)
        scores["test_bytes"] = sum(map(len, texts))
        model.scorer.save(home / "model")
    record = (
        asdict(run)
        | scores
        | {
            "lr": lr,
            "search": run.lr is not None,
            "split": corpus.split,
            "budget": budget,
            "steps": trained.step,
            "trained_bytes": trained.bytes,
            "train_flops": trained.bytes * training_flops(flops),
            "train_flops_without_head": trained.bytes * (training_flops(flops) - 3 * flops["head"]),
            "flops_per_byte": flops,
            "unit_bytes": held.unit_bytes,
            "mean_patch_bytes": mean_patch,
            "vocabulary": model.config.vocabulary if isinstance(model, TokenModel) else VOCAB_SIZE,
            "parameters": sum(weight.numel() for weight in model.network.parameters()),
            "leak": leaked,
            "seconds": _seconds(home, trained.bytes),
            "threads": torch.get_num_threads(),
        }
    )
    partial = home / f"{RESULT}.partial"
    partial.write_text(json.dumps(record, indent=2) + "\n")
    partial.rename(home / RESULT)


def _model(study: Study, folder: Path, corpus: Corpus, run: Run) -> Model:
    """The model of a run, with random weights."""
    spec, config = study.models[run.model], study.network(run.model, run.size)
    if spec.patching is not None:
        path = folder / "patching" / f"{run.model}.json"
        entropy = corpus.entropy if spec.patching.needs_entropy else None
        patcher = threshold_stage(spec.patching, corpus.folder, path, entropy)
        return PatchModel(config, patcher, spec.patching.target_bytes or spec.patching.stride)
    learnt = folder / "vocabularies" / f"{spec.vocabulary}.model"
    sample = [] if spec.tokenizer or spec.vocabulary is None or learnt.is_file() else corpus.sample(LEARN)
    vocabulary = vocabulary_of(spec.tokenizer, spec.vocabulary, sample, learnt)
    return TokenModel(filled(config, vocabulary, corpus.sample()), vocabulary)


def _budget(study: Study, run: Run) -> dict[str, float]:
    """What the run may take."""
    share = study.sweep.share if run.lr and study.sweep else 1.0
    return {name: amount * share for name, amount in study.budgets[run.size].amounts.items()}


def _share(
    model: Model, budget: dict[str, float], held_out: list[bytes], shards: Path, draft: TrainConfig, kept: Path
) -> Pace:
    """The batches that the budget is enough for, counted one by one, since they are not equally full.

    Their number is kept in a file: a measurement of time would give another when a run goes on.
    """
    ((name, amount),) = budget.items()
    if kept.is_file():
        steps = int(kept.read_text())
    elif name == "seconds":
        steps = int(amount / _step_seconds(model.task(held_out), model.batches(shards, draft), draft))
    else:
        held = pace(model, model.batches(shards, draft), lambda held: _spent(model, held, draft)[name] >= amount)
        steps = round(held.batches / draft.accumulate)
        if held.batches <= draft.accumulate and (least := _spent(model, held, draft)[name]) > amount:
            raise UserError(f"a budget of {amount:.3g} {name} is below one step of {kept.parent.name}, {least:.3g}")
    if steps < 1:
        raise UserError(f"a budget of {amount:.3g} {name} is below one step of {kept.parent.name}")
    kept.write_text(str(steps))
    return pace(model, model.batches(shards, draft), lambda held: held.batches >= steps * draft.accumulate)


def _context(model: Model, held: Pace, draft: TrainConfig) -> float:
    """Bytes of a row, which attention sees at most."""
    return draft.row_bytes * (held.unit_bytes if isinstance(model, TokenModel) else 1.0)


def _spent(model: Model, held: Pace, draft: TrainConfig) -> dict[str, float]:
    """What training on so many batches takes, by kind of budget."""
    flops = training_flops(model.flops(held.unit_bytes, _context(model, held, draft)))
    return {"flops": held.bytes * flops, "bytes": held.bytes}


def _step_seconds(task: Task, batches: Iterator, draft: TrainConfig) -> float:
    """What a step takes here, in the median; the weights are put back as they were."""
    before = {name: weight.clone() for name, weight in task.network.state_dict().items()}
    found, seconds = optimizers(task.network.to(device_of(draft)), draft), []
    for _ in range(WARMUP + TIMED):
        begun = time.perf_counter()
        step(task, [next(batches).to(device_of(draft)) for _ in range(draft.accumulate)], found, draft, bf16=False)
        seconds.append(time.perf_counter() - begun)
    task.network.load_state_dict(before)
    return statistics.median(seconds[WARMUP:])


def _score(model: Model, texts: list[bytes]) -> tuple[float, float | None]:
    """Bits per byte of the texts under the trained model, and their mean patch."""
    scores, mean_patch = model.scorer.score_documents(texts)
    return sum(scores, Score(0.0, 0)).bits_per_byte, mean_patch


def _seconds(home: Path, size: int) -> float:
    """What the training took, at the speed of its median step: other work on the machine does not count."""
    speeds = [r["bytes_per_second"] for r in metrics.read(home / "metrics.jsonl")]
    return size / statistics.median(speeds)


def _first(texts: list[bytes], limit: int | None) -> list[bytes]:
    """Documents up to so many bytes, evenly spread over all of them."""
    total = sum(map(len, texts))
    if limit is None or total <= limit:
        return texts
    return texts[:: -(-total // limit)]


def machine() -> dict[str, Any]:
    """What the runs were done on."""
    import platform

    return {"machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, torch {torch.__version__}"}
