"""Fine-tuning of a study's models on questions about characters and numbers, and what they then answer."""

import json
import math
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from sys import maxsize
from typing import Any, cast

import torch
from torch import Tensor

from ..baselines.vocabulary import Bytes
from ..config import TrainConfig, UserError
from ..data.batches import Batch, Batches
from ..evals.answers import ROOM, answer_in, evaluate
from ..evals.characters import TASKS, YES_NO, Item, records
from ..evals.words import Lexicon
from ..infer.score import Score
from ..lm import LM, load_any
from ..patching import rules
from ..train.device import device_of
from ..train.loop import Diverged, fit
from ..view.progress import console
from .contender import Model, PatchModel, TokenModel, pace, training_flops
from .corpus import same_as_before
from .plan import Run
from .recipe import FineTune, Rate, Study
from .runs import RESULT, learning_rate
from .table import whole
from .work import work_off

ASKED = (
    ("count_char", Item(("strawberry", "r"), "3")),
    ("order", Item(("380", "381"), "Yes", YES_NO)),
    ("order", Item(("381", "380"), "No", YES_NO)),
    ("compare", Item(("380", "381"), "381", ("380", "381"))),
)
"""Questions whose answers are kept word for word; no example has their words or numbers."""
KEPT_OUT = re.compile(rf"\b({'|'.join(sorted({f for _, item in ASKED for f in item.fields if len(f) > 1}))})\b")
OTHERS, OTHER_SEED = 100, 1_000_003  # questions on training words that are not learnt from, and their seed

Example = dict[str, str]
"""A question, `prompt`, and its answer, `text`."""


class Examples:
    """Batches of one row, which holds so many examples whole: each example once, and for all models in one order."""

    def __init__(self, model: Model, examples: Sequence[Example], rows: int) -> None:
        self.examples, self.rows, self.step = examples, rows, 0
        self.vocabulary = model.vocabulary if isinstance(model, TokenModel) else Bytes()
        self.patcher = model.patcher if isinstance(model, PatchModel) else None

    def __iter__(self) -> "Examples":
        return self

    def __next__(self) -> Batch:
        chosen = self.examples[self.step * self.rows :][: self.rows]
        if not chosen:
            raise StopIteration
        self.step += 1
        ids_BN, learn_BN = (torch.cat(parts)[None] for parts in zip(*map(self._ids, chosen), strict=True))
        return Batch.of(ids_BN, self._closes(ids_BN), learn_BN)

    def state(self) -> dict[str, int]:
        """Where the iterator stands, as that of `Batches`."""
        return {"step": self.step}

    def restore(self, state: dict[str, int]) -> None:
        """Goes on where `state` was taken."""
        self.step = state["step"]

    def _ids(self, example: Example) -> tuple[Tensor, Tensor]:
        """Ids of a question and its answer, cut apart as when it is asked; and which of them are to be learnt."""
        encode = self.vocabulary.encode
        asked, answer = encode(example["prompt"]), encode(example["text"], bos=False, eos=True)
        ids_n = torch.cat([torch.from_numpy(asked), torch.from_numpy(answer)])
        return ids_n, torch.arange(len(ids_n)) >= len(asked)

    def _closes(self, ids_BN: Tensor) -> Tensor:
        if self.patcher is None:
            return torch.zeros_like(ids_BN, dtype=torch.bool)
        rule = self.patcher.rule
        return rules.closes(rule, ids_BN, self.patcher.entropy(ids_BN) if rule.needs_entropy else None)


class AnswerTask:
    """Trains a model as its own task does, and measures what answers to other questions cost."""

    def __init__(self, model: Model, others: Sequence[Example]) -> None:
        self.model, self.others, self.task = model, others, model.task([])
        self.network = self.task.network

    def bytes_of(self, batch: Batch) -> int:
        return self.task.bytes_of(batch)

    def loss(self, batch: Batch) -> Tensor:
        return self.task.loss(batch)

    def evaluate(self) -> dict[str, float]:
        """Bits per byte of answers, their closing quotes included."""
        scores = self.model.scorer.score([(one["prompt"], one["text"]) for one in self.others])
        return {"val_bpb": Score.total(scores).bits_per_byte}


