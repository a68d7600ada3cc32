"""Verbs that train: whole recipes, their data alone, and cheap patchers."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import ValidationError

from ..config import Draft, UserError, load_recipe, one_line, recipe_path
from .shared import Files, Flag, Folder, Named, Positional, console, print_json

RecipeName = Annotated[Positional[str], tyro.conf.arg(metavar="RECIPE")]
ModelName = Annotated[str | None, tyro.conf.arg(metavar="MODEL", help_behavior_hint="")]
Address = Annotated[str | None, tyro.conf.arg(metavar="[ADDRESS]", help_behavior_hint="")]
Fields = Annotated[tuple[str, ...], tyro.conf.Suppress]
"""Arguments of `train` and `prepare` that tyro does not know: fields of the recipe."""


def train(
    recipe: RecipeName,
    init: ModelName = None,
    out: Folder = None,
    plan: Flag = False,
    dry_run: Flag = False,
    gpus: int = 1,
    gpu: Literal["h100", "h200", "b200", "a100"] = "h100",
    json: Flag = False,
    fields: Fields = (),
) -> None:
    """Train the model of a recipe, from corpus to report; a run that was stopped goes on where it was.

    Any field of the recipe can be overridden, as in --train.steps 100; `bytequilt train RECIPE --help` lists them all.

    Examples:
      bytequilt train demo
      bytequilt train tiny --data.train english.jsonl.xz --data.val val.jsonl.xz --out runs/mine
      bytequilt train book --data.train my.txt --plan
      bytequilt train blt-8b --dry-run --gpus 256
      torchrun --nproc-per-node 8 -m bytequilt train blt-1b --data.train corpus/ --out runs/1b
      bytequilt train finetune --init tiny --data.train pairs.jsonl --out runs/tuned

    Args:
        recipe: A shipped recipe, or the path of a TOML file.
        init: A model to start from, as --train.init: a shipped model, a model or run directory, or a hub id.
        out: The run directory: runs/RECIPE unless given.
        plan: Say what the run takes, after a few measured steps: corpus, parameters, memory, time. Nothing is kept.
        dry_run: Say what training on so many GPUs takes of memory, time and energy; nothing is trained.
        gpus: How many GPUs a dry run is about.
        gpu: Of which kind they are.
        json: Print the report, the plan or the dry run as one JSON document.
    """
    chosen, folder = _chosen(recipe, _with_init(init, fields)), out or _run_folder(recipe)
    if dry_run:
        from ..train.dry import dry_run as run_dry
        from ..view.dry import dry as dry_screen

        estimate = run_dry(chosen, gpus, gpu)
        print_json(estimate) if json else console().print(dry_screen(estimate))
        return
    if plan:
        from ..train.plan import plan as plan_run
        from ..view.plan import plan as plan_screen

        planned = plan_run(chosen)
        print_json(planned) if json else console().print(plan_screen(planned))
        return
    from ..train.run import train as train_recipe
    from ..view.report import report as screen

    with interruptible():
        report = train_recipe(chosen, folder)
    if report is None:  # the first process reports for all
        return
    print_json(report) if json else console().print(screen(report))
    print(f"in {folder}: model/, report.json, curve.png, patches.html", file=sys.stderr)
    print(f'next: bytequilt generate "Once" --model {folder}', file=sys.stderr)


def prepare(recipe: RecipeName, out: Folder = None, ray: Address = None, fields: Fields = ()) -> None:
    """Prepare the data of a recipe: corpus, entropy model, threshold, and shards with entropies.

    Any field of the recipe can be overridden, as in --data.train; `bytequilt prepare RECIPE --help` lists them all.

    Examples:
      bytequilt prepare demo
      bytequilt prepare tiny --data.train english.jsonl.xz --out runs/mine
      bytequilt prepare blt-1b --data.train corpus/ --out /shared/1b --ray ray://head:10001

    Args:
        recipe: A shipped recipe, or the path of a TOML file.
        out: The run directory: runs/RECIPE unless given.
        ray: Score the shards on a Ray cluster at this address; without one, on a cluster of this machine alone.
    """
    chosen, folder = _chosen(recipe, fields), out or _run_folder(recipe)
    from ..train.run import prepare as prepare_recipe

    with interruptible():
        prepare_recipe(chosen, folder, ray)


def distill(
    model: Named,
    files: Files,
    out: Folder = None,
    kind: Literal["ngram", "window"] = "ngram",
    sample_bytes: int = 2_000_000,
    val_every: int = 10,
    steps: int = 600,
    json: Flag = False,
) -> None:
    """Give a model a cheap patcher, which takes the place of its entropy model.

    The report says how many boundaries agree on held-out text, what the model scores with either patcher, and what a
    byte costs. The model with the new patcher is in OUT/model.

    Examples:
      bytequilt distill tiny english.jsonl.xz --out runs/lean
      bytequilt distill runs/mine corpus/*.txt --kind window --out runs/lean

    Args:
        model: A shipped model, a model or run directory, or a hub id.
        files: Text to learn from: files, directories or globs, as in a recipe.
        out: The run directory: runs/lean unless given.
        kind: ngram, a look-up table of the mean entropy after each n-gram; window, a small model of a short context.
        sample_bytes: Text that the threshold is calibrated on, and the table filled from.
        val_every: Hold out one of so many documents for the report.
        steps: Training steps of the small model.
        json: Print the report as one JSON document.
    """
    from ..train.distill import Lean
    from ..train.distill import distill as make
    from ..view.tables import patchers

    if not files:
        raise UserError("distill needs text: bytequilt distill MODEL FILE...")
    training = Lean().train.model_dump() | {"steps": steps}
    try:
        lean = Lean(kind=kind, sample_bytes=sample_bytes, val_every=val_every, train=training)
    except ValidationError as error:
        raise UserError(one_line(error)) from None
    with interruptible():
        report = make(model, files, lean, out or Path("runs") / "lean")
    print_json(report) if json else console().print(patchers(report))


def _with_init(init: str | None, fields: tuple[str, ...]) -> tuple[str, ...]:
    return fields if init is None else (*fields, "--train.init", init)


def _chosen(name: str, fields: tuple[str, ...]) -> Draft:
    from ..overrides import override

    return override(load_recipe(name), fields)


def _run_folder(name: str) -> Path:
    return Path("runs") / recipe_path(name).stem


@contextmanager
def interruptible() -> Iterator[None]:
    """A run that was asked to stop, and has saved where it is, ends like any interrupted program."""
    from ..train.loop import Interrupted

    try:
        yield
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        raise SystemExit(130) from None
