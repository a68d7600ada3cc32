"""The verbs `eval` and `info`: scores and sizes of a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..config import UserError, as_whole
from .shared import Device, Files, Flag, Folder, Json, Named, Number, console, print_json

if TYPE_CHECKING:
    from ..baselines.baseline import Baseline
    from ..evals.harness import HarnessTasks
    from ..lm import LM

Tasks = Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK...", help_behavior_hint="")]
ModelOrRecipe = Annotated[
    Named, tyro.conf.arg(metavar="MODEL", help="A shipped model, a model or run directory, a hub id, or a recipe.")
]
ITEMS = 200
"""Default number of questions per task."""
MOST_ITEMS = 100_000
"""Largest number of questions per task. All are drawn before the first is asked."""


def eval(
    model: Named,
    files: Files,
    field: str = "text",
    context: Number = None,
    noise: Flag = False,
    tasks: Tasks = (),
    items: int = ITEMS,
    limit: Number = None,
    include_path: Folder = None,
    json: Json = False,
    device: Device = "auto",
) -> None:
    """Measure the bits per byte of files, each document by itself, or answers to tasks.

    Examples:
      bytequilt eval tiny README.md
      bytequilt eval runs/demo held-out.jsonl.xz --noise --json
      bytequilt eval tiny book.txt --context 4096
      bytequilt eval runs/demo --tasks count_char reverse compare --items 50
      bytequilt eval runs/demo --tasks hellaswag,arc_easy --limit 100

    Args:
        files: Files to score. In .jsonl and .parquet files each record is a document; other files are one document.
        field: The field of a record that holds its text.
        context: Largest number of bytes (or tokens) that the model reads before the byte that it predicts. The time for
            a long document then grows with its length, not with its square. Default: 32,768.
        noise: Also score the files, and ask the tasks, under five kinds of noise.
        tasks: Ask the model tasks on letters and numbers: `characters` for all of them, or some by name. Other names
            are tasks of lm-evaluation-harness.
        items: Number of questions per task on letters and numbers.
        limit: Use only the first INT items of each harness task. Default: all items.
        include_path: A directory with your own tasks, as YAML files of the harness.
    """
    from ..view import tables

    if not files and not tasks:
        raise UserError("eval needs a file, and only --tasks can do without: bytequilt eval MODEL FILE...")
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1, not {limit}")
    if not 1 <= items <= MOST_ITEMS:
        raise UserError(f"items must be 1 to {MOST_ITEMS:,}, not {items}")
    if context is not None:
        as_whole("context", context, 2)
    if not tasks and (items != ITEMS or limit is not None or include_path is not None):
        raise UserError("--items, --limit and --include-path are for --tasks, which names the tasks to ask")
    ours, theirs = _told_apart(tasks, include_path)
    from ..lm import load_any

    lm = load_any(model, device)
    results = _scores(lm, files, field, context, noise) | _answers(lm, ours, theirs, items, limit, noise)
    if json:
        return print_json(results)
    console().print(*tables.evaluations(results), sep="\n")


def _scores(lm: "LM | Baseline", files: Sequence[str], field: str, context: int | None, noise: bool) -> dict[str, Any]:
    """Bits per byte of the files, and with `noise` also under each kind of noise."""
    from ..evals.corpora import evaluate, texts
    from ..evals.noise import robustness

    if not files:
        return {}
    named = [(path, texts(path, field)) for path in files]  # read once: one of them may be standard input
    results = evaluate(lm, named, context)
    if noise:
        results["noise"] = robustness(lm, [text for _, documents in named for text in documents])
    return results


def _answers(
    lm: "LM | Baseline", ours: Sequence[str], theirs: "HarnessTasks | None", items: int, limit: int | None, noise: bool
) -> dict[str, Any]:
    """Results of our tasks and of harness tasks, on clean text and with `noise` also under each kind of noise."""
    from ..evals.answers import evaluate
    from ..evals.noise import NOISES, Noised

    results: dict[str, Any] = {}
    readers = {"": lm} | ({f" under {name}": Noised(lm, name) for name in NOISES} if noise else {})
    for under, reader in readers.items():
        if ours:
            results["answers" + under] = evaluate(reader, () if "characters" in ours else ours, items)
        if theirs is not None:
            results["harness" + under] = theirs.evaluate(reader, limit)
    return results


def _told_apart(tasks: Sequence[str], include: Path | None) -> "tuple[list[str], HarnessTasks | None]":
    """Split task names: those of our own tasks, and a HarnessTasks object for all others (None if there are none)."""
    from ..evals.characters import TASKS

    names = list(dict.fromkeys(name for some in tasks for name in some.split(",") if name))
    if tasks and not names:
        raise UserError("--tasks names no task: `characters` asks all tasks on letters and numbers")
    ours = [name for name in names if name in {*TASKS, "characters"}]
    others = [name for name in names if name not in ours]
    if not others:
        return ours, None
    try:
        from ..evals.harness import HarnessTasks
    except UserError as error:
        raise UserError(f"no task named {', '.join(others)} here; {error}") from None
    return ours, HarnessTasks(others, include)


def info(model: ModelOrRecipe, json: Json = False) -> None:
    """Show the size of a model or recipe: parameters, FLOPs per byte, configuration.

    Examples:
      bytequilt info tiny
      bytequilt info blt-8b --json
    """
    from ..info import describe
    from ..view.tables import description

    described = describe(model)
    print_json(described.json()) if json else console().print(description(described))