def plan(study: Study) -> list[Run]:
    """The trained models that are fine-tuned."""
    chosen = study.finetune
    return [Run(model, chosen.size, seed) for seed in chosen.seeds for model in chosen.models] if chosen else []


def result_of(folder: Path, run: Run) -> dict[str, Any] | None:
    """What came of a model; None where it is not done."""
    path = folder / "finetune" / run.name / RESULT
    return json.loads(path.read_text()) if path.is_file() else None


def done(study: Study, folder: Path) -> list[dict[str, Any]]:
    """The results of the models that are fine-tuned."""
    return [result for run in plan(study) if (result := result_of(folder, run))]


def do_all(study: Study, folder: Path) -> list[dict[str, Any]]:
    """Fine-tune the models that are missing, beside other processes that do the same; returns all results.

    Raises UserError where a model is not trained yet, or was fine-tuned by another recipe.
    """
    runs, lexicon = plan(study), cache(Lexicon.read)
    for run in runs:
        _check(study, folder, run)

    def missing() -> list[Run]:
        return [run for run in runs if result_of(folder, run) is None]

    def do(run: Run) -> None:
        console.print(f"fine-tuning {len(runs) - len(missing()) + 1} of {len(runs)}: {run.name}")
        Lessons(study, folder, run, lexicon()).take()

    work_off(missing, lambda run: True, lambda run: folder / "finetune" / run.name, do)
    return done(study, folder)


def _check(study: Study, folder: Path, run: Run) -> None:
    """Raises UserError where a model was fine-tuned by another recipe; notes the recipe where it was not begun."""
    home = folder / "finetune" / run.name
    assert study.finetune is not None
    made_of = study.finetune.model_dump_json(exclude={"models", "seeds"}, indent=2)
    same_as_before(home / "recipe.json", made_of, f"{home} is of another recipe")


def examples_of(chosen: FineTune, lexicon: Lexicon, count: int, seed: int) -> list[Example]:
    """So many questions with their answers, of training words and numbers; fewer are the first of more."""
    every = records(lexicon, maxsize, chosen.tasks, seed, chosen.lengths.ranges)
    return list(islice((one for one in every if not KEPT_OUT.search(f"{one['prompt']} {one['text']}")), count))


def trained(folder: Path, run: Run, device: str = "cpu") -> Model:
    """The model of a run as training left it, on a device. Raises UserError where it is not trained."""
    path = folder / "runs" / run.name / "model"
    if not path.is_dir():
        raise UserError(f"{run.name} is not trained yet: there is no {path}")
    found = load_any(path, device)
    if isinstance(found, LM):
        blt = PatchModel(found.model.config, found.patcher, found.patch_bytes)
        blt.network.to(device).load_state_dict(found.model.state_dict())
        return blt
    baseline = TokenModel(found.config, found.vocabulary)
    baseline.network.to(device).load_state_dict(found.network.state_dict())
    return baseline


