"""Accuracy of a model's answers to the tasks on characters and numbers, compared with trivial answers."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from ..config import UserError
from ..infer.score import Score
from ..view.progress import progress
from .characters import Item, Task, find_tasks, held_out_items, shots
from .words import LENGTHS, Lengths, Lexicon

Form = Literal["few-shot", "fine-tuned"]
""""few-shot": a question after four answered examples. "fine-tuned": a question alone, as in training records."""

# bytes added to the length of the longest correct answer, as a limit for wrong answers; the closing quote is included
ROOM = 16


class Model(Protocol):
    """The protocol of a model that can be asked, for example an LM."""

    def generate(self, prompt: list[str], /, **sampling: Any) -> Sequence[Any]:
        """Continue each prompt; results have `text`, which does not repeat the prompt. The options are those of
        `Sampling`."""

    def score(self, pairs: Sequence[tuple[str, str]], /) -> Sequence[Score]:
        """The score of the second text of each pair, given the first."""


@dataclass(frozen=True)
class TaskItems:
    """The items of a task and their prompts."""

    task: Task
    items: list[Item]
    prompts: list[str]


def evaluate(
    model: Model,
    tasks: Sequence[str] = (),
    items: int = 200,
    seed: int = 0,
    form: Form = "few-shot",
    *,
    lexicon: Lexicon | None = None,
    lengths: Lengths = LENGTHS,
) -> dict[str, Any]:
    """Accuracy of a model's greedy answers to `items` held-out items of each task (all tasks by default).

    For each task, `accuracy` and `stderr` count exact matches. `unparsed` is the share of answers that are empty or
    lack the closing quote; they count as wrong. `constant` and `copy` are explained at `baselines`. If a question has
    two possible answers, `likelihood` is the accuracy of the more likely one; base models often know it but do not keep
    to the format. `means` average the tasks of a level with equal weights. By default, words come from the shipped
    corpus. Raises UserError for an unknown task or form, or if there are too few words.
    """
    if form not in get_args(Form):
        raise UserError(f"no form '{form}'; there are {', '.join(get_args(Form))}")
    if items < 1:
        raise UserError(f"items must be at least 1, not {items}")
    chosen, lexicon = find_tasks(tasks), lexicon or Lexicon.read()
    sets = [task_items(task, lexicon, items, seed, form, lengths) for task in chosen]
    results = {}
    with progress() as bar:
        line = bar.add_task("answer", total=items * len(sets))
        for task, questions in zip(chosen, sets, strict=True):
            results[task.name] = evaluate_task(model, questions)
            bar.update(line, advance=items)
    return {"form": form, "seed": seed, "tasks": results, "means": _means(list(results.values()))}


def task_items(
    task: Task, lexicon: Lexicon, items: int, seed: int, form: Form, lengths: Lengths = LENGTHS
) -> TaskItems:
    """`items` held-out items of a task, with their prompts."""
    chosen = held_out_items(task, lexicon, items, seed, lengths)
    if form == "fine-tuned":
        return TaskItems(task, chosen, [task.question(item) for item in chosen])
    examples = shots(task, lexicon, seed, lengths)
    return TaskItems(task, chosen, [task.few_shot(item, examples) for item in chosen])


def evaluate_task(model: Model, questions: TaskItems) -> dict[str, Any]:
    """The results of one task: shares of correct and of unreadable answers, and the accuracy of trivial answers."""
    task, items = questions.task, questions.items
    limit = ROOM + max(len(item.answer) for item in items)
    completions = model.generate(questions.prompts, max_bytes=limit, temperature=0, stop=["\n"])
    texts = [completion.text for completion in completions]
    answers = [answer_in(text) for text in texts]
    right = [answer is not None and task.accepts(answer, item) for answer, item in zip(answers, items, strict=True)]
    return {
        "level": task.level,
        "items": len(items),
        **_share(right),
        "unparsed": answers.count(None) / len(items),
        **baselines(task, items),
        "likelihood": _share(_likelier(model, questions)) if items[0].choices else None,
    }


def answer_in(text: str) -> str | None:
    """The text before the next quote (the prompt ends with the opening quote); None if it is empty or there is no
    quote."""
    answer, quote, _ = text.partition('"')
    return answer if quote and answer.strip() else None


def baselines(task: Task, items: Sequence[Item]) -> dict[str, float]:
    """Accuracy of two trivial answers: always the most frequent answer (`constant`), and the question's first field
    (`copy`). If a question names two possible answers, `constant` means always the first or always the second."""
    labels = Counter(item.label for item in items)
    copied = sum(task.accepts(item.fields[0], item) for item in items)
    return {"constant": max(labels.values()) / len(items), "copy": copied / len(items)}


def _likelier(model: Model, questions: TaskItems) -> list[bool]:
    """For each item, True if the correct answer with its closing quote costs the fewest bits of all choices."""
    pairs = [
        (prompt, f'{choice}"')
        for prompt, item in zip(questions.prompts, questions.items, strict=True)
        for choice in item.choices
    ]
    bits = iter([cost.bits for cost in model.score(pairs)])
    costs = [{choice: next(bits) for choice in item.choices} for item in questions.items]
    return [min(cost, key=cost.__getitem__) == item.answer for cost, item in zip(costs, questions.items, strict=True)]


def _share(right: Sequence[bool]) -> dict[str, float]:
    """The share of True values, and its binomial standard error."""
    share = sum(right) / len(right)
    return {"accuracy": share, "stderr": math.sqrt(share * (1 - share) / len(right))}


def _means(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean results by level, and of all tasks."""
    groups = {level: [r for r in results if r["level"] == level] for level in ("char", "word", "number")}
    return {level: _mean(group) for level, group in (groups | {"all": list(results)}).items() if group}


def _mean(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    count = len(results)
    means = {name: sum(r[name] for r in results) / count for name in ("accuracy", "constant", "copy", "unparsed")}
    return means | {"stderr": math.sqrt(sum(r["stderr"] ** 2 for r in results)) / count, "tasks": count}
