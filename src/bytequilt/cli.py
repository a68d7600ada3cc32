"""The command line. It knows the names of the verbs alone, so that --help is quick; `verbs/` knows the rest."""

import io
import os
import sys
from typing import NoReturn

VERBS = {
    "patch": "Show how a text is cut into patches.",
    "generate": "Continue a text, byte by byte.",
    "ask": "Answer a question on the letters of a word or on two numbers, in English or Russian.",
    "train": "Train what a recipe describes, from corpus to report; what is done is not done again.",
    "prepare": "Do the stages of a recipe up to the shards: corpus, entropy model, threshold, entropies.",
    "distill": "Give a model a lean patcher: one that takes the place of its entropy model at a fraction of the cost.",
    "eval": "Measure the bits per byte of files, each document in its full context, or answers to tasks.",
    "compare": "Train the models of a study with equal means, measure them, and write tables, plots and a report.",
    "languages": "Measure a model on the Universal Declaration of Human Rights in some 450 languages.",
    "info": "Say what a model is: parameters, FLOPs per byte, configuration. A recipe will do, too.",
    "bench": "Measure how fast a model decodes on this machine.",
    "convert": "Write a model in another layout: bytequilt's, Hugging Face's or Meta's. SRC may be in any of them.",
}


def main(arguments: list[str] | None = None) -> None:
    """Run a verb. Bad input ends with one line on stderr and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):  # JSON is UTF-8 everywhere, and a file's name need not be
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to print has no reader
        raise SystemExit(141) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        if (line := _complaint(error)) is None:
            raise
        _fail(line)


def overview() -> str:
    """What `bytequilt --help` prints."""
    return "\n".join(
        [
            "usage: bytequilt VERB ...",
            "",
            "Language models on raw bytes, sewn from patches: the Byte Latent Transformer.",
            "",
            *(f"  {name:<10}{summary}" for name, summary in VERBS.items()),
            "",
            'try: bytequilt patch "Hello"    more: bytequilt VERB --help',
        ]
    )


def _run(arguments: list[str]) -> None:
    match arguments:
        case [] | ["-h" | "--help", *_]:
            print(overview())
            raise SystemExit(0 if arguments else 2)
        case ["--version", *_]:
            from . import __version__

            print(__version__)
        case [name, *rest] if name in VERBS:
            from .verbs.parsing import bind

            bind(name, rest)()
        case [name, *_]:
            _fail(f"no verb '{name}'; there are {', '.join(VERBS)}")


def _complaint(error: Exception) -> str | None:
    """What there is to say of something that the caller can put right; None where the program is at fault."""
    from safetensors import SafetensorError

    from .config import UserError

    match error:
        case UserError():
            return str(error)
        case OSError():
            reason = error.strerror or str(error)
            return f"{error.filename}: {reason}" if error.filename else reason
        case SafetensorError():  # its way of saying that a disk is full
            return f"cannot read or write weights: {error}"
        case _:
            return None


def _fail(message: str) -> NoReturn:
    print(f"bytequilt: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)