@dataclass(frozen=True)
class Lessons:
    """The fine-tuning of one model; what was interrupted goes on where it was."""

    study: Study
    folder: Path
    run: Run
    lexicon: Lexicon

    @property
    def home(self) -> Path:
        return self.folder / "finetune" / self.run.name

    @property
    def chosen(self) -> FineTune:
        assert self.study.finetune is not None
        return self.study.finetune

    def take(self) -> None:
        """Find the learning rate, learn from the examples, and write down what is answered on the way."""
        chosen, run = self.chosen, self.run
        examples = examples_of(chosen, self.lexicon, max(*chosen.examples, chosen.tried), run.seed)
        tries = {f"{lr:g}": self._try(examples, lr) for lr in chosen.lr if len(chosen.lr) > 1}
        lr = float(min(tries, key=lambda lr: tries[lr] or math.inf)) if tries else chosen.lr[0]
        model = self._trained()
        unit_bytes = pace(model, cast(Batches, Examples(model, examples, chosen.rows)), lambda _: False).unit_bytes
        sizes = [len(one["prompt"]) + len(one["text"]) for one in examples]
        flops = model.flops(unit_bytes, sum(sizes) / len(sizes))
        points = []
        for count in (0, *chosen.examples):
            size, path = sum(sizes[:count]), self.home / f"after-{count}.json"
            spent = {"examples": count, "trained_bytes": size, "train_flops": size * training_flops(flops)}
            points.append(spent | _kept(path, lambda count=count: self._after(model, examples[:count], lr)))
        self._learn(model, examples[: chosen.examples[-1]], lr, self.home)  # all is measured: nothing but a checkpoint
        model.scorer.save(self.home / "model")
        record = run.place | {
            "lr": lr,
            "tries": tries,
            "flops_per_byte": flops,
            "unit_bytes": unit_bytes,
            "points": points,
        }
        _kept(self.home / RESULT, lambda: record)

    def _trained(self) -> Model:
        device = device_of(self.study.training(self.run.model, 1, Rate(1.0, 1.0), self.run.seed))
        return trained(self.folder, self.run, str(device))

    def _try(self, examples: list[Example], lr: float) -> float | None:
        """Bits per byte of answers to other questions after a try; None where the rate is too high to learn at all."""
        chosen, home = self.chosen, self.home / f"lr{lr:g}"
        home.mkdir(exist_ok=True)

        def cost() -> float | None:
            try:
                task = self._learn(self._trained(), examples[: chosen.tried], lr, home)
            except Diverged:
                return None
            shutil.rmtree(home / "checkpoints")
            return task.evaluate()["val_bpb"]

        return _kept(home / "cost.json", cost)

    def _learn(self, model: Model, examples: list[Example], lr: float, home: Path) -> "AnswerTask":
        """Learn from all examples, going on from the checkpoint in a directory; the learning rate does not fall."""
        chosen, run = self.chosen, self.run
        rates = learning_rate(self.study, self.folder, run.model)
        assert rates is not None
        given = self.study.training(run.model, len(examples) // chosen.rows, rates._replace(lr=lr), run.seed)
        constant = {"schedule": "wsd", "decay": 1e-9, "accumulate": 1, "keep": 1, "eval_every": given.steps}
        config = TrainConfig.model_validate(given.model_dump() | constant)
        task = AnswerTask(model, examples_of(chosen, self.lexicon, OTHERS, run.seed + OTHER_SEED))
        fit(task, cast(Batches, Examples(model, examples, chosen.rows)), config, home, "finetune")
        return task

    def _after(self, model: Model, examples: list[Example], lr: float) -> dict[str, Any]:
        """Accuracy after so many examples, on held-out words and numbers as long as theirs and on longer ones."""
        chosen, seed = self.chosen, self.run.seed
        if examples:
            self._learn(model, examples, lr, self.home)
        scorer = model.scorer
        lengths = {"held_out": chosen.lengths.ranges, "longer": chosen.longer.ranges}
        found = {
            part: evaluate(scorer, chosen.tasks, chosen.items, seed, "fine-tuned", lexicon=self.lexicon, lengths=each)
            for part, each in lengths.items()
        }
        return found | {"asked": ask(scorer, chosen.tasks)}


def ask(scorer: Any, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """The questions of ASKED that are of these tasks, or all; what is answered, and whether it is right."""
    asked = [(TASKS[name], item) for name, item in ASKED if name in (tasks or TASKS)]
    prompts = [task.question(item) for task, item in asked]
    found = scorer.generate(prompts, max_bytes=ROOM, temperature=0, stop=["\n"]) if prompts else []
    return [
        {"prompt": prompt, "answer": one.text, "right": task.accepts(answer_in(one.text) or "", item)}
        for (task, item), prompt, one in zip(asked, prompts, found, strict=True)
    ]


def _kept(path: Path, make: Callable[[], Any]) -> Any:
    """What a JSON file holds; made and written where there is none."""
    if not path.is_file():
        whole(path, json.dumps(make(), indent=2) + "\n")
    return json.loads(path.read_text())
