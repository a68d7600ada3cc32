"""What verbs share: kinds of arguments, and how they read and print."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..config import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from ..baselines.baseline import Baseline
    from ..lm import LM

Positional = tyro.conf.Positional
Model = Annotated[str, tyro.conf.arg(metavar="MODEL")]
Named = Annotated[Positional[str], tyro.conf.arg(metavar="MODEL")]
Files = Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILE...", help_behavior_hint="")]
Folder = Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


def bytes_of(text: str) -> bytes:
    """The bytes of an argument; of standard input where it is `-`."""
    return bytes_up_to(text, -1)


def bytes_up_to(text: str, most: int) -> bytes:
    """The same, but no more than so many from standard input; all where that is negative."""
    from ..codec import as_bytes

    if text != "-":
        return as_bytes(text)
    if sys.stdin is None:
        raise UserError("standard input is closed")
    return sys.stdin.buffer.read(most)


def load_model(model: str, device: str) -> "LM":
    """The BLT of that name on that device; UserError where there is no such device."""
    from ..lm import load

    return _on(device, load, model)


def load_any_model(model: str, device: str) -> "LM | Baseline":
    """The same, or a baseline."""
    from ..lm import load_any

    return _on(device, load_any, model)


def _on(device: str, load: Callable[[str, str], Any], model: str) -> Any:
    try:
        return load(model, device)
    except (AssertionError, RuntimeError) as error:  # what torch raises for a device that is not there
        raise UserError(f"cannot use device '{device}': {str(error).splitlines()[0]}") from None


def console() -> "Console":
    """Where tables go: standard output."""
    from rich.console import Console

    return Console()


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, ensure_ascii=False))


def write_text(path: Path, text: str) -> None:
    """Write a file, which is there once it is whole."""
    beside = path.with_name(path.name + ".partial")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.rename(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
