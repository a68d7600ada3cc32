"""The estimate of a dry run as a table."""

from typing import Any

from rich.table import Table

PARTS = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "tables": "rows of tables in use",
    "activations": "activations",
    "gathered": "weights of others",
}


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
