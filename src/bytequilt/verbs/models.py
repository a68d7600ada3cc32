"""Verbs on a model: what it scores, what it is, how fast it is, and what layout it is in."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ..config import UserError
from .shared import File, Files, Flag, Folder, Model, Named, Positional, console, load_any_model, load_model, print_json

if TYPE_CHECKING:
    from ..config import RuleConfig
    from ..evals.harness import HarnessTasks

Tasks = Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK...", help_behavior_hint="")]
Measure = Annotated[Positional[str], tyro.conf.arg(metavar="decode")]
Limit = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
Sizes = Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT...")]
Source = Annotated[Positional[str], tyro.conf.arg(metavar="SRC")]
Target = Annotated[Positional[Path], tyro.conf.arg(metavar="DST")]
Rule = Annotated[Literal["entropy", "monotonic", "budget"] | None, tyro.conf.arg(help_behavior_hint="")]
Mean = Annotated[float | None, tyro.conf.arg(metavar="BYTES", help_behavior_hint="")]
Revision = Annotated[str | None, tyro.conf.arg(metavar="REVISION", help_behavior_hint="")]


def eval(
    model: Named,
    files: Files,
    field: str = "text",
    noise: Flag = False,
    tasks: Tasks = (),
    items: int = 200,
    limit: Limit = None,
    include_path: Folder = None,
    json: Flag = False,
    device: str = "cpu",
) -> None:
    """Measure the bits per byte of files, each document in its full context, or answers to tasks.

    Examples:
      bytequilt eval tiny README.md
      bytequilt eval runs/demo held-out.jsonl.xz --noise --json
      bytequilt eval runs/demo --tasks characters
      bytequilt eval runs/demo --tasks count_char reverse compare --items 50
      bytequilt eval runs/demo --tasks hellaswag,arc_easy --limit 100

    Args:
        model: A shipped model, a model or run directory, or a hub id.
        files: A file is one document, unless it is .jsonl or .parquet: then each record is one.
        field: The field of a record that holds its text.
        noise: Also score the files, and ask the tasks, under five kinds of noise.
        tasks: Have it answer tasks on letters and numbers: characters, which is all of them, or some by name. Other
            names are those of tasks of lm-evaluation-harness.
        items: Questions of each task on letters and numbers.
        limit: Items of each task of the harness, the first ones; all of them where not given.
        include_path: A directory with tasks of your own, in the harness's YAML.
        json: Print one JSON document instead.
        device: Where the model runs: cpu, cuda, mps.
    """
    from ..evals.answers import evaluate
    from ..evals.corpora import evaluate_files, texts
    from ..evals.noise import NOISES, Noised, robustness
    from ..view import tables

    if not files and not tasks:
        raise UserError("eval needs a file, and only --tasks can do without: bytequilt eval MODEL FILE...")
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1, not {limit}")
    ours, theirs = _told_apart(tasks, include_path)
    lm, found, shown = load_any_model(model, device), {}, []
    if files:
        found |= evaluate_files(lm, files, field)
        shown.append(tables.evaluation(found))
    if files and noise:
        found["noise"] = robustness(lm, [text for path in files for text in texts(path, field)])
        shown.append(tables.noises(found["noise"]))
    readers = {"": lm} | ({f" under {name}": Noised(lm, name) for name in NOISES} if noise else {})
    for under, reader in readers.items():
        if ours:
            found["answers" + under] = evaluate(reader, () if "characters" in ours else ours, items)
            shown.append(tables.answers(found["answers" + under], under))
        if theirs is not None:
            found["harness" + under] = theirs.evaluate(reader, limit)
            shown.append(tables.harness(found["harness" + under], under))
    if json:
        return print_json(found)
    for table in shown:
        console().print(table)


def _told_apart(tasks: Sequence[str], include: Path | None) -> "tuple[list[str], HarnessTasks | None]":
    """Names of our own tasks, and the tasks that other names are of, in lm-evaluation-harness or a directory."""
    from ..evals.characters import TASKS

    names = list(dict.fromkeys(name for some in tasks for name in some.split(",") if name))
    ours = [name for name in names if name in {*TASKS, "characters"}]
    others = [name for name in names if name not in ours]
    if not others:
        return ours, None
    try:
        from ..evals.harness import HarnessTasks
    except UserError as error:
        raise UserError(f"no task named {', '.join(others)} here; {error}") from None
    return ours, HarnessTasks(others, include)


def info(model: Named, json: Flag = False) -> None:
    """Say what a model is: parameters, FLOPs per byte, configuration. A recipe will do, too.

    Examples:
      bytequilt info tiny
      bytequilt info blt-8b --json

    Args:
        model: A shipped model, a model or run directory, a hub id, or a recipe.
        json: Print one JSON document instead.
    """
    from ..info import describe
    from ..view.tables import description

    found = describe(model)
    print_json(found) if json else console().print(description(found))


def bench(
    what: Measure,
    model: Model = "tiny",
    prompt: Sizes = (64,),
    output: Sizes = (256,),
    rows: Sizes = (1, 16),
    threads: int = 1,
    speculate: int = 0,
    json: Flag = False,
    plot: File = None,
) -> None:
    """Measure how fast a model decodes on this machine.

    Examples:
      bytequilt bench decode
      bytequilt bench decode --model runs/demo --prompt 64 1024 --rows 1 4 16 --json
      bytequilt bench decode --rows 1 --speculate 8 --plot speed.svg

    Args:
        what: What to measure: decode, bytes that follow a prompt, one step after another.
        model: A shipped model, a model or run directory, or a hub id.
        prompt: Bytes of a prompt, one or more numbers.
        output: Bytes that follow it, one or more numbers.
        rows: Texts that take their steps together, one or more numbers.
        threads: Processor threads.
        speculate: Also generate greedily with and without so many guesses, after the first prompt and output length.
        json: Print one JSON document instead.
        plot: Also draw bytes per second to this file, .png or .svg.
    """
    if what != "decode":
        raise UserError(f"bench measures decode, not {what!r}")
    if threads < 1 or speculate < 0:
        raise UserError("threads must be at least 1, and speculate at least 0")
    import torch

    from ..evals.decode import corpus, speculation, sweep
    from ..view.figures import decode_speed, drawable
    from ..view.tables import decoding

    if plot is not None:
        drawable(plot)
    torch.set_num_threads(threads)
    lm = load_model(model, "cpu")
    found: dict[str, Any] = {"model": model, **sweep(lm, prompt, output, rows)}
    if speculate:
        text = corpus(4 * prompt[0])
        prompts = [text[at : at + prompt[0]] for at in range(0, len(text), prompt[0])]
        found["speculation"] = speculation(lm, prompts, output[0], speculate)
    if plot is not None:
        decode_speed([_speed(one) for one in found["settings"]], plot)
    print_json(found) if json else console().print(decoding(found))


def convert(
    src: Source,
    dst: Target,
    files: Files = (),
    to: Literal["bytequilt", "hf", "meta"] = "bytequilt",
    lossy: Flag = False,
    rule: Rule = None,
    target_bytes: Mean = None,
    revision: Revision = None,
    json: Flag = False,
) -> None:
    """Write a model in another layout: bytequilt's, Hugging Face's or Meta's. SRC may be in any of them.

    Weights are copied as they are stored, a piece at a time, so a large model needs no more memory than a small one.

    Examples:
      bytequilt convert facebook/blt-1b blt-1b
      bytequilt convert runs/mine mine-hf --to hf
      bytequilt convert runs/mine mine-hf held-out.txt --to hf --rule entropy --target-bytes 4.5

    Args:
        src: A shipped model, a model or run directory, or a hub id.
        dst: The directory to write, which must not exist.
        files: Text to calibrate another rule on.
        to: The layout to write.
        lossy: Convert even what the layout cannot express, and say what changes.
        rule: Patch by this rule instead of the model's, with the same entropy model.
        target_bytes: Mean bytes per patch that its threshold is calibrated to, on FILE...
        revision: Branch, tag or commit of a model of the hub; its token is read from HF_TOKEN.
        json: Print one JSON document instead.
    """
    from ..interop import convert as write
    from ..view.progress import progress

    if (rule is None) != (target_bytes is None) or (rule is None) != (not files):
        raise UserError(
            "--rule, --target-bytes and FILE... go together: convert SRC DST FILE... --rule R --target-bytes X"
        )
    if dst.exists():
        raise UserError(f"{dst} exists already; give another name, or remove it")
    patching = _recalibrated(src, rule, target_bytes, files, revision) if rule and target_bytes else None
    with ExitStack() as stack:
        bar = progress()

        def advance(done: int, total: int) -> None:
            if not bar.tasks:  # it is shown once there is something to show
                stack.enter_context(bar).add_task("convert", total=total)
            bar.advance(bar.task_ids[0], done)

        found = write(src, dst, to, lossy=lossy, patching=patching, revision=revision, advance=advance)
    for said in (*found["notes"], *found["changed"]):
        print(f"note: {said}", file=sys.stderr)
    if json:
        return print_json(found)
    print(f"{dst}: {found['tensors']} tensors, {found['bytes'] / 1e6:,.1f} MB, from {found['from']} to {found['to']}")


def _recalibrated(src: str, kind: str, target: float, files: Sequence[str], revision: str | None) -> "RuleConfig":
    """Another rule for the entropy model of a model, calibrated on the first megabyte of the files."""
    from ..config import PatchingConfig
    from ..evals.corpora import texts
    from ..lm import load
    from ..patching.calibration import first_bytes
    from ..patching.patcher import Patcher

    documents = [text for path in files for text in texts(path)]
    lm, options = load(src, revision=revision), PatchingConfig(kind=kind, target_bytes=target)
    patcher = Patcher(options.rule(**{str(options.calibrated): 0.0}), lm.patcher.model)
    reached = patcher.calibrate(first_bytes(documents, options.sample_bytes), target)
    print(
        f"note: patches differ from the model's own: kind '{kind}' instead of '{lm.patcher.rule.kind}', "
        f"{reached.threshold_bits:.3f} bits for {reached.mean_patch_bytes:.2f} bytes per patch",
        file=sys.stderr,
    )
    return patcher.rule


def _speed(one: dict[str, Any]) -> tuple[str, float, float]:
    """A measured setting as its name, its bytes per second, and the bound that memory sets to them."""
    name = f"{one['prompt']} + {one['output']} bytes, {one['rows']} row(s)"
    return name, one["bytes_per_s"], one["bytes_per_s"] * one["times_floor"]
