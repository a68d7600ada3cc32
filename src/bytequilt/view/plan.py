"""The plan of a run, and the estimate of a dry run, as tables."""

from typing import Any

from rich.table import Table

NAMES = {"entropy": "entropy model", "blt": "BLT", "prepare": "entropies", "report": "report", "total": "in all"}
PARTS = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "tables": "rows of tables in use",
    "activations": "activations",
    "gathered": "weights of others",
}


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


def dry(estimate: dict[str, Any]) -> Table:
    """Memory of each GPU, then the time and energy of the whole run."""
    memory, world = estimate["per_gpu"], estimate["world"]
    table = Table(title=f"{world} x {estimate['gpu']}, shard {estimate['shard']}", show_header=False, box=None)
    for name, words in PARTS.items():
        note = "blocks are recomputed" if name == "activations" and estimate["recomputed"] else ""
        table.add_row(words, f"{memory[name] / 1e9:,.2f} GB", note)
    verdict = "fits" if estimate["fits"] else "does not fit: fewer rows, checkpoint_activations, shard full, more GPUs"
    table.add_row("peak of a GPU", f"{memory['peak'] / 1e9:,.2f} GB", f"of {memory['limit'] / 1e9:,.0f} GB: {verdict}")
    table.add_row("sent a step", f"{estimate['sent_per_step'] / 1e9:,.1f} GB", "")
    step = f"{estimate['step_bytes'] / 1e6:,.1f} MB each"
    table.add_row("steps", f"{estimate['steps']:,}", f"{step}, {estimate['bytes'] / 1e9:,.1f} GB in all")
    hours = f"{estimate['gpu_hours']:,.0f} GPU-hours"
    at = f"at {estimate['mfu']:.0%} of the peak, an assumption; {estimate['flops_per_byte'] / 1e9:.2f} GFLOP a byte"
    table.add_row("training", hours, at)
    table.add_row("", f"{estimate['days']:,.1f} days", f"{estimate['mwh']:,.1f} MWh")
    table.add_row("scoring the corpus", f"{estimate['scoring_gpu_hours']:,.0f} GPU-hours", "once, by the entropy model")
    for run in estimate["reported"]:
        hours = f"{run['h100_hours_per_trillion_tokens']:,} H100-hours"
        table.add_row("reported, 1 T tokens", hours, run["run"])
    return table
