"""Fine-tuning of trained models on questions about letters and numbers, and tests of their answers."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from ..baselines.baseline import Baseline
from ..config import TrainConfig, UserError
from ..data.batches import Batches
from ..evals.answers import evaluate
from ..evals.harness_tasks import lexicon
from ..infer.score import Score
from ..lm import LM, load_any
from ..train.device import device_of
from ..train.loop import Diverged, fit
from ..train.tasks import LanguageTask
from .budget import count_batches, training_flops
from .examples import Example, Examples, answer_fixed_questions, examples_of
from .jobs import Results, cached
from .recipe import Rate, Study
from .search import Run, held_out_bpb, learning_rate
from .trial import trial_rows
from .tuning import FineTune

# number of validation questions on training words, which are not trained on, and the offset of their seed
VALIDATION, SEED_OFFSET = 100, 1_000_003


class AnswerTask(LanguageTask):
    """Trains a language model on examples; `evaluate` measures its answers to other questions."""

    def __init__(self, model: LM | Baseline, others: Sequence[Example]) -> None:
        super().__init__(model, [])
        self.scorer = model
        self.others = [(example["prompt"], example["text"]) for example in others]

    def evaluate(self) -> dict[str, float]:
        """Bits per byte of the correct answers, with their closing quotes."""
        return {"val_bpb": Score.total(self.scorer.score(self.others)).bits_per_byte}


def fine_tunings(study: Study, folder: Path, results: Results) -> list["FineTuning"]:
    """The fine-tuning jobs of all trained models whose learning rates are known now."""
    chosen, bpb = study.finetune, held_out_bpb(trial_rows(results))
    jobs = []
    for run in [Run(model, chosen.size, seed) for seed in chosen.seeds for model in chosen.models] if chosen else []:
        if rate := learning_rate(study, run.model, bpb, run.size):
            jobs.append(FineTuning(study, folder / "finetune" / run.name, run, rate))
    return jobs


def trained(path: Path, device: str = "cpu") -> LM | Baseline:
    """Load a trained model for further training. Raises UserError if it does not exist."""
    if not path.is_dir():
        raise UserError(f"{path.parent.name} is not trained yet: there is no {path}")
    model = load_any(path, device)
    weights = {  # Copied, because loaded weights may be mapped from a file and stored in column order for decoding.
        name: weight.clone(memory_format=torch.contiguous_format) for name, weight in model.network.state_dict().items()
    }
    model.network.load_state_dict(weights, assign=True)
    return model


@dataclass(frozen=True)
class FineTuning:
    """A job: fine-tune one trained model. An interrupted job continues from its checkpoint."""

    study: Study
    folder: Path
    spec: Run
    rate: Rate
    """The learning rates of the original training; the factor for embeddings and hash tables is used again."""

    @property
    def name(self) -> str:
        return f"fine-tuning {self.spec.name}"

    @property
    def recipe(self) -> dict[str, Any]:
        """All settings on which the result depends, except the trained model."""
        return self.settings.model_dump(mode="json", exclude={"models", "seeds"})

    @property
    def settings(self) -> FineTune:
        assert self.study.finetune is not None
        return self.study.finetune

    @property
    def trained_in(self) -> Path:
        """Run directory of the trained model."""
        return self.folder.parents[1] / "runs" / self.spec.name

    def run(self) -> dict[str, Any]:
        """Search the learning rate, train on the examples, and test the answers after each number of examples."""
        settings = self.settings
        count = max(*settings.examples, settings.tried)
        examples = examples_of(settings, lexicon(), count, self.spec.seed)
        tries = {f"{lr:g}": self._try(examples, lr) for lr in settings.lr if len(settings.lr) > 1}
        lr = float(min(tries, key=lambda lr: tries[lr] or math.inf)) if tries else settings.lr[0]
        model = self._trained()
        cost, flops = self._cost(model, examples)
        points = [self._point(model, examples[:count], lr, cost) for count in (0, *settings.examples)]
        self._learn(model, examples[: settings.examples[-1]], lr, self.folder)  # loads the checkpoint of the last point
        model.save(self.folder / "model")
        return self.spec.row_fields | {"lr": lr, "tries": tries, **flops, "points": points}

    def _cost(self, model: LM | Baseline, examples: list[Example]) -> tuple[float, dict[str, Any]]:
        """Training FLOPs per byte of the examples; and, for the result, forward FLOPs by module and bytes per unit."""
        use = count_batches(model, Examples(model, examples, self.settings.rows), lambda _: False)
        flops = model.flops(use.unit_bytes, sum(map(_size, examples)) / len(examples))
        return training_flops(flops), {"flops_per_byte": flops, "unit_bytes": use.unit_bytes}

    def _trained(self) -> LM | Baseline:
        return trained(self.trained_in / "model", str(device_of(self.study.training(self.spec.model))))

    def _try(self, examples: list[Example], lr: float) -> float | None:
        """Validation bits per byte of answers after a short training; None if it diverges at this learning rate."""
        folder = self.folder / f"lr{lr:g}"

        def cost() -> float | None:
            try:
                task = self._learn(self._trained(), examples[: self.settings.tried], lr, folder)
            except Diverged:
                return None
            shutil.rmtree(folder / "checkpoints")
            task.network.eval()
            return task.evaluate()["val_bpb"]

        return cached(folder / "cost.json", cost)

    def _learn(self, model: LM | Baseline, examples: list[Example], lr: float, folder: Path) -> "AnswerTask":
        """Train on all examples at a constant learning rate, starting from the checkpoint in `folder` if there is
        one."""
        steps, seed = len(examples) // self.settings.rows, self.spec.seed
        given = self.study.training(self.spec.model, self.rate._replace(lr=lr), seed, steps)
        constant = {"schedule": "wsd", "decay": 1e-9, "accumulate": 1, "keep": 1, "eval_every": steps}
        config = TrainConfig.model_validate(given.model_dump() | constant)
        task = AnswerTask(model, examples_of(self.settings, lexicon(), VALIDATION, seed + SEED_OFFSET))
        fit(task, cast(Batches, Examples(model, examples, self.settings.rows)), config, folder, "finetune")
        return task

    def _point(self, model: LM | Baseline, examples: list[Example], lr: float, cost: float) -> dict[str, Any]:
        """One point of the learning curve: accuracy after these examples, and training FLOPs, given `cost` FLOPs per
        byte."""
        size = sum(map(_size, examples))
        spent = {"examples": len(examples), "trained_bytes": size, "train_flops": size * cost}
        path = self.folder / f"after-{len(examples)}.json"
        return spent | cached(path, lambda: self._answers(model, examples, lr))

    def _answers(self, model: LM | Baseline, examples: list[Example], lr: float) -> dict[str, Any]:
        """Train on these examples, then test answers on held-out questions, of the trained lengths and longer."""
        settings = self.settings
        if examples:
            self._learn(model, examples, lr, self.folder)
        model.network.eval()
        options: dict[str, Any] = {"form": "fine-tuned", "lexicon": lexicon()}
        parts = {
            part: evaluate(model, settings.tasks, settings.items, self.spec.seed, lengths=lengths.ranges, **options)
            for part, lengths in {"held_out": settings.lengths, "longer": settings.longer}.items()
        }
        return parts | {"asked": answer_fixed_questions(model, settings.tasks)}


def _size(example: Example) -> int:
    return len(example["prompt"]) + len(example["text"])
