"""What a dry run found, as a table."""

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


def dry(found: dict[str, Any]) -> Table:
    """Memory of each GPU, then the time and energy of the whole run."""
    memory, world = found["per_gpu"], found["world"]
    table = Table(title=f"{world} x {found['gpu']}, shard {found['shard']}", show_header=False, box=None)
    for name, words in PARTS.items():
        note = "blocks are recomputed" if name == "activations" and found["recomputed"] else ""
        table.add_row(words, f"{memory[name] / 1e9:,.2f} GB", note)
    verdict = "fits" if found["fits"] else "does not fit: fewer rows, checkpoint_activations, shard full, more GPUs"
    table.add_row("peak of a GPU", f"{memory['peak'] / 1e9:,.2f} GB", f"of {memory['limit'] / 1e9:,.0f} GB: {verdict}")
    table.add_row("sent a step", f"{found['sent_per_step'] / 1e9:,.1f} GB", "")
    step = f"{found['step_bytes'] / 1e6:,.1f} MB each"
    table.add_row("steps", f"{found['steps']:,}", f"{step}, {found['bytes'] / 1e9:,.1f} GB in all")
    hours = f"{found['gpu_hours']:,.0f} GPU-hours"
    at = f"at {found['mfu']:.0%} of the peak, an assumption; {found['flops_per_byte'] / 1e9:.2f} GFLOP a byte"
    table.add_row("training", hours, at)
    table.add_row("", f"{found['days']:,.1f} days", f"{found['mwh']:,.1f} MWh")
    table.add_row("scoring the corpus", f"{found['scoring_gpu_hours']:,.0f} GPU-hours", "once, by the entropy model")
    for run in found["reported"]:
        hours = f"{run['h100_hours_per_trillion_tokens']:,} H100-hours"
        table.add_row("reported, 1 T tokens", hours, run["run"])
    return table
