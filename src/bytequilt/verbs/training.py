"""The verbs `train`, `prepare` (only the data of a recipe) and `distill` (cheap patchers)."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..config import Draft, UserError, load_recipe, recipe_path
from .shared import Files, Flag, Folder, Named, Number, OtherModel, Positional, console, print_json

RecipeName = Annotated[Positional[str], tyro.conf.arg(metavar="RECIPE")]
Address = Annotated[str | None, tyro.conf.arg(metavar="[ADDRESS]", help_behavior_hint="")]
Chip = Annotated[
    Literal["h100", "h200", "b200", "a100"] | None,
    tyro.conf.arg(metavar="{h100,h200,b200,a100}", help_behavior_hint=""),
]
Fields = Annotated[tuple[str, ...], tyro.conf.Suppress]
"""Arguments of `train` and `prepare` that override fields of the recipe. tyro passes them on unparsed."""


def train(
    recipe: RecipeName,
    init: OtherModel = None,
    out: Folder = None,
    plan: Flag = False,
    dry_run: Flag = False,
    gpus: Number = None,
    gpu: Chip = None,
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
        init: A model to start from (the same as --train.init): a shipped model, a model or run directory, or a hub id.
        out: The run directory. Default: runs/RECIPE.
        plan: Measure a few steps and print corpus, parameters, memory and time of the whole run. Nothing is saved.
        dry_run: Estimate memory, time and energy of the run on --gpus GPUs. Nothing is trained.
        gpus: Number of GPUs for --dry-run. Default: 1.
        gpu: Kind of GPU for --dry-run. Default: h100.
        json: Print the report, the plan or the dry run as one JSON document.
    """
    if plan and dry_run:
        raise UserError("--plan measures this machine, --dry-run is about GPUs: give one of them")
    if not dry_run and (gpus is not None or gpu is not None):
        raise UserError("--gpus and --gpu are for --dry-run; torchrun is told how many processes train")
    if init is not None:
        fields = (*fields, "--train.init", init)
    chosen, folder = _chosen(recipe, fields), out or _run_folder(recipe)
    if dry_run:
        from ..train.dry import dry_run as run_dry
        from ..view.plan import dry

        estimate = run_dry(chosen, 1 if gpus is None else gpus, gpu or "h100")
        return print_json(estimate) if json else console().print(dry(estimate))
    if plan:
        from ..train.plan import plan as plan_run
        from ..view.plan import plan as plan_screen

        planned = plan_run(chosen)
        return print_json(planned) if json else console().print(plan_screen(planned))
    from ..train.run import train as train_recipe
    from ..view.report import report as screen

    with interruptible():
        report = train_recipe(chosen, folder)
    if report is None:  # only the first process of a distributed run has the report
        return
    print_json(report) if json else console().print(screen(report))
    print(f"in {folder}: model/, report.json, curve.png, patches.html", file=sys.stderr)
    print(f'next: bytequilt generate "{_for_a_shell(report.get("prompt", ""))}" --model {folder}', file=sys.stderr)


def _for_a_shell(prompt: str) -> str:
    """The prompt of a report, if any shell takes it between double quotes as it is; otherwise another one."""
    plain = prompt.isprintable() and not set(prompt) & set('"$`\\!%')
    return prompt if plain and 0 < len(prompt) <= 60 else "Once"


def prepare(recipe: RecipeName, out: Folder = None, ray: Address = None, fields: Fields = ()) -> None:
    """Prepare the data of a recipe: corpus, entropy model, threshold, and shards with entropies.

    Any field of the recipe can be overridden, for example --data.train; `bytequilt prepare RECIPE --help` lists them.

    Examples:
      bytequilt prepare demo
      bytequilt prepare tiny --data.train english.jsonl.xz --out runs/mine
      bytequilt prepare blt-1b --data.train corpus/ --out /shared/1b --ray ray://head:10001

    Args:
        recipe: A shipped recipe, or the path of a TOML file.
        out: The run directory. Default: runs/RECIPE.
        ray: Compute entropies on the Ray cluster at this address. Without an address, only this machine is used.
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

    The report compares both patchers on held-out text: agreement of boundaries, bits per byte of the model, and time
    per byte. The model with the new patcher is in OUT/model.

    Examples:
      bytequilt distill tiny english.jsonl.xz --out runs/lean
      bytequilt distill runs/mine corpus/*.txt --kind window --out runs/lean

    Args:
        files: Text to learn from: files, directories or globs, as in a recipe.
        out: The run directory. Default: runs/lean.
        kind: ngram is a look-up table of the mean entropy after each n-gram; window is a small model with a short
            context.
        sample_bytes: Bytes of text used to calibrate the threshold and to fill the table.
        val_every: Hold out one document in this many for the report.
        steps: Training steps of the small model (kind window).
        json: Print the report as one JSON document.
    """
    from ..train.distill import Lean
    from ..train.distill import distill as make
    from ..view.tables import patchers

    if not files:
        raise UserError("distill needs text: bytequilt distill MODEL FILE...")
    training = Lean().train.model_dump() | {"steps": steps}
    lean = Lean(kind=kind, sample_bytes=sample_bytes, val_every=val_every, train=training)
    with interruptible():
        report = make(model, files, lean, out or Path("runs") / "lean")
    print_json(report) if json else console().print(patchers(report))


def _chosen(name: str, fields: tuple[str, ...]) -> Draft:
    from ..overrides import override

    return override(load_recipe(name), fields)


def _run_folder(name: str) -> Path:
    return Path("runs") / recipe_path(name).stem


@contextmanager
def interruptible() -> Iterator[None]:
    """Context manager: if a run was interrupted and has saved its state, print that and exit with code 130."""
    from ..train.loop import Interrupted

    try:
        yield
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        raise SystemExit(130) from None
