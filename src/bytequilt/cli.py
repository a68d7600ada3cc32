"""The command line. It knows only the names of the verbs, so that --help is fast; the code of the verbs is in
`verbs/`."""

import io
import os
import sys
from difflib import get_close_matches
from typing import NoReturn

VERBS = {
    "patch": "Show how a text is cut into patches.",
    "generate": "Continue a text, byte by byte.",
    "ask": "Answer a question on the letters of a word or on two numbers, in English or Russian.",
    "train": "Train the model of a recipe, from corpus to report; a run that was stopped goes on where it was.",
    "prepare": "Prepare the data of a recipe: corpus, entropy model, threshold, and shards with entropies.",
    "distill": "Give a model a cheap patcher, which takes the place of its entropy model.",
    "eval": "Measure the bits per byte of files, each document by itself, or answers to tasks.",
    "compare": "Train the models of a study at equal cost, measure them, and write tables, plots and a report.",
    "languages": "Measure a model on the Universal Declaration of Human Rights in some 450 languages.",
    "info": "Show the size of a model or recipe: parameters, FLOPs per byte, configuration.",
    "bench": "Measure how fast a model decodes, trains or scores on this machine.",
    "serve": "Serve models by an API like OpenAI's, and a page to play with at its address.",
    "convert": "Write a model in another layout or number type. SRC may be bytequilt's own, Hugging Face's or Meta's.",
}
FIRST = """Start with one of these:

  bytequilt patch "Hello, world"          see how a text is cut into patches
  bytequilt generate "The president of"   let the shipped model go on from a text
  bytequilt train demo                    train a small model, in a few minutes

bytequilt --help lists all commands."""


def main(arguments: list[str] | None = None) -> None:
    """Run a verb. Bad input prints one line on stderr and exits with code 2."""
    if arguments is None:
        _restart_in_utf8()
        arguments = sys.argv[1:]
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the shell has closed this stream
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # JSON must be UTF-8; file names may contain any bytes
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads the remaining output
        raise SystemExit(141) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        if (line := _complaint(error)) is None:
            raise
        _fail(line)


def _restart_in_utf8() -> None:
    """Restart Python in UTF-8 mode if the system's encoding is a different one."""
    if os.name == "posix" and sys.executable and sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def overview() -> str:
    """The text that `bytequilt --help` prints."""
    return "\n".join(
        [
            "usage: bytequilt VERB ...",
            "",
            "Language models on raw bytes, in patches: the Byte Latent Transformer.",
            "",
            *(f"  {name:<10}{summary}" for name, summary in VERBS.items()),
            "",
            "bytequilt VERB --help shows the options of a verb, with examples.",
            "bytequilt --version prints the version.",
        ]
    )


def _run(arguments: list[str]) -> None:
    match arguments:
        case []:
            print(FIRST)
            raise SystemExit(2)
        case ["-h" | "--help" | "help", *_]:
            print(overview())
            raise SystemExit(0)
        case ["-V" | "--version", *_]:
            from . import __version__

            print(__version__)
        case [name, *options] if name in VERBS:
            from .verbs.parsing import bind

            bind(name, options)()
        case [name, *_]:
            close = get_close_matches(name, VERBS, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(VERBS)}"
            _fail(f"no verb '{name[:60]}'; {hint}")


def _complaint(error: Exception) -> str | None:
    """The message for an error that the user can correct; None for a fault of the program."""
    from pydantic import ValidationError
    from safetensors import SafetensorError

    from .config import UserError, one_line

    match error:
        case UserError():
            return str(error)
        case ValidationError():  # a value given that a configuration does not take
            return one_line(error)
        case OSError():
            reason = error.strerror or str(error)
            return f"{str(error.filename)[:100]}: {reason}" if error.filename else reason
        case MemoryError() | RuntimeError() if isinstance(error, MemoryError) or _of_memory(str(error)):
            return f"not enough memory; a smaller model, batch or text needs less ({one_line(error)[:150]})"
        case SafetensorError():  # safetensors raises this when the disk is full
            return f"cannot read or write weights: {error}"
        case _:
            return None


def _of_memory(said: str) -> bool:
    """Whether an error of PyTorch is that there is no memory left."""
    return any(words in said for words in ("can't allocate memory", "not enough memory", "out of memory"))


def _fail(message: str) -> NoReturn:
    from .config import shorten

    print(shorten(f"bytequilt: {message}"), file=sys.stderr)
    raise SystemExit(2)
