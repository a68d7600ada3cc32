"""What a model is, and what it scored, as tables for a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .glyphs import harmless
from .terminal import si

MODULES = ("encoder", "latent", "decoder", "hash", "entropy")


def evaluation(found: Mapping[str, Any]) -> RenderableType:
    """Bits per byte of each file, and of all of them: what `bytequilt eval --json` prints."""
    table = _table("file", "bytes", "bits per byte")
    for file in found["files"]:
        table.add_row(harmless(file["path"]), f"{file['bytes']:,}", f"{file['bpb']:.4f}")
    if len(found["files"]) > 1:
        table.add_section()
        table.add_row("all", f"{found['bytes']:,}", f"{found['bpb']:.4f}", style="bold")
    return Group(table, Text(f" {found['mean_patch_bytes']:.2f} bytes per patch", "dim"))


def description(found: Mapping[str, Any]) -> RenderableType:
    """Modules of a model with their shapes, parameters and FLOPs: what `bytequilt info --json` prints."""
    parameters, flops, config = found["parameters"], found["flops_per_byte"], found["config"]
    blt = config.get("blt") or config.get("model") or {}
    shapes = {**blt, "entropy": config.get("entropy")}
    table = _table("module", "shape", "parameters", "FLOPs per byte")
    table.columns[1].justify = "left"
    for name in MODULES:
        if parameters[name]:
            cost = f"{si(flops[name])}" if flops.get(name) else ""
            table.add_row(name, _shape(shapes.get(name)), f"{parameters[name]:,}", cost)
    table.add_section()
    total = si(flops["total"]) if flops else ""
    table.add_row("all", "parameters without the entropy model", f"{parameters['total']:,}", total, style="bold")
    notes = [
        f"FLOPs of a forward pass at {found['mean_patch_bytes']:g} bytes per patch; training takes three times that"
    ]
    if patching := config.get("patching"):
        words = {key: _plain(value) for key, value in patching.items() if key != "sample_bytes"}
        notes.append("patching: " + ", ".join(f"{key} {word}" for key, word in words.items()))
    return Group(table, *(Text(f" {note}", "dim") for note in notes))


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for at, column in enumerate(columns):
        table.add_column(column, justify="right" if at else "left", overflow="fold")
    return table


def _shape(config: Mapping[str, Any] | None) -> str:
    """One line for a stack, or for the hash tables."""
    if not config:
        return ""
    if "rows" in config:
        tables = len(config["sizes"]) * config["functions"]
        return f"{tables} x {config['rows']:,} rows of n-grams"
    words = f"{config['layers']} x {config['dim']}, {config['heads']} heads"
    return f"{words}, window {config['window']}" if config.get("window") else words


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
