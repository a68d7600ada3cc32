"""The verbs `patch` and `generate`: patches and continuations of a text."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..config import UserError, as_bytes
from ..config.sampling import Sampling
from ..files import check_folder
from .shared import (
    Device,
    File,
    Flag,
    Json,
    Model,
    Number,
    OtherModel,
    Positional,
    Repeated,
    bytes_of,
    console,
    print_json,
)

if TYPE_CHECKING:
    from ..infer.generate import Completion
    from ..infer.writer import Step

Texts = Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="TEXT|-", help_behavior_hint="")]
Prompt = Annotated[Positional[str | None], tyro.conf.arg(metavar="PROMPT|-", help_behavior_hint="")]
TokenizerName = Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE", help_behavior_hint="")]
WHOLE = 250_000
"""Largest size in bytes of a text that is patched as a whole. A longer text is printed part by part."""


@dataclass(frozen=True)
class SamplingFlags(Sampling):
    """The fields of `Sampling` as flags. Two fields have simpler types on the command line."""

    seed: Number = None
    """The same seed draws the same bytes."""
    stop: Repeated = ()
    """Generation stops before this text. May be given more than once."""


Draws = Annotated[SamplingFlags, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff]


def patch(
    text: Texts,
    model: Model = "tiny",
    tokens: TokenizerName = None,
    report: OtherModel = None,
    json: Json = False,
    html: File = None,
    device: Device = "auto",
) -> None:
    """Show how a text is cut into patches.

    Examples:
      bytequilt patch "Daenerys Targaryen is in Game of Thrones"
      bytequilt patch --tokens default "380 381 strawberry"
      bytequilt patch - --html patches.html < chapter.txt
      bytequilt patch --report tiny english.txt russian.txt

    Args:
        text: The text, any bytes; - reads standard input. Write -- before a text that starts with a dash. With
            --report, files: each file is one document; in .jsonl and .parquet files each record is one.
        tokens: Also show the tokens of this tokenizer: default, a tokenizer.json, or a file of ranks as Llama 3's.
        report: Patch files with this model instead, and show bytes, characters and bits per patch for each script.
        html: Also write the figure, with the entropy curve above the text, to this file: .html or .svg.
    """
    if report is not None:
        if not text or html is not None or tokens is not None:
            raise UserError("patch --report takes a MODEL and one FILE at least, and neither --html nor --tokens")
        return _report(report, text, json, device)
    if len(text) != 1:
        wrong = f"unexpected {text[1]!r}: a text of several words goes in quotes" if text else "patch needs a TEXT"
        raise UserError(f"{wrong} (see bytequilt patch --help)")
    if html is not None:
        if html.suffix.lower() not in (".html", ".htm", ".svg"):
            raise UserError(f"cannot write '{html}': its name must end with .html or .htm or .svg")
        check_folder(html)
    from ..baselines.tokenizer import Tokenizer

    tokenizer = None if tokens is None else Tokenizer.find(tokens)
    data = bytes_of(text[0], WHOLE + 1)
    if len(data) > WHOLE:
        if tokens is not None or html is not None:
            raise UserError(f"--tokens and --html are for texts of up to {WHOLE:,} bytes")
        return _patch_long(text[0], data, model, json, device)
    from ..lm import load
    from ..view.patched import Tokens

    patched = load(model, device).patch(data)
    if tokenizer is not None:
        pieces = tuple(tokenizer.pieces(data))
        patched = replace(patched, tokens=Tokens(tokenizer.name, pieces, tokenizer.about))
    if html is not None:
        from ..files import write_text
        from ..view.html import page, svg

        write_text(html, svg(patched) if html.suffix.lower() == ".svg" else page(patched))
    if json:
        return print_json(patched.json())
    from ..view.terminal import shown

    print(shown(patched))


def _patch_long(text: str, head: bytes, model: str, json: bool, device: str) -> None:
    """Print the patches of a long text part by part: `head`, then standard input if `text` is `-`."""
    from ..lm import load
    from ..view.cut import patched_parts
    from ..view.progress import progress
    from ..view.stream import print_json_parts, print_parts

    patcher = load(model, device).patcher
    later = iter(lambda: sys.stdin.buffer.read(WHOLE), b"") if text == "-" else ()
    with progress() as bar:
        # on a terminal no bar is needed, since the printed text shows the progress
        line = bar.add_task("patch", total=None if text == "-" else len(head), visible=not sys.stdout.isatty())
        parts = patched_parts(patcher, chain([head], later))
        counted = ((place, part) for place, part in parts if bar.advance(line, len(part.data)) is None)
        if json:
            return print_json_parts(counted, sys.stdout.write)
        print_parts(counted, sys.stdout.write, console())


def _report(model: str, files: tuple[str, ...], json: bool, device: str) -> None:
    """Print statistics of the patches of files by script."""
    from ..evals.scripts import report
    from ..lm import load
    from ..view.tables import scripts

    counts = report(load(model, device), files)
    print_json(counts) if json else console().print(scripts(counts))


def generate(
    sampling: Draws,
    prompt: Prompt = None,
    model: Model = "tiny",
    speculate: int = 0,
    json: Flag = False,
    device: Device = "auto",
) -> None:
    """Continue a text, byte by byte.

    On a terminal and without PROMPT, the command asks for prompts until end of file (Ctrl-D).

    Examples:
      bytequilt generate "The president of" --max-bytes 300
      bytequilt generate "Q: What is a byte? A:" --stop Q: --speculate 8
      printf "In the beginning" | bytequilt generate - --temperature 0 --json

    Args:
        sampling: How bytes are drawn.
        prompt: The text to continue, any bytes; - reads standard input.
        speculate: The decoder guesses up to this many bytes ahead, and one pass of the model verifies them.
        json: Print one JSON document at the end, instead of the text while it is generated.
    """
    if not json and (sampling.logprobs or sampling.top_logprobs):
        raise UserError("--logprobs and --top-logprobs are told by --json alone")
    options = vars(sampling) | {"speculate": speculate}
    asks = prompt is None and not json and _on_terminal()
    data = b"" if asks else bytes_of(prompt or "")
    from ..lm import load

    lm = load(model, device)
    if json:
        return print_json(_completion(data, lm.generate(data, **options)))
    if not asks:
        return _print_steps(data, lm.stream(data, **options))
    for line in _prompts():
        try:
            _print_steps(line, lm.stream(line, **options))
        except KeyboardInterrupt:  # Ctrl-C ends this text only; the next prompt follows
            sys.stdout.write("\n")


def _on_terminal() -> bool:
    """True if standard input and output are a terminal, so that a person can be asked for prompts."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def _print_steps(prompt: bytes, steps: "Iterator[Step]") -> None:
    """Print a prompt, then the generated text while it comes."""
    from ..view.glyphs import harmless

    clean = harmless if sys.stdout.isatty() else str
    first = next(steps)  # an error in the options is raised here, before anything is printed
    sys.stdout.write(clean(prompt.decode("utf-8", "replace")))
    for step in chain([first], steps):
        sys.stdout.write(clean(step.text))
        sys.stdout.flush()
    sys.stdout.write("\n")


def _prompts() -> Iterator[bytes]:
    """Yield the prompts that a user types, one line at a time, until end of file."""
    with suppress(ImportError):
        import readline  # noqa: F401  this import enables line editing and history
    with suppress(EOFError):
        while True:
            yield as_bytes(input("prompt> "))


def _completion(prompt: bytes, completion: "Completion") -> dict[str, Any]:
    """The JSON document of `generate --json`."""
    asked = {"logprobs": completion.logprobs, "top_logprobs": completion.top_logprobs}
    return {
        "prompt": prompt.decode("utf-8", "replace"),
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        **asdict(completion.stats),
        "bytes_per_second": completion.stats.bytes_per_second,
        **{name: values for name, values in asked.items() if values},
    }
