"""A trial: one model is trained within its budget, and measured."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..baselines.baseline import Baseline
from ..codec import VOCAB_SIZE
from ..config import TrainConfig, UserError
from ..files import read_json, write_json
from ..infer.score import Score
from ..lm import LM
from ..train import metrics
from ..train.device import device_of
from ..train.loop import Diverged, Progress, fit
from ..train.tasks import LanguageTask
from .budget import Budget, mean_flops
from .corpus import Corpus
from .jobs import Results
from .models import leak, untrained
from .recipe import Rate, Study
from .search import Run, budget_of, held_out_bpb, learning_rate, planned

LEAK_BYTES = 4096  # of held-out text, in which a model is tested for foresight


def trials(study: Study, folder: Path, corpus: Corpus, results: Results) -> list["Trial"]:
    """The trials whose learning rates are known by now, in the order in which they are best done."""
    bpb = held_out_bpb(trial_rows(results))
    jobs = []
    for run in planned(study, bpb):
        rate = run.rate or learning_rate(study, run.model, bpb)
        if rate is None and (row := results.get(folder / "runs" / run.name)):  # as when the grid became wider
            rate = Rate(row["lr"], row["hash_lr_factor"])
        if rate:
            jobs.append(Trial(study, folder / "runs" / run.name, corpus, run, rate))
    return jobs


def trial_rows(results: Results) -> list[dict[str, Any]]:
    """The results that are of trials."""
    return [row for folder, row in results.items() if folder.parent.name == "runs"]


@dataclass(frozen=True)
class Trial:
    """A run and its learning rates; a trial that was interrupted goes on from its checkpoint."""

    study: Study
    folder: Path
    corpus: Corpus
    spec: Run
    rate: Rate

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def recipe(self) -> dict[str, Any]:
        """All that the result depends on besides the corpus."""
        study, run = self.study, self.spec
        model = study.models[run.model].model_dump(mode="json", include={"patching", "tokenizer", "vocabulary"})
        return model | {
            "network": study.network(run.model, run.size).model_dump(mode="json"),
            "train": study.training_fields(run.model),
            "budget": list(budget_of(study, run)),
            "test_bytes": study.test_bytes,
            **self.rate._asdict(),
        }

    def run(self) -> dict[str, Any]:
        """Train and measure the model. Raises Diverged where it cannot be trained at these rates, and is no try."""
        study, run, corpus = self.study, self.spec, self.corpus
        config = study.training(run.model, self.rate, run.seed)
        torch.manual_seed(run.seed)
        model = untrained(study, self.folder.parents[1], corpus, run.model, run.size)
        model.network.to(device_of(config))
        leaked = leak(model, b"\n".join(corpus.val)[:LEAK_BYTES])
        tried, tested = spread(corpus.val, config.eval_bytes), spread(corpus.test, study.test_bytes)
        budget = self.budget(model, config)
        config = config.model_copy(update={"steps": self.steps(budget, tried)})
        progress, scores = self._fit(model, config, tried)
        if run.rate is None:
            scores["test_bpb"], scores["mean_patch_bytes"] = _bpb(model, tested)
            scores["test_bytes"] = sum(map(len, tested))
            model.save(self.folder / "model")
        use = budget.use(config.steps)
        flops = mean_flops(model, use.unit_bytes, [len(text) for text in tested])
        return (
            run.place
            | scores
            | self.rate._asdict()
            | {"search": run.rate is not None, "split": corpus.split, "budget": {budget.unit: budget.amount}}
            | _spent(progress, budget.flops_per_byte(use), flops)
            | {"flops_per_byte": flops, "unit_bytes": use.unit_bytes}
            | _size(model)
            | {"leak": leaked, "seconds": self._seconds(config), "threads": torch.get_num_threads()}
        )

    def budget(self, model: LM | Baseline, config: TrainConfig) -> Budget:
        """The budget of the run, spent on this model."""
        unit, amount = budget_of(self.study, self.spec)
        shards = self.corpus.shards(self.study.models[self.spec.model].needs_entropy)
        return Budget(unit, amount, model, lambda: model.batches(shards, config), config, self.corpus.sample())

    def steps(self, budget: Budget, held_out: list[bytes]) -> int:
        """Steps that the budget pays for, kept in a file: a measurement of time would give others on resuming."""
        path = self.folder / "steps.json"
        if not path.is_file():
            try:
                write_json(path, {"steps": budget.steps(LanguageTask(budget.model, held_out))})
            except UserError as error:
                raise UserError(f"{self.name}: {error}") from None
        return read_json(path)["steps"]

    def _fit(self, model: LM | Baseline, config: TrainConfig, held_out: list[bytes]) -> tuple[Progress, dict[str, Any]]:
        """Train the model and score it on the held-out text; a try that diverges has no score."""
        scores: dict[str, Any] = {"val_bpb": None, "test_bpb": None, "test_bytes": None, "mean_patch_bytes": None}
        shards = self.corpus.shards(self.study.models[self.spec.model].needs_entropy)
        try:
            progress = fit(LanguageTask(model, held_out), model.batches(shards, config), config, self.folder, "study")
            scores["val_bpb"], scores["mean_patch_bytes"] = _bpb(model, held_out)
        except Diverged:
            if self.spec.rate is None:
                raise
            progress = Progress()
        return progress, scores

    def _seconds(self, config: TrainConfig) -> float:
        """What training took: on a CPU processor seconds of a thread, which other work on the machine hardly moves."""
        records = metrics.read(self.folder / "metrics.jsonl")
        if device_of(config).type == "cpu":
            return sum(record["processor_seconds"] for record in records) / torch.get_num_threads()
        return records[-1]["seconds"]


def _bpb(model: LM | Baseline, texts: list[bytes]) -> tuple[float, float | None]:
    """Bits per byte of the texts under the trained model, and their mean patch."""
    model.network.eval()
    score = Score.total(model.score_documents(texts))
    return score.bits_per_byte, score.patch_bytes or None


def _spent(progress: Progress, cost: float, flops: dict[str, float]) -> dict[str, Any]:
    """What training took, where a byte costs so many FLOPs."""
    return {
        "steps": progress.step,
        "trained_bytes": progress.bytes,
        "train_flops": progress.bytes * cost,
        "train_flops_without_head": progress.bytes * (cost - 3 * flops["head"]),
    }


def _size(model: LM | Baseline) -> dict[str, int]:
    parameters = sum(weight.numel() for weight in model.network.parameters())
    vocabulary = model.config.vocabulary if isinstance(model, Baseline) else VOCAB_SIZE
    return {"vocabulary": vocabulary, "parameters": parameters}


def spread(texts: list[bytes], limit: int | None) -> list[bytes]:
    """Documents, evenly spread over all of them, of about so many bytes."""
    total = sum(map(len, texts))
    if limit is None or total <= limit:
        return texts
    places = np.linspace(0, len(texts), max(1, round(len(texts) * limit / total)), endpoint=False)
    return [texts[int(place)] for place in places]
