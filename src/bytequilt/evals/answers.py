"""How well a model answers the tasks on characters and numbers, and what no knowledge at all would reach."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from ..config import UserError
from ..view.progress import progress
from .characters import Item, Task, find_tasks, held_out_items, shots
from .words import LENGTHS, Lengths, Lexicon

Form = Literal["few-shot", "fine-tuned"]
"""few-shot: a question behind four that are answered; fine-tuned: a question alone, as in training records."""

ROOM = 16  # bytes that a wrong answer may be longer than the longest right one, closing quote included


class Generated(Protocol):
    @property
    def text(self) -> str: ...


class Generator(Protocol):
    """A model that can be examined: an LM, or anything else that continues many prompts."""

    def generate(
        self, prompt: list[str], /, *, max_bytes: int, temperature: float, stop: list[str]
    ) -> Sequence[Generated]:
        """What comes after each prompt, without it: at most so many bytes, and none from a stop string on."""
        ...


class Cost(Protocol):
    @property
    def bits(self) -> float: ...


@runtime_checkable
class PairScorer(Protocol):
    """A model that tells how likely texts are: it is asked for its choice among two answers as well."""

    def score(self, pairs: Sequence[tuple[str, str]], /) -> Sequence[Cost]:
        """What the second text of each pair costs after the first."""
        ...


@dataclass(frozen=True)
class TaskItems:
    """A task's items, and the prompts that ask for them."""

    task: Task
    items: list[Item]
    prompts: list[str]


def evaluate(
    model: Generator,
    tasks: Sequence[str] = (),
    items: int = 200,
    seed: int = 0,
    form: Form = "few-shot",
    *,
    lexicon: Lexicon | None = None,
    lengths: Lengths = LENGTHS,
    max_bytes: int | None = None,
) -> dict[str, Any]:
    """Greedy answers of a model to held-out items of some tasks, or of all, and their accuracy.

    Of a task, `accuracy` and `stderr` count exact matches, `unparsed` is the share of answers that are empty or have no
    closing quote, which are wrong; `constant` and `copy` are as in `baselines`. Where a question leaves two answers,
    and the model scores, `likelihood` has the accuracy of the likelier one: base models often know it, but do not
    keep to the form. `means` are those of the tasks of a level, each weighing the same. Words are those of the shipped
    corpus where no `lexicon` is given; answers have `max_bytes`, or 16 more than the longest right one where not given.
    Raises UserError for a task or form that there is not, and where words are too few.
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
            results[task.name] = evaluate_task(model, questions, max_bytes)
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


def evaluate_task(model: Generator, questions: TaskItems, max_bytes: int | None = None) -> dict[str, Any]:
    """A model's results in one task: shares of right and of unreadable answers, and those of simple baselines."""
    task, items = questions.task, questions.items
    limit = max_bytes or ROOM + max(len(item.answer) for item in items)
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
        "likelihood": _share(_likelier(model, questions))
        if items[0].choices and isinstance(model, PairScorer)
        else None,
    }


def answer_in(text: str) -> str | None:
    """What is between the opening quote, which the prompt ends with, and the next; None where there is nothing."""
    answer, quote, _ = text.partition('"')
    return answer if quote and answer.strip() else None


def baselines(task: Task, items: Sequence[Item]) -> dict[str, float]:
    """Accuracy of the one answer that is right most often, and of repeating what is asked about.

    Of two answers that a question names, the constant one is the first or the second.
    """
    labels = Counter(item.label for item in items)
    copied = sum(task.accepts(item.fields[0], item) for item in items)
    return {"constant": max(labels.values()) / len(items), "copy": copied / len(items)}


def _likelier(model: PairScorer, questions: TaskItems) -> list[bool]:
    """Whether the right answer, with its closing quote, costs the fewest bits of all choices."""
    pairs = [
        (prompt, f'{choice}"')
        for prompt, item in zip(questions.prompts, questions.items, strict=True)
        for choice in item.choices
    ]
    bits = iter([cost.bits for cost in model.score(pairs)])
    costs = [{choice: next(bits) for choice in item.choices} for item in questions.items]
    return [min(cost, key=cost.__getitem__) == item.answer for cost, item in zip(costs, questions.items, strict=True)]


def _share(right: Sequence[bool]) -> dict[str, float]:
    """The share that is right, and its binomial standard error."""
    share = sum(right) / len(right)
    return {"accuracy": share, "stderr": math.sqrt(share * (1 - share) / len(right))}


def _means(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Means by level, and of all tasks."""
    groups = {level: [r for r in results if r["level"] == level] for level in ("char", "word", "number")}
    return {level: _mean(group) for level, group in (groups | {"all": list(results)}).items() if group}


def _mean(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    count = len(results)
    means = {name: sum(r[name] for r in results) / count for name in ("accuracy", "constant", "copy", "unparsed")}
    return means | {"stderr": math.sqrt(sum(r["stderr"] ** 2 for r in results)) / count, "tasks": count}
