"""Questions about letters and numbers with their answers: training examples, and a few fixed questions for the
report."""

import re
from collections.abc import Sequence
from itertools import islice
from sys import maxsize
from typing import Any

import torch
from torch import Tensor

from ..baselines.baseline import Baseline
from ..baselines.vocabulary import Bytes
from ..data.batches import Batch
from ..evals.answers import ROOM, answer_in
from ..evals.characters import TASKS, YES_NO, Item, records
from ..evals.words import Lexicon
from ..lm import LM
from ..patching import rules
from .tuning import FineTune

Example = dict[str, str]
"""A question (`prompt`) with its answer (`text`)."""

FIXED_QUESTIONS = (
    ("count_char", Item(("strawberry", "r"), "3")),
    ("order", Item(("380", "381"), "Yes", YES_NO)),
    ("order", Item(("381", "380"), "No", YES_NO)),
    ("compare", Item(("380", "381"), "381", ("380", "381"))),
)
"""Fixed questions; the report quotes the answers. Their words and numbers occur in no training example."""
FIXED_WORDS = re.compile(
    rf"\b({'|'.join(sorted({f for _, item in FIXED_QUESTIONS for f in item.fields if len(f) > 1}))})\b"
)


def examples_of(settings: FineTune, lexicon: Lexicon, count: int, seed: int) -> list[Example]:
    """The first `count` training examples, on training words and numbers. A smaller count gives the start of the same
    list."""
    endless = records(lexicon, maxsize, settings.tasks, seed, settings.lengths.ranges)
    return list(islice((e for e in endless if not FIXED_WORDS.search(f"{e['prompt']} {e['text']}")), count))


class Examples:
    """An iterator of batches. A batch has one row of `rows` whole examples; each example occurs once, in order."""

    def __init__(self, model: LM | Baseline, examples: Sequence[Example], rows: int) -> None:
        self.examples, self.rows, self.step = examples, rows, 0
        self.vocabulary = model.vocabulary if isinstance(model, Baseline) else Bytes()
        self.patcher = model.patcher if isinstance(model, LM) else None

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
        """The position of the iterator, as in `Batches`."""
        return {"step": self.step}

    def restore(self, state: dict[str, int]) -> None:
        """Return to a saved position."""
        self.step = state["step"]

    def _ids(self, example: Example) -> tuple[Tensor, Tensor]:
        """Ids of a question followed by its answer, encoded separately as in generation, and the mask of the answer's
        ids."""
        encode = self.vocabulary.encode
        asked, answer = encode(example["prompt"]), encode(example["text"], bos=False, eos=True)
        ids_n = torch.cat([torch.from_numpy(asked), torch.from_numpy(answer)])
        return ids_n, torch.arange(len(ids_n)) >= len(asked)

    def _closes(self, ids_BN: Tensor) -> Tensor:
        if self.patcher is None:
            return torch.zeros_like(ids_BN, dtype=torch.bool)
        rule = self.patcher.rule
        return rules.closes(rule, ids_BN, self.patcher.entropy(ids_BN) if rule.needs_entropy else None)


def answer_fixed_questions(model: Any, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Generate answers to the fixed questions of the given tasks (all tasks if empty), and judge each one."""
    asked = [(TASKS[name], item) for name, item in FIXED_QUESTIONS if name in (tasks or TASKS)]
    prompts = [task.question(item) for task, item in asked]
    answers = model.generate(prompts, max_bytes=ROOM, temperature=0, stop=["\n"]) if prompts else []
    return [
        {"prompt": prompt, "answer": answer.text, "right": task.accepts(answer_in(answer.text) or "", item)}
        for (task, item), prompt, answer in zip(asked, prompts, answers, strict=True)
    ]
