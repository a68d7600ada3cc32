"""Formats numbers and tables in Markdown."""

from collections.abc import Iterable, Mapping, Sequence

from ..view.report import si


def grid(columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table; the first `left` columns are aligned to the left, the others to the right."""
    rule = ["---" if at < left else "---:" for at in range(len(columns))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [columns, rule, *rows])


def scaled(value: float, unit: str = "") -> str:
    """A number with three digits and an SI prefix (k, M, ...), in scientific notation above the largest prefix."""
    value = float(f"{value:.3g}")  # 999,999 becomes 1 M
    return (f"{value:.3g} {unit}" if value >= 1e15 else f"{si(value)}{unit}").rstrip()


def seconds(value: float) -> str:
    """Seconds without their unit: a whole number from 100 on, three significant digits below."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def amount(budget: Mapping[str, float]) -> str:
    """A budget in words."""
    ((unit, value),) = budget.items()
    return {
        "flops": f"{scaled(value, 'FLOPs')} of training",
        "bytes": f"{scaled(value, 'B')} of training text",
        "seconds": f"{seconds(value)} seconds of training",
    }[unit]
