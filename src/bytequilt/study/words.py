"""How a report puts numbers, lists and tables into Markdown."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..view.report import si
from .table import Spread

WIDTH = 120


def wrapped(text: str) -> str:
    """A paragraph, or an item of a list, in lines of a readable width."""
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def grid(columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table, the first columns of which read from the left."""
    rule = ["---" if at < left else "---:" for at in range(len(columns))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [columns, rule, *rows])


def listed(names: Sequence[str], last: str = "and") -> str:
    """a; a and b; a, b and c."""
    head, tail = ", ".join(names[:-1]), "".join(names[-1:])
    return f"{head} {last} {tail}" if head else tail


def scaled(value: float, unit: str = "") -> str:
    """Three digits and a prefix, or a power of ten where prefixes end."""
    value = float(f"{value:.3g}")  # 999,999 is 1 M
    return (f"{value:.3g} {unit}" if value >= 1e15 else f"{si(value)}{unit}").rstrip()


def seconds(value: float) -> str:
    """Whole seconds, or three digits of few."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def amount(budget: Mapping[str, float]) -> str:
    """What a budget allows."""
    ((kind, value),) = budget.items()
    match kind:
        case "flops":
            return f"{scaled(value, 'FLOPs')} of training"
        case "bytes":
            return f"{scaled(value, 'B')} of training text"
        case _:
            return f"{seconds(value)} seconds of training"


def ranged(spread: Spread, digits: int) -> str:
    """A mean, and the range behind it where there are several seeds."""
    mean = f"{spread.mean:.{digits}f}"
    return mean if spread.count == 1 else f"{mean} ({spread.low:.{digits}f} to {spread.high:.{digits}f})"


def named(path: str) -> str:
    """A file by its name and folder, since where it lay says nothing to others."""
    return f"`{'/'.join(Path(path).parts[-2:])}`"


def settings(fields: Mapping[str, Any]) -> str:
    """Fields and their values; those not given are left out."""
    given = {name: value for name, value in fields.items() if value is not None}
    return ", ".join(f"`{name} = {_value(value)}`" for name, value in given.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{name} = {_value(inner)}' for name, inner in value.items() if inner is not None)} }}"
    return f"{value:g}" if isinstance(value, float) else str(value)
