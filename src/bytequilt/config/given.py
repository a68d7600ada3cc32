"""Checks of values from Python callers. Numbers of numpy and torch and paths of pathlib are accepted."""

import math
import operator
import os
from pathlib import Path
from typing import Any, TypeVar

from .base import UserError

Kind = TypeVar("Kind")
NEVER = 2**63  # the default upper bound; messages do not mention it


def as_path(path: Any) -> Path:
    """Convert a str, bytes or path object to a Path. Raises UserError for other types, empty paths and NUL bytes."""
    if not isinstance(path, str | bytes | os.PathLike):
        raise UserError(f"a path must be a str or a Path, not {type(path).__name__}")
    text = os.fsdecode(path)
    if not text or "\0" in text:
        raise UserError("a path must not be empty" if not text else "a path must not hold a NUL byte")
    return Path(text)


def as_kind(name: str, value: Any, kind: type[Kind]) -> Kind:
    """Return the value unchanged if it is an instance of `kind`. Raises UserError otherwise."""
    if not isinstance(value, kind):
        raise UserError(f"{name} must be a {kind.__name__}, not {type(value).__name__}")
    return value


def as_whole(name: str, number: Any, least: int, most: int = NEVER) -> int:
    """Return a whole number from `least` to `most` as an int. Raises UserError for anything else."""
    value = whole(number, least, most)
    if value is None:
        bounds = f"at least {least}" + (f" and at most {most:,}" if most < NEVER else "")
        raise UserError(f"{name} must be a whole number of {bounds}, not {repr(number)[:60]}")
    return value


def as_real(name: str, number: Any, least: float, most: float) -> float:
    """Return a finite number from `least` to `most` as a float. Raises UserError for anything else."""
    value = real(number, least, most)
    if value is None:
        raise UserError(f"{name} must be a number of {least:g} to {most:g}, not {repr(number)[:60]}")
    return value


def truth(value: Any) -> bool | None:
    """A boolean of Python or numpy as a bool; None for anything else."""
    return bool(value) if type(value).__name__ in ("bool", "bool_") else None


def whole(number: Any, least: int, most: int = NEVER) -> int | None:
    """A whole number of Python, numpy or torch as an int; None for anything else or out of bounds."""
    try:
        value = operator.index(number)
    except (TypeError, ValueError, RuntimeError):
        return None
    return value if truth(number) is None and least <= value <= most else None


def real(number: Any, least: float, most: float) -> float | None:
    """A finite number of Python, numpy or torch as a float; None for anything else or out of bounds."""
    if isinstance(number, str | bytes | None) or truth(number) is not None:
        return None
    try:
        value = float(number)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    return value if math.isfinite(value) and least <= value <= most else None
