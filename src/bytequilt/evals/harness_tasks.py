"""The tasks on characters as tasks of lm-evaluation-harness; the files in `tasks/` refer to these functions."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from .answers import answer_in, task_items
from .characters import TASKS, Item, find_tasks
from .words import Lexicon

lexicon = cache(Lexicon.read)
"""The words of the shipped corpus, read once for all tasks."""


def documents(task: str, items: int = 200, item_seed: int = 0, **_: Any) -> dict[str, Any]:
    """Held-out items of a task with four-shot prompts, as a data set with the split `test`. Further arguments of the
    harness (model arguments, task version) are ignored."""
    from datasets import Dataset

    asked = task_items(find_tasks([task])[0], lexicon(), items, item_seed, "few-shot")
    pairs = zip(asked.prompts, asked.items, strict=True)
    rows = [{"task": task, "prompt": prompt, "answer": item.answer} for prompt, item in pairs]
    return {"test": Dataset.from_list(rows)}


def marks(document: Mapping[str, str], texts: Sequence[str]) -> dict[str, float]:
    """1.0 if the first generated text starts with the correct answer and a closing quote, otherwise 0.0."""
    answer = answer_in(texts[0])
    right = answer is not None and TASKS[document["task"]].accepts(answer, Item((), document["answer"]))
    return {"exact_match": float(right)}
