"""The verbs of the command line, one function each, which imports what it needs: help should not wait for torch."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from dataclasses import asdict
from functools import partial, wraps
from inspect import getdoc
from io import StringIO
from itertools import chain, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from pydantic import ValidationError

from .config import Recipe, UserError, load_recipe, one_line, recipe_path

if TYPE_CHECKING:
    from rich.console import Console

    from .infer.generate import Completion
    from .infer.writer import Step
    from .lm import LM

Positional = tyro.conf.Positional
Text = Annotated[Positional[str], tyro.conf.arg(metavar="TEXT|-")]
Prompt = Annotated[Positional[str | None], tyro.conf.arg(metavar="PROMPT|-", help_behavior_hint="")]
Model = Annotated[str, tyro.conf.arg(metavar="MODEL")]
Named = Annotated[Positional[str], tyro.conf.arg(metavar="MODEL")]
RecipeName = Annotated[Positional[str], tyro.conf.arg(metavar="RECIPE")]
Files = Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILE...", help_behavior_hint="")]
Folder = Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
Stops = Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="TEXT", help_behavior_hint="")]
Measure = Annotated[Positional[str], tyro.conf.arg(metavar="decode")]
Sizes = Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT...")]
Source = Annotated[Positional[str], tyro.conf.arg(metavar="SRC")]
Target = Annotated[Positional[Path], tyro.conf.arg(metavar="DST")]
Revision = Annotated[str | None, tyro.conf.arg(metavar="REVISION", help_behavior_hint="")]
Tasks = Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK...", help_behavior_hint="")]
Seed = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Fields = Annotated[tuple[str, ...], tyro.conf.Suppress]
"""What tyro does not know of the arguments of `train` and `prepare`: fields of the recipe."""


def patch(text: Text, model: Model = "tiny", json: Flag = False, html: File = None, device: str = "cpu") -> None:
    """Show how a text is cut into patches.

    Examples:
      bytequilt patch "Daenerys Targaryen is in Game of Thrones"
      bytequilt patch - --html patches.html < chapter.txt

    Args:
        text: The text, of any bytes; - reads standard input. One that starts with a dash follows --.
        model: A shipped model, a model or run directory, or a hub id.
        json: Print one JSON document instead.
        html: Also write the figure, with the entropy curve above the text, to this file: HTML, or SVG by its name.
        device: Where the model runs: cpu, cuda, mps.
    """
    from .view.html import page, svg
    from .view.terminal import shown

    data = _bytes(text)
    found = _load(model, device).patch(data)
    if html is not None:
        _write(html, svg(found) if html.suffix.lower() == ".svg" else page(found))
    _print_json(found.json()) if json else print(shown(found))


def generate(
    prompt: Prompt = None,
    model: Model = "tiny",
    max_bytes: int = 200,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop: Stops = (),
    utf8: Flag = False,
    logprobs: Flag = False,
    speculate: int = 0,
    seed: Seed = None,
    json: Flag = False,
    device: str = "cpu",
) -> None:
    """Continue a text, byte by byte.

    Without a prompt, on a terminal, it asks for one after another.

    Examples:
      bytequilt generate "The president of" --max-bytes 300
      bytequilt generate "Q: What is a byte? A:" --stop Q: --speculate 8
      echo "In the beginning" | bytequilt generate - --temperature 0 --json

    Args:
        prompt: The text to continue, of any bytes; - reads standard input.
        model: A shipped model, a model or run directory, or a hub id.
        max_bytes: Bytes to generate at most.
        temperature: 0 takes the likeliest byte.
        top_k: Draw from the k likeliest bytes; 0 from all.
        top_p: Draw from the likeliest bytes whose probabilities sum to p.
        min_p: Draw from bytes at least this fraction as likely as the likeliest.
        repetition_penalty: Above 1, the last 64 bytes are less likely to come again.
        stop: End before this text; may be given more than once.
        utf8: Draw only what keeps the text valid UTF-8.
        logprobs: With --json, also the log-probability of each byte, in nats.
        speculate: Let the decoder guess up to so many bytes ahead, and verify them in one pass.
        seed: The same seed gives the same bytes.
        json: Print one JSON document when done, instead of the text as it comes.
        device: Where the model runs: cpu, cuda, mps.
    """
    options = {
        "max_bytes": max_bytes,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "stop": stop,
        "utf8": utf8,
        "logprobs": logprobs,
        "speculate": speculate,
        "seed": seed,
    }
    asked = prompt is None and not json and sys.stdin.isatty() and sys.stdout.isatty()
    data = b"" if asked else _bytes(prompt or "")
    lm = _load(model, device)
    if json:
        return _print_json(_completion(data, lm.generate(data, **options)))
    if not asked:
        return _print_steps(data, lm.stream(data, **options))
    for line in _prompts():
        try:
            _print_steps(line, lm.stream(line, **options))
        except KeyboardInterrupt:  # ends the text, not the conversation
            sys.stdout.write("\n")


def _print_steps(prompt: bytes, steps: "Iterator[Step]") -> None:
    """A prompt and what follows it, as it comes."""
    from .view.glyphs import harmless

    clean = harmless if sys.stdout.isatty() else str
    first = next(steps)  # a bad option is told before anything is printed
    sys.stdout.write(clean(prompt.decode("utf-8", "replace")))
    for step in chain([first], steps):
        sys.stdout.write(clean(step.text))
        sys.stdout.flush()
    sys.stdout.write("\n")


def _prompts() -> Iterator[bytes]:
    """Lines from the terminal, until its end of file."""
    from .codec import as_bytes

    with suppress(ImportError):
        import readline  # noqa: F401  lines can be edited, and called back
    with suppress(EOFError):
        while True:
            yield as_bytes(input("prompt> "))


def _completion(prompt: bytes, found: "Completion") -> dict[str, Any]:
    """A completion as JSON."""
    logprobs = {"logprobs": list(found.logprobs)} if found.logprobs else {}
    return {
        "prompt": prompt.decode("utf-8", "replace"),
        "text": found.text,
        "finish_reason": found.finish_reason,
        **asdict(found.stats),
        "bytes_per_second": found.stats.bytes_per_second,
        **logprobs,
    }


def train(recipe: RecipeName, out: Folder = None, json: Flag = False, fields: Fields = ()) -> None:
    """Train what a recipe describes, from corpus to report; what is done is not done again.

    Any field of the recipe can be overridden, as in --train.steps 100; `bytequilt train RECIPE --help` lists them all.

    Examples:
      bytequilt train demo
      bytequilt train tiny --data.train english.jsonl.xz --data.val val.jsonl.xz --out runs/mine
      bytequilt train demo --train.steps 100 --out runs/short

    Args:
        recipe: A shipped recipe, or the path of a TOML file.
        out: The run directory: runs/RECIPE unless given.
        json: Print the report as one JSON document.
    """
    chosen, folder = _chosen(recipe, fields), out or _run_folder(recipe)
    from .train.run import train as train_recipe
    from .view.terminal import report as screen

    with _interruptible():
        found = train_recipe(chosen, folder)
    _print_json(found) if json else _console().print(screen(found))


def prepare(recipe: RecipeName, out: Folder = None, fields: Fields = ()) -> None:
    """Do the stages of a recipe up to the shards: corpus, entropy model, threshold, entropies.

    Any field of the recipe can be overridden, as in --data.train; `bytequilt prepare RECIPE --help` lists them all.

    Examples:
      bytequilt prepare demo
      bytequilt prepare tiny --data.train english.jsonl.xz --out runs/mine

    Args:
        recipe: A shipped recipe, or the path of a TOML file.
        out: The run directory: runs/RECIPE unless given.
    """
    chosen, folder = _chosen(recipe, fields), out or _run_folder(recipe)
    from .train.run import claim
    from .train.run import prepare as prepare_recipe

    with _interruptible():
        prepare_recipe(chosen, claim(chosen, folder))


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
    """Give a model a lean patcher: one that takes the place of its entropy model at a fraction of the cost.

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
    from .train.distill import Lean
    from .train.distill import distill as make
    from .view.tables import patchers

    if not files:
        raise UserError("distill needs text: bytequilt distill MODEL FILE...")
    training = Lean().train.model_dump() | {"steps": steps}
    try:
        lean = Lean(kind=kind, sample_bytes=sample_bytes, val_every=val_every, train=training)
    except ValidationError as error:
        raise UserError(one_line(error)) from None
    with _interruptible():
        found = make(model, files, lean, out or Path("runs") / "lean")
    _print_json(found) if json else _console().print(patchers(found))


