"""The plan of a run as a table."""

from typing import Any

from rich.table import Table

NAMES = {"entropy": "entropy model", "blt": "BLT", "prepare": "entropies", "report": "report", "total": "in all"}


def plan(planned: dict[str, Any]) -> Table:
    """The table: corpus, parameters, steps, memory, time."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    documents, sizes, counted = planned["documents"], planned["bytes"], planned["parameters"]
    for part, name in (("train", "to train on"), ("held_out", "held out")):
        table.add_row(name, f"{documents[part]:,} document{'s' * (documents[part] != 1)}, {sizes[part] / 1e6:,.2f} MB")
    tables = f"and {counted['tables']:,} in look-up tables"
    table.add_row("parameters", f"{counted['blt']:,} {tables}; entropy model {counted['entropy']:,}")
    for stage, steps in planned["steps"].items():
        table.add_row(f"{NAMES[stage]}", f"{steps:,} steps, {planned['trained_bytes'][stage] / 1e6:,.1f} MB in all")
    table.add_row("memory", f"{planned['memory_bytes'] / 1e9:,.2f} GB for weights, their training and activations")
    table.add_row("time", _time(planned["seconds"]))
    return table


def _time(seconds: dict[str, float] | None) -> str:
    if seconds is None:
        return "not measured: the model does not fit into the memory of this machine"
    parts = ", ".join(f"{NAMES[stage]} {duration(value)}" for stage, value in seconds.items() if stage != "total")
    return f"about {duration(seconds['total'])} on this machine ({parts})"


def duration(seconds: float) -> str:
    """A time in days, hours, minutes or seconds."""
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.0f} s"
