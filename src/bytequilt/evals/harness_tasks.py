"""The tasks on characters as tasks of lm-evaluation-harness: what the files in `tasks/` refer to."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from .answers import answer_in, task_items
from .characters import TASKS, Item, find_tasks
from .words import Lexicon

lexicon = cache(Lexicon.read)
"""The words of the shipped corpus, read once for all tasks."""


def documents(task: str, items: int = 200, item_seed: int = 0, **_: Any) -> dict[str, Any]:
    """Held-out items of a task with their four-shot prompts, as a data set whose split is `test`.

    The harness also passes what it was told of the model, and the version of the task.
    """
    from datasets import Dataset

    asked = task_items(find_tasks([task])[0], lexicon(), items, item_seed, "few-shot")
    pairs = zip(asked.prompts, asked.items, strict=True)
    rows = [{"task": task, "prompt": prompt, "answer": item.answer} for prompt, item in pairs]
    return {"test": Dataset.from_list(rows)}


def marks(document: Mapping[str, str], texts: Sequence[str]) -> dict[str, float]:
    """Whether the first text that was generated begins with the right answer and a closing quote."""
    answer = answer_in(texts[0])
    right = answer is not None and TASKS[document["task"]].accepts(answer, Item((), document["answer"]))
    return {"exact_match": float(right)}
