"""The command line: one function a verb. What a verb needs is imported inside it, so that --help is quick."""

import json
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import wraps
from io import StringIO
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from .codec import as_bytes
from .config import Recipe, UserError, load_recipe, recipe_path

if TYPE_CHECKING:
    from rich.console import Console

Positional = tyro.conf.Positional
Text = Annotated[Positional[str], tyro.conf.arg(metavar="TEXT|-")]
Overridden = Annotated[Recipe, tyro.conf.arg(name="")]
Model = Annotated[str, tyro.conf.arg(metavar="MODEL")]


def patch(text: Text, model: Model = "tiny", json: bool = False, html: Path | None = None) -> None:
    """Show how a text is cut into patches.

    Examples:
      bytequilt patch "Daenerys Targaryen is in Game of Thrones"
      bytequilt patch - --html patches.html < chapter.txt

    Args:
        text: The text, of any bytes; - reads standard input.
        model: A shipped model, a model or run directory, or a hub id.
        json: Print one JSON document instead.
        html: Also write the figure, with the entropy curve above the text, to this file.
    """
    from .lm import load
    from .view.html import page
    from .view.terminal import coloured

    found = load(model).patch(_bytes(text))
    if html is not None:
        _write(html, page(found))
    _print_json(found.json()) if json else _console().print(coloured(found))


