"""One run of a study: a model is trained within its budget, and measured."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..codec import VOCAB_SIZE
from ..config import TrainConfig, UserError
from ..data.batches import Batches
from ..infer.score import Score
from ..train import metrics
from ..train.device import device_of, uses_bf16
from ..train.loop import Diverged, Progress, Task, fit, step
from ..train.optim import optimizers
from ..train.run import threshold_stage
from .contender import (
    Model,
    Pace,
    PatchModel,
    TokenModel,
    filled,
    leak,
    mean_flops,
    pace,
    training_flops,
    vocabulary_of,
)
from .corpus import LEARN, Corpus
from .plan import Run, budget_of
from .recipe import Rate, Study

WARMUP, TIMED = 3, 10  # steps before, and steps of, a measurement of speed
PILOT = 64  # batches that tell the mean size of patches or tokens
LEAK_BYTES = 4096  # of held-out text, in which a model is tested for foresight


@dataclass(frozen=True)
class Trial:
    """A run, its learning rates, and where it is done; what was interrupted goes on from its checkpoint."""

    study: Study
    folder: Path
    corpus: Corpus
    run: Run
    rate: Rate

    @property
    def home(self) -> Path:
        return self.folder / "runs" / self.run.name

    def take(self) -> dict[str, Any]:
        """Train and measure the model. Raises Diverged where it cannot be trained at these rates, and is no try."""
        study, corpus, run = self.study, self.corpus, self.run
        torch.manual_seed(run.seed)
        draft = study.training(run.model, 1, self.rate, run.seed)
        model = self.model()
        model.network.to(device_of(draft))
        leaked = leak(model, b"\n".join(corpus.val)[:LEAK_BYTES])
        tried, tested = first(corpus.val, draft.eval_bytes), first(corpus.test, study.test_bytes)
        held, cost = self.share(model, draft, tried)
        config = study.training(run.model, held.batches // draft.accumulate, self.rate, run.seed)
        found: dict[str, Any] = {"val_bpb": None, "test_bpb": None, "test_bytes": None, "mean_patch_bytes": None}
        try:
            trained = fit(model.task(tried), model.batches(self.shards(model), config), config, self.home, "study")
            found["val_bpb"], found["mean_patch_bytes"] = _score(model, tried)
        except Diverged:
            if run.rate is None:
                raise
            trained = Progress()  # of all tries, the worst
        if run.rate is None:
            found["test_bpb"], found["mean_patch_bytes"] = _score(model, tested)
            found["test_bytes"] = sum(map(len, tested))
            model.scorer.save(self.home / "model")
        flops = mean_flops(model, held.unit_bytes, [len(text) for text in tested])
        name, amount = budget_of(study, run)
        return (
            run.place
            | found
            | self.rate._asdict()
            | {
                "search": run.rate is not None,
                "split": corpus.split,
                "budget": {name: amount},
                "steps": trained.step,
                "trained_bytes": trained.bytes,
                "train_flops": trained.bytes * cost,
                "train_flops_without_head": trained.bytes * (cost - 3 * flops["head"]),
                "flops_per_byte": flops,
                "unit_bytes": held.unit_bytes,
                "vocabulary": model.config.vocabulary if isinstance(model, TokenModel) else VOCAB_SIZE,
                "parameters": sum(weight.numel() for weight in model.network.parameters()),
                "leak": leaked,
                "seconds": _seconds(self.home, config),
                "threads": torch.get_num_threads(),
            }
        )

    def model(self) -> Model:
        """The model, with random weights."""
        spec, config = self.study.models[self.run.model], self.study.network(self.run.model, self.run.size)
        if spec.patching is not None:
            path = self.folder / "patching" / f"{self.run.model}.json"
            entropy = self.corpus.entropy if spec.patching.needs_entropy else None
            patcher = threshold_stage(spec.patching, self.corpus.folder, path, entropy)
            return PatchModel(config, patcher, spec.patching.target_bytes or spec.patching.stride)
        learnt = self.folder / "vocabularies" / f"{spec.vocabulary}.model"
        known = spec.tokenizer or spec.vocabulary is None or learnt.is_file()
        sample = [] if known else self.corpus.sample(LEARN)
        vocabulary = vocabulary_of(spec.tokenizer, spec.vocabulary, sample, learnt)
        return TokenModel(filled(config, vocabulary, self.corpus.sample()), vocabulary)

    def shards(self, model: Model) -> Path:
        """What the model is trained on."""
        return self.corpus.scored if model.needs_entropy and self.corpus.scored else self.corpus.plain

    def share(self, model: Model, draft: TrainConfig, held_out: list[bytes]) -> tuple[Pace, float]:
        """The batches that the budget is enough for, and training FLOPs of a byte.

        Batches are counted one by one, since they are not equally full. Their number is kept in a file: a measurement
        of time would give another when a run goes on. Raises UserError for a budget below one step.
        """
        name, amount = budget_of(self.study, self.run)

        def batches() -> Batches:
            return model.batches(self.shards(model), draft)

        def cost(held: Pace) -> float:
            row = draft.row_bytes * (held.unit_bytes if isinstance(model, TokenModel) else 1.0)
            return training_flops(mean_flops(model, held.unit_bytes, _rows(self.corpus.sample(), row)))

        kept = self.home / "steps"
        if kept.is_file():
            steps = int(kept.read_text())
        elif name == "seconds":
            steps = int(amount / _step_seconds(model.task(held_out), batches(), draft))
        else:
            held = pace(model, batches(), lambda held: held.batches >= PILOT)
            for _ in range(2 if name == "flops" else 1):  # the cost of a byte hangs on the batches, a little
                each = cost(held) if name == "flops" else 1.0
                held = pace(model, batches(), lambda held, each=each: held.bytes * each >= amount)
            steps = round(held.batches / draft.accumulate)
            if held.batches <= draft.accumulate and (least := held.bytes * each) > amount:
                raise UserError(f"a budget of {amount:.3g} {name} is below one step of {self.run.name}, {least:.3g}")
        if steps < 1:
            raise UserError(f"a budget of {amount:.3g} {name} is below one step of {self.run.name}")
        kept.write_text(str(steps))
        held = pace(model, batches(), lambda held: held.batches >= steps * draft.accumulate)
        return held, cost(held)


def _rows(sample: Sequence[bytes], row_bytes: float) -> list[float]:
    """Sizes of the pieces that rows of so many bytes hold of documents."""
    return [min(row_bytes, len(text) - at) for text in sample for at in np.arange(0, max(1, len(text)), row_bytes)]


def _step_seconds(task: Task, batches: Iterator, draft: TrainConfig) -> float:
    """What a step takes here, in the median; the weights are put back as they were."""
    before = {name: weight.clone() for name, weight in task.network.state_dict().items()}
    found, seconds = optimizers(task.network, draft), []
    for _ in range(WARMUP + TIMED):
        begun = time.perf_counter()
        bf16 = uses_bf16(draft, task.network)
        step(task, [next(batches) for _ in range(draft.accumulate)], found, draft, bf16)
        seconds.append(time.perf_counter() - begun)
    task.network.load_state_dict(before)
    return statistics.median(seconds[WARMUP:])


def _score(model: Model, texts: list[bytes]) -> tuple[float, float | None]:
    """Bits per byte of the texts under the trained model, and their mean patch."""
    model.network.eval()
    scores, mean_patch = model.scorer.score_documents(texts)
    return Score.total(scores).bits_per_byte, mean_patch


def _seconds(home: Path, config: TrainConfig) -> float:
    """What the training took: on a CPU processor seconds of a thread, which other work on the machine hardly moves."""
    records = metrics.read(home / "metrics.jsonl")
    if device_of(config).type == "cpu":
        return sum(record["processor_seconds"] for record in records) / torch.get_num_threads()
    return records[-1]["seconds"]


def first(texts: list[bytes], limit: int | None) -> list[bytes]:
    """Documents, evenly spread over all of them, of about so many bytes."""
    total = sum(map(len, texts))
    if limit is None or total <= limit:
        return texts
    places = np.linspace(0, len(texts), max(1, round(len(texts) * limit / total)), endpoint=False)
    return [texts[int(place)] for place in places]