def eval(
    model: Named,
    files: Files,
    field: str = "text",
    noise: Flag = False,
    tasks: Tasks = (),
    items: int = 200,
    json: Flag = False,
    device: str = "cpu",
) -> None:
    """Measure the bits per byte of files, each document in its full context, or answers to tasks.

    Examples:
      bytequilt eval tiny README.md
      bytequilt eval runs/demo held-out.jsonl.xz --noise --json
      bytequilt eval runs/demo --tasks characters
      bytequilt eval runs/demo --tasks count_char reverse compare --items 50

    Args:
        model: A shipped model, a model or run directory, or a hub id.
        files: A file is one document, unless it is .jsonl or .parquet: then each record is one.
        field: The field of a record that holds its text.
        noise: Also score the files under five kinds of noise.
        tasks: Have it answer tasks on letters and numbers: characters, which is all of them, or some by name.
        items: Questions of each task.
        json: Print one JSON document instead.
        device: Where the model runs: cpu, cuda, mps.
    """
    from .evals.answers import evaluate
    from .evals.corpora import evaluate_files, texts
    from .evals.noise import robustness
    from .view import tables

    if not files and (noise or not tasks):
        raise UserError("eval needs a file, and only --tasks can do without: bytequilt eval MODEL FILE...")
    lm, found, shown = _load(model, device), {}, []
    if files:
        found |= evaluate_files(lm, files, field)
        shown.append(tables.evaluation(found))
    if noise:
        found["noise"] = robustness(lm, [text for path in files for text in texts(path, field)])
        shown.append(tables.noises(found["noise"]))
    if tasks:
        found["answers"] = evaluate(lm, () if tasks == ("characters",) else tasks, items)
        shown.append(tables.answers(found["answers"]))
    if json:
        return _print_json(found)
    for table in shown:
        _console().print(table)