def generate(
    prompt: Annotated[Positional[str], tyro.conf.arg(metavar="PROMPT|-")] = "",
    model: Model = "tiny",
    max_bytes: int = 200,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | None = None,
    json: bool = False,
) -> None:
    """Continue a text, byte by byte.

    Examples:
      bytequilt generate "The president of" --max-bytes 300
      echo "In the beginning" | bytequilt generate - --temperature 0 --json

    Args:
        prompt: The text to continue, of any bytes; - reads standard input.
        model: A shipped model, a model or run directory, or a hub id.
        max_bytes: Bytes to generate at most.
        temperature: 0 takes the likeliest byte.
        top_k: Draw from the k likeliest bytes; 0 from all.
        top_p: Draw from the likeliest bytes whose probabilities sum to p.
        seed: The same seed gives the same bytes.
        json: Print one JSON document when done, instead of the text as it comes.
    """
    from .lm import load

    data = _bytes(prompt)
    lm = load(model)
    options = dict(max_bytes=max_bytes, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    if not json:
        sys.stdout.write(data.decode("utf-8", "replace"))
        for step in lm.stream(data, **options):
            sys.stdout.write(step.text)
            sys.stdout.flush()
        sys.stdout.write("\n")
        return
    found = lm.generate(data, **options)
    _print_json(
        {
            "prompt": data.decode("utf-8", "replace"),
            "text": found.text,
            "bytes": found.stats.bytes,
            "patches": found.stats.patches,
            "bytes_per_second": found.stats.bytes_per_second,
            "finish_reason": found.finish_reason,
        }
    )


def train(recipe: Overridden, out: Path, json: bool = False) -> None:
    """Train what a recipe describes, from corpus to report; what is done is not done again.

    Any field of the recipe can be overridden, as in --train.steps 100.

    Examples:
      bytequilt train demo
      bytequilt train tiny --data.train english.jsonl.xz --data.val val.jsonl.xz --out runs/mine
      bytequilt train demo --train.steps 100 --out runs/short

    Args:
        out: The run directory: runs/RECIPE unless given.
        json: Print the report as one JSON document.
    """
    from .train.run import train as train_recipe
    from .view.terminal import report as screen

    found = train_recipe(recipe, out)
    _print_json(found) if json else _console().print(screen(found))


def prepare(recipe: Overridden, out: Path) -> None:
    """Do the stages of a recipe up to the shards: corpus, entropy model, threshold, entropies.

    Examples:
      bytequilt prepare demo
      bytequilt prepare tiny --data.train english.jsonl.xz --out runs/mine

    Args:
        out: The run directory: runs/RECIPE unless given.
    """
    from .train.run import claim
    from .train.run import prepare as prepare_recipe

    prepare_recipe(recipe, claim(recipe, out))


def eval(
    model: Positional[str],
    files: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILE...")],
    field: str = "text",
    json: bool = False,
) -> None:
    """Measure the bits per byte of files. Each document is scored in its full context, EOS included.

    Examples:
      bytequilt eval tiny README.md
      bytequilt eval runs/demo held-out.jsonl.xz --json

    Args:
        model: A shipped model, a model or run directory, or a hub id.
        files: A file is one document, unless it is .jsonl or .parquet: then each record is one.
        field: The field of a record that holds its text.
        json: Print one JSON document instead.
    """
    from .evals.corpora import evaluate_files
    from .view.terminal import evaluation

    found = evaluate_files(model, files, field)
    _print_json(found) if json else _console().print(evaluation(found))


def info(model: Positional[str], json: bool = False) -> None:
    """Say what a model is: parameters, FLOPs per byte, configuration. A recipe will do, too.

    Examples:
      bytequilt info tiny
      bytequilt info blt-8b --json

    Args:
        model: A shipped model, a model or run directory, a hub id, or a recipe.
        json: Print one JSON document instead.
    """
    from .info import describe
    from .view.terminal import description

    found = describe(model)
    _print_json(found) if json else _console().print(description(found))


VERBS: dict[str, Callable[..., None]] = {
    "patch": patch,
    "generate": generate,
    "train": train,
    "prepare": prepare,
    "eval": eval,
    "info": info,
}


def main(arguments: list[str] | None = None) -> None:
    """Run a verb. Bad input ends with one line on stderr and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        raise SystemExit(0 if arguments else 2)
    name, rest = arguments[0], arguments[1:]
    try:
        if name == "--version":
            from . import __version__

            print(__version__)
        elif name not in VERBS:
            raise UserError(f"no verb '{name}'; there are {', '.join(VERBS)}")
        else:
            _run(name, rest)
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or name}: {error.strerror or error}")
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def overview() -> str:
    """What `bytequilt --help` prints."""
    lines = [f"  {name:<10}{(verb.__doc__ or '').splitlines()[0]}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: bytequilt VERB ...",
            "",
            "Language models on raw bytes, sewn from patches: the Byte Latent Transformer.",
            "",
            *lines,
            "",
            'try: bytequilt patch "Hello"    more: bytequilt VERB --help',
        ]
    )


def _run(name: str, rest: list[str]) -> None:
    if name not in ("train", "prepare"):
        _parse(VERBS[name], f"bytequilt {name}", rest)()
        return
    named = [a for a in rest[:1] if not a.startswith("-")]
    if not named and rest[:1] not in (["-h"], ["--help"]):
        raise UserError(f"{name} needs a recipe first: bytequilt {name} RECIPE ...")
    recipe = load_recipe(named[0] if named else "demo")
    out = Path("runs") / (recipe_path(named[0]).stem if named else "RECIPE")

    def verb(recipe: Overridden = recipe, out: Path = out, json: bool = False) -> Callable[[], None]:
        options = {"json": json} if name == "train" else {}
        return lambda: VERBS[name](recipe, out, **options)

    verb.__doc__ = VERBS[name].__doc__
    from .train.loop import Interrupted

    try:
        _parse(verb, f"bytequilt {name} RECIPE", rest[len(named) :])()()
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        raise SystemExit(130) from None


def _parse(verb: Callable[..., Any], prog: str, arguments: list[str]) -> Callable[[], Any]:
    """The verb with its arguments bound. What tyro says of bad ones in a box becomes one line."""

    @wraps(verb)
    def bind(*args: Any, **kwargs: Any) -> Callable[[], Any]:
        return lambda: verb(*args, **kwargs)

    said = StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(bind, prog=prog, args=arguments, config=(tyro.conf.AvoidSubcommands,))
    except SystemExit as stop:
        if stop.code:
            rows = [line.strip(" │") for line in said.getvalue().splitlines()[1:]]
            body = list(takewhile(lambda row: not row.startswith(("─", "╰")), rows))
            raise UserError(f"{' '.join(body)} (see {prog} --help)") from None
        raise


def _fail(message: str) -> None:
    print(f"bytequilt: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


def _bytes(text: str) -> bytes:
    """The bytes of an argument; of standard input where it is `-`."""
    return sys.stdin.buffer.read() if text == "-" else as_bytes(text)


def _console() -> "Console":
    from rich.console import Console

    return Console()


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False))


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.rename(path)
