"""Tables of a report on the study's settings, checks and progress."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..codec import VOCAB_SIZE
from ..config import BaselineConfig, BLTConfig, StackConfig
from .markdown import grid, scaled
from .recipe import Rate, Study, Sweep
from .search import HeldOutBPB, Run, held_out_bpb, learning_rate, planned, tries
from .table import Row

SPENT = {"flops": "train_flops", "bytes": "trained_bytes", "seconds": "seconds"}
"""For each unit of a budget, the field of a result that states how much of it a run used."""


def corpus(about: Row, rows: Sequence[Row]) -> str:
    """Sizes of the text parts, and the share of held-out text that also occurs in the training text."""
    scored = max((row["test_bytes"] for row in rows if not row["search"]), default=0)
    sizes = [scaled(about[part], "B") for part in ("train_bytes", "val_bytes", "test_bytes")]
    columns = ["split", "training text", "held-out text", "test text", "of it scored", "also in the training text"]
    cells = [f"`{about['split']}`", *sizes, scaled(scored, "B"), f"{about['overlap']:.2%}"]
    if "test_documents" in about:
        columns += ["test documents", "share of the largest"]
        cells += [f"{about['test_documents']:,}", f"{about['largest_test_document'] / about['test_bytes']:.1%}"]
    return grid(columns, [cells])


def networks(study: Study, rows: Sequence[Row]) -> str:
    """Vocabularies, network shapes and parameters by model and size."""
    known = {(row["model"], row["size"]): row for row in rows}
    vocabularies = {row["model"]: f"{row['vocabulary']:,}" for row in rows}
    lines = []
    for name in study.models:
        shapes = {size: _network(study.network(name, size), known.get((name, size))) for size in study.sizes(name)}
        lines.append([name, vocabularies.get(name, ""), *(shapes.get(size, "") for size in study.budgets)])
    return grid(["model", "vocabulary", *study.budgets], lines, left=2 + len(study.budgets))


def rates(study: Study, rows: Sequence[Row]) -> str:
    """Learning rates of each model with their origin; one line per size at which they are searched."""
    bpb, lines = held_out_bpb(rows), []
    for name, model in study.models.items():
        searched = study.searched_sizes(model.lr_of or name)
        for size in (size for at, size in enumerate(study.sizes(name)) if not at or size in searched):
            rate, (known_tries, best) = learning_rate(study, name, bpb, size), tries(study, name, bpb, size)
            chosen = [f"{rate.lr:g}", f"{rate.hash_lr_factor:g}"] if rate else ["", ""]
            done = sum(bpb(run) is not None for run in known_tries)
            state = f"{done} tries" if best else f"{done} of {len(known_tries)} tries or more"
            origin = f"as {model.lr_of}" if model.lr_of else "given" if model.lr else state
            lines.append([name, size, *chosen, origin, _edge(study.sweep, best)])
    return grid(["model", "size", "rate", "multiple", "origin", "at the edge of the grid"], lines, left=2)


def search(study: Study, rows: Sequence[Row]) -> str | None:
    """A table of the held-out bits per byte of all tries. It has one line per model, size and multiple
    (`hash_lr_factor`), and one column per learning rate. None if there are no lines."""
    bpb, lines = held_out_bpb(rows), []
    grid_lr = sorted(study.sweep.lr) if study.sweep else []
    searches = [(name, size) for name in study.models for size in study.searched_sizes(name)]
    for model, size in searches:
        known_tries, best = tries(study, model, bpb, size)
        by_rate = {run.rate: run for run in known_tries}
        for factor in sorted({run.rate.hash_lr_factor for run in known_tries if run.rate}):
            tried = [by_rate.get(Rate(lr, factor)) for lr in grid_lr]
            lines.append([model, size, f"{factor:g}", *(_try(run, run == best, bpb) for run in tried)])
    return grid(["model", "size", "multiple", *(f"{lr:g}" for lr in grid_lr)], lines, left=2) if lines else None


def checks(rows: Sequence[Row], machine: str, entropy_seconds_per_byte: float | None = None) -> str:
    """Results of the leak test, use of budgets, time of entropies, and the machine."""
    shares = [row[SPENT[unit]] / limit for row in rows for unit, limit in row["budget"].items()]
    lines = {
        "most that a logit moved in the leak test": f"{max(row['leak'] for row in rows):.2g}",
        "share of its budget that a run took": f"{min(shares):.1%} to {max(shares):.1%}",
        "threads": ", ".join(map(str, sorted({row["threads"] for row in rows}))),
        "machine": machine,
    }
    if entropy_seconds_per_byte:
        lines["computing entropies"] = f"{entropy_seconds_per_byte * 1e6:.1f} µs per byte, contained in the seconds"
    return grid(["check", "result"], ([name, value] for name, value in lines.items()), left=2)


@dataclass(frozen=True)
class Progress:
    """The runs of one size, counting models included, without tries."""

    planned: int
    missing: dict[str, int]
    """Number of missing runs by model."""

    @property
    def done(self) -> int:
        return self.planned - sum(self.missing.values())


def progress(study: Study, rows: Sequence[Row]) -> dict[str, Progress]:
    """The progress of each size, smallest first."""
    names = {Run.of(row).name for row in rows if not row["search"]}
    runs = [run for run in planned(study, held_out_bpb(rows)) if run.rate is None]
    runs += [Run(name, size, 0) for name, count in study.counts.items() for size in study.sizes(count.text_of)]
    sizes = {}
    for size in study.budgets:
        of_size, missing = [run for run in runs if run.size == size], dict[str, int]()
        for run in of_size:
            if run.name not in names:
                missing[run.model] = missing.get(run.model, 0) + 1
        sizes[size] = Progress(len(of_size), missing)
    return sizes


def progress_table(sizes: dict[str, Progress]) -> str:
    """A table of finished and missing runs."""
    rows = []
    for size, state in sizes.items():
        missing = ", ".join(name if count == 1 else f"{name} x {count}" for name, count in state.missing.items())
        rows.append([size, f"{state.done} of {state.planned}", missing or "none"])
    return grid(["size", "runs done", "missing"], rows, left=3)


def _try(run: Run | None, best: bool, bpb: HeldOutBPB) -> str:
    if run is None:
        return ""
    value = bpb(run)
    text = "missing" if value is None else "diverged" if value == math.inf else f"{value:.3f}"
    return f"**{text}**" if best else text


def _edge(sweep: Sweep | None, best: Run | None) -> str:
    """Names the learning rates that are the smallest or largest of their grid."""
    if sweep is None or best is None or best.rate is None:
        return ""
    grids = {"rate": (best.rate.lr, sweep.lr), "multiple": (best.rate.hash_lr_factor, sweep.hash_lr_factor)}
    at_edge = {part: len({*tried}) > 1 and value in (min(tried), max(tried)) for part, (value, tried) in grids.items()}
    return ", ".join(part for part, edge in at_edge.items() if edge)


def _network(config: BLTConfig | BaselineConfig, row: Row | None) -> str:
    """Shape (layers x width) of each stack, and number of parameters, with those of look-up tables in brackets."""
    blt = isinstance(config, BLTConfig)
    stacks: list[StackConfig] = [config.encoder, config.latent, config.decoder] if blt else [config.network]
    shape = ", ".join(f"{stack.layers} x {stack.dim}" for stack in stacks)
    if row is None:
        return shape
    ids = VOCAB_SIZE + config.hash.tables * config.hash.rows if blt else row["vocabulary"]
    looked_up = row.get("looked_up", ids * stacks[0].dim)  # older results lack the field `looked_up`
    return f"{shape}: {scaled(row['parameters'])} ({scaled(looked_up)})"