def info(model: Named, json: Flag = False) -> None:
    """Say what a model is: parameters, FLOPs per byte, configuration. A recipe will do, too.

    Examples:
      bytequilt info tiny
      bytequilt info blt-8b --json

    Args:
        model: A shipped model, a model or run directory, a hub id, or a recipe.
        json: Print one JSON document instead.
    """
    from .info import describe
    from .view.tables import description

    found = describe(model)
    _print_json(found) if json else _console().print(description(found))


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

    from .evals.decode import corpus, speculation, sweep
    from .view.figures import decode_speed, drawable
    from .view.tables import decoding

    if plot is not None:
        drawable(plot)
    torch.set_num_threads(threads)
    lm = _load(model, "cpu")
    found: dict[str, Any] = {"model": model, **sweep(lm, prompt, output, rows)}
    if speculate:
        text = corpus(4 * prompt[0])
        prompts = [text[at : at + prompt[0]] for at in range(0, len(text), prompt[0])]
        found["speculation"] = speculation(lm, prompts, output[0], speculate)
    if plot is not None:
        decode_speed([_speed(one) for one in found["settings"]], plot)
    _print_json(found) if json else _console().print(decoding(found))


def convert(
    src: Source,
    dst: Target,
    to: Literal["bytequilt", "hf", "meta"] = "bytequilt",
    lossy: Flag = False,
    revision: Revision = None,
    json: Flag = False,
) -> None:
    """Write a model in another layout: bytequilt's, Hugging Face's or Meta's. SRC may be in any of them.

    Weights are copied as they are stored, a piece at a time, so a large model needs no more memory than a small one.

    Examples:
      bytequilt convert facebook/blt-1b blt-1b
      bytequilt convert runs/mine mine-hf --to hf

    Args:
        src: A shipped model, a model or run directory, or a hub id.
        dst: The directory to write, which must not exist.
        to: The layout to write.
        lossy: Convert even what the layout cannot express, and say what changes.
        revision: Branch, tag or commit of a model of the hub; its token is read from HF_TOKEN.
        json: Print one JSON document instead.
    """
    from .interop import convert as write
    from .view.progress import progress

    with ExitStack() as stack:
        bar = progress()

        def advance(done: int, total: int) -> None:
            if not bar.tasks:  # it is shown once there is something to show
                stack.enter_context(bar).add_task("convert", total=total)
            bar.advance(bar.task_ids[0], done)

        found = write(src, dst, to, lossy=lossy, revision=revision, advance=advance)
    for said in (*found["notes"], *found["changed"]):
        print(f"note: {said}", file=sys.stderr)
    if json:
        return _print_json(found)
    print(f"{dst}: {found['tensors']} tensors, {found['bytes'] / 1e6:,.1f} MB, from {found['from']} to {found['to']}")


