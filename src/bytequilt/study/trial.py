"""A trial: train one model within its budget and measure it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..baselines.baseline import Baseline
from ..codec import VOCAB_SIZE
from ..config import TrainConfig, UserError
from ..data.batches import Batches
from ..files import write_json
from ..infer.score import Score
from ..info import count_parameters
from ..lm import LM
from ..train import metrics
from ..train.columns import tables_of
from ..train.device import device_of
from ..train.loop import Diverged, Progress, fit
from ..train.tasks import LanguageTask
from .budget import Budget, mean_flops, patcher_cost
from .corpus import Corpus
from .jobs import Results, cached
from .models import leak, untrained
from .recipe import Contender, Rate, Study
from .search import Run, budget_of, held_out_bpb, learning_rate, planned

LEAK_BYTES = 4096  # bytes of held-out text for the leak test


def trials(study: Study, folder: Path, corpus: Corpus, results: Results) -> list["Trial"]:
    """The trials whose learning rates are known now, in the order in which they should be done."""
    bpb = held_out_bpb(trial_rows(results))
    jobs = []
    for run in planned(study, bpb):
        rate = run.rate or learning_rate(study, run.model, bpb, run.size)
        # the run is done, but its search has reopened because the grid was widened
        if rate is None and (row := results.get(folder / "runs" / run.name)):
            rate = Rate(row["lr"], row["hash_lr_factor"])
        if rate:
            jobs.append(Trial(study, folder / "runs" / run.name, corpus, run, rate))
    return jobs


def trial_rows(results: Results) -> list[dict[str, Any]]:
    """The results of trials, without fine-tunings and counts."""
    return [row for folder, row in results.items() if folder.parent.name == "runs"]


@dataclass(frozen=True)
class Trial:
    """A run with its learning rates, as a job. An interrupted trial continues from its checkpoint."""

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
        """All settings on which the result depends, except the corpus."""
        study, run = self.study, self.spec
        fields = {"patching", "tokenizer", "vocabulary", "frozen_tables", "charge_entropy"}
        fields |= {"ngram_patcher"} if self.contender.ngram_patcher else set()  # results made before the field hold
        return self.contender.model_dump(mode="json", include=fields) | {
            "network": study.network(run.model, run.size).model_dump(mode="json"),
            "train": study.training_fields(run.model),
            "budget": list(budget_of(study, run)),
            "test_bytes": study.test_bytes,
            "warmup_share": study.warmup_share,
            "parameters": self.contender.parameters.get(run.size),
            **self.rate._asdict(),
        }

    @property
    def contender(self) -> Contender:
        return self.study.models[self.spec.model]

    def run(self) -> dict[str, Any]:
        """Train and measure the model; returns the row of results. Raises Diverged if a full run (not a try)
        diverges."""
        study, run, corpus = self.study, self.spec, self.corpus
        config = study.training(run.model, self.rate, run.seed)
        torch.manual_seed(run.seed)
        model = untrained(study, self.folder.parents[1], corpus, run.model, run.size)
        model.network.to(device_of(config))
        leaked = leak(model, b"\n".join(corpus.val)[:LEAK_BYTES])
        tried, tested = spread(corpus.val, config.eval_bytes), spread(corpus.test, study.test_bytes)
        budget = self.budget(model, config)
        config = study.training(run.model, self.rate, run.seed, self.steps(budget, tried))
        progress, scores = self._fit(model, config, tried)
        if run.rate is None:
            costs = _costs(model, tested)
            write_bits(self.folder, costs)
            total = Score.total(costs)
            scores["test_bpb"], scores["mean_patch_bytes"] = total.bits_per_byte, total.patch_bytes or None
            scores["test_bytes"] = total.bytes
            model.save(self.folder / "model")
        use = budget.use(config.steps)
        cost = budget.flops_per_byte(use)
        flops = mean_flops(model, use.unit_bytes, [len(text) for text in tested])
        return (
            run.row_fields
            | scores
            | self.rate._asdict()
            | {"search": run.rate is not None, "split": corpus.split, "budget": {budget.unit: budget.amount}}
            | {"corpus": study.corpus, "matching": "parameters" if self.contender.parameters else "flops"}
            | {"steps": progress.step, "trained_bytes": progress.bytes, "train_flops": progress.bytes * cost}
            | {"train_flops_without_head": progress.bytes * (cost - 3 * flops["head"])}
            | {"flops_per_byte": flops, "unit_bytes": use.unit_bytes}
            | _size(model)
            | {"leak": leaked, "seconds": self._seconds(config), "threads": torch.get_num_threads()}
        )

    def budget(self, model: LM | Baseline, config: TrainConfig) -> Budget:
        """The budget of this run for this model."""
        unit, amount = budget_of(self.study, self.spec)
        if self.contender.charge_entropy:
            amount -= patcher_cost(self.study, self.contender)
            if amount <= 0:
                raise UserError(f"{self.name}: training the entropy model costs more than the whole budget")
        return Budget(unit, amount, model, lambda: self.batches(model, config), config, self.corpus.sample())

    def batches(self, model: LM | Baseline, config: TrainConfig) -> Batches:
        """A new iterator over the training batches."""
        return model.batches(self.corpus.shards(self.contender), config)

    def steps(self, budget: Budget, held_out: list[bytes]) -> int:
        """Number of steps that the budget pays for. It is stored in a file, because timing would give another number
        after a restart."""
        try:
            task = LanguageTask(budget.model, held_out)
            return cached(self.folder / "steps.json", lambda: {"steps": budget.steps(task)})["steps"]
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from None

    def _fit(self, model: LM | Baseline, config: TrainConfig, held_out: list[bytes]) -> tuple[Progress, dict[str, Any]]:
        """Train the model and score held-out text. A try that diverges has no score."""
        scores: dict[str, Any] = {"val_bpb": None, "test_bpb": None, "test_bytes": None, "mean_patch_bytes": None}
        try:
            batches = self.batches(model, config)
            progress = fit(LanguageTask(model, held_out), batches, config, self.folder, "study")
            score = Score.total(_costs(model, held_out))
            scores["val_bpb"], scores["mean_patch_bytes"] = score.bits_per_byte, score.patch_bytes or None
        except Diverged:
            if self.spec.rate is None:
                raise
            progress = Progress()
        return progress, scores

    def _seconds(self, config: TrainConfig) -> float:
        """Training time. On a CPU it is processor seconds per thread, which other processes hardly influence."""
        records = metrics.read(self.folder / "metrics.jsonl")
        if device_of(config).type == "cpu":
            return sum(record["processor_seconds"] for record in records) / torch.get_num_threads()
        return records[-1]["seconds"]


def _costs(model: LM | Baseline, texts: list[bytes]) -> list[Score]:
    """The score of each text under the trained model."""
    model.network.eval()
    return model.score_documents(texts)


def write_bits(folder: Path, costs: list[Score]) -> None:
    """Write the bits of each test document to documents/RUN.json in the study's folder."""
    write_json(folder.parents[1] / "documents" / f"{folder.name}.json", [round(score.bits, 3) for score in costs])


def _size(model: LM | Baseline) -> dict[str, int]:
    vocabulary = model.config.vocabulary if isinstance(model, Baseline) else VOCAB_SIZE
    looked_up = sum(table.weight.numel() for table in tables_of(model.network))
    return {"vocabulary": vocabulary, "parameters": count_parameters(model.network), "looked_up": looked_up}


def spread(texts: list[bytes], limit: int | None) -> list[bytes]:
    """Evenly spread documents of about `limit` bytes in total; all documents if `limit` is None."""
    total = sum(map(len, texts))
    if limit is None or total <= limit:
        return texts
    indices = np.linspace(0, len(texts), max(1, round(len(texts) * limit / total)), endpoint=False)
    return [texts[int(index)] for index in indices]
