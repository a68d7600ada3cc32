"""Helpers of the verbs: types of arguments, reading of input, printing."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..config import UserError, as_bytes
from ..files import finite

if TYPE_CHECKING:
    from rich.console import Console

Positional = tyro.conf.Positional
Model = Annotated[str, tyro.conf.arg(metavar="MODEL", help="A shipped model, a model or run directory, or a hub id.")]
Named = Positional[Model]
Device = Annotated[str, tyro.conf.arg(help="Where the model runs: auto, cpu, cuda, cuda:N, mps.")]
Files = Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILE...", help_behavior_hint="")]
Folder = Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
Number = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
OtherModel = Annotated[str | None, tyro.conf.arg(metavar="MODEL", help_behavior_hint="")]
Repeated = Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="TEXT", help_behavior_hint="")]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Json = Annotated[Flag, tyro.conf.arg(help="Print one JSON document instead.")]


def bytes_of(text: str, most: int = -1) -> bytes:
    """The bytes of a text argument. `-` means standard input: its first `most` bytes, or all if `most` is negative.
    Raises UserError if it is closed."""
    if text != "-":
        return as_bytes(text)
    try:
        return sys.stdin.buffer.read(most)
    except (AttributeError, ValueError):  # the shell closed standard input: sys.stdin is None or closed
        raise UserError("standard input is closed, and - reads it") from None


def console() -> "Console":
    """A rich console on standard output, for tables."""
    from rich.console import Console

    class Screen(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich caught the error; `cli` handles it, as for every other output

    return Screen(markup=False)  # a file may be named [b].txt


def print_json(value: Any) -> None:
    """Print one JSON document to standard output."""
    print(json.dumps(finite(value), ensure_ascii=False))