def _speed(one: dict[str, Any]) -> tuple[str, float, float]:
    """A measured setting as its name, its bytes per second, and the bound that memory sets to them."""
    name = f"{one['prompt']} + {one['output']} bytes, {one['rows']} row(s)"
    return name, one["bytes_per_s"], one["bytes_per_s"] * one["times_floor"]


FUNCTIONS: dict[str, Callable[..., None]] = {
    verb.__name__: verb for verb in (patch, generate, train, prepare, distill, eval, info, bench, convert)
}
OF_RECIPES = ("train", "prepare")


# ------------------------------------------------------------------------------------------------------------ parsing


def bind(name: str, arguments: list[str]) -> Callable[[], None]:
    """The verb with its arguments bound. What tyro says of bad ones in a box becomes one line."""
    verb, prog, said = FUNCTIONS[name], f"bytequilt {name}", StringIO()

    @wraps(verb)
    def later(*args: Any, **kwargs: Any) -> Callable[..., None]:
        return partial(verb, *args, **kwargs)

    try:
        with redirect_stderr(said):
            if name not in OF_RECIPES:
                return tyro.cli(later, prog=prog, args=arguments)
            bound, rest = tyro.cli(later, prog=prog, args=arguments, return_unknown_args=True)
            return partial(bound, fields=tuple(rest))
    except SystemExit as stop:
        if stop.code:
            raise UserError(f"{_unboxed(said.getvalue())} (see {prog} --help)") from None
        print(_more_help(name, arguments))
        raise


def _unboxed(said: str) -> str:
    """The message of one of tyro's boxes, without its title and its advice."""
    rows = [row for line in said.splitlines() if (row := line.strip(" │|╭╮╰╯+─-"))]
    advice = ("Perhaps you meant", "Argument helptext", "For full helptext")
    return " ".join(takewhile(lambda row: not row.startswith(advice), rows[1:]))


def _more_help(name: str, arguments: list[str]) -> str:
    """What tyro leaves out of a verb's help: its examples, and the fields of the recipe that is named."""
    examples = (getdoc(FUNCTIONS[name]) or "").partition("Examples:\n")[2].partition("\n\n")[0]
    text = f"examples:\n{examples}\n"
    if name in OF_RECIPES and not arguments[0].startswith("-"):
        from .overrides import listing

        text += f"\nfields of {arguments[0]}, any of which may be given:\n{listing(load_recipe(arguments[0]))}\n"
    return text


def _chosen(name: str, fields: tuple[str, ...]) -> Recipe:
    from .overrides import override

    return override(load_recipe(name), fields)


def _run_folder(name: str) -> Path:
    return Path("runs") / recipe_path(name).stem


@contextmanager
def _interruptible() -> Iterator[None]:
    """A run that was asked to stop, and has saved where it is, ends like any interrupted program."""
    from .train.loop import Interrupted

    try:
        yield
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        raise SystemExit(130) from None


# ----------------------------------------------------------------------------------------------------- input, output


def _bytes(text: str) -> bytes:
    """The bytes of an argument; of standard input where it is `-`."""
    from .codec import as_bytes

    return sys.stdin.buffer.read() if text == "-" else as_bytes(text)


def _load(model: str, device: str) -> "LM":
    from .lm import load

    try:
        return load(model, device)
    except (AssertionError, RuntimeError) as error:  # what torch raises for a device that is not there
        raise UserError(f"cannot use device '{device}': {str(error).splitlines()[0]}") from None


def _console() -> "Console":
    from rich.console import Console

    return Console()


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False))


def _write(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".partial")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.rename(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
