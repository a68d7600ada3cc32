"""What a model is, and what it scored, as tables for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .glyphs import harmless
from .terminal import si

RAW = 8
"""Bits of a byte that nothing is known of."""
MODULES = ("encoder", "latent", "decoder", "hash", "entropy", "embedding", "body", "head")


def evaluation(found: Mapping[str, Any]) -> RenderableType:
    """Bits per byte of each file, and of all of them: what `bytequilt eval --json` prints."""
    table = _table("file", "bytes", "bits per byte")
    for file in found["files"]:
        table.add_row(harmless(file["path"]), f"{file['bytes']:,}", f"{file['bpb']:.4f}")
    if len(found["files"]) > 1:
        table.add_section()
        table.add_row("all", f"{found['bytes']:,}", f"{found['bpb']:.4f}", style="bold")
    notes = [f"{patch:.2f} bytes per patch"] if (patch := found["mean_patch_bytes"]) else []
    if any(file["bpb"] > RAW for file in found["files"]):
        notes.append(f"above {RAW} bits a byte is cheaper as it stands: the model has not learnt such text")
    return Group(table, Text(f" {' · '.join(notes)}", "dim")) if notes else table


def noises(found: Mapping[str, Any]) -> RenderableType:
    """Bits per byte of a text as it is and under each noise, over the bytes that were read and over the clean ones."""
    table = _table("noise", "bytes", "bits per byte", "per clean byte", "bytes per patch")
    for name, row in found.items():
        patch = row["mean_patch_bytes"]
        costs = f"{row['bpb']:.4f}", f"{row['bits_per_clean_byte']:.4f}", f"{patch:.2f}" if patch else ""
        table.add_row(name, f"{row['bytes']:,}", *costs)
    return table


def answers(found: Mapping[str, Any], under: str = "") -> RenderableType:
    """Accuracy in each task, beside that of a constant answer and of copying the question; and means by level."""
    columns = ("right", "+-", "constant", "copy", "no answer", "likelier")
    table = _table(f"task{under}", *columns)
    for name, row in found["tasks"].items():
        likelier = row["likelihood"]
        shares = [row[key] for key in ("accuracy", "stderr", "constant", "copy", "unparsed")]
        table.add_row(name, *(f"{share:.1%}" for share in shares), f"{likelier['accuracy']:.1%}" if likelier else "")
    table.add_section()
    for level, row in found["means"].items():
        shares = [row[key] for key in ("accuracy", "stderr", "constant", "copy", "unparsed")]
        table.add_row(f"mean of {level}", *(f"{share:.1%}" for share in shares), "", style="bold")
    return table


def harness(found: Mapping[str, Any], under: str = "") -> RenderableType:
    """Metrics of tasks of lm-evaluation-harness; of a group, those over its tasks."""
    table = _table(f"task{under}", "shots", "items", "metric", "value", "+-")
    for name, row in found["tasks"].items():
        asked = ["" if row[key] is None else f"{row[key]:,}" for key in ("shots", "items")]
        for metric, one in row["metrics"].items():
            spread = "" if one["stderr"] is None else f"{one['stderr']:.4f}"
            table.add_row(harmless(name), *asked, metric, f"{one['value']:.4f}", spread)
            name, asked = "", ["", ""]
    return Group(table, Text(f" lm-evaluation-harness {found['lm_eval']}", "dim"))


def languages(found: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Bits per byte, and bytes per patch beside bytes per token, of each language, the cheapest first."""
    tokenizers = list(found[0]["bytes_per_token"])
    table = _table("language", "script", "bytes", "bits per byte", "per character", "bytes per patch", *tokenizers)
    for row in sorted(found, key=lambda row: row["bpb"]):
        patch, characters = row["mean_patch_bytes"], row["bpb"] * row["bytes"] / row["characters"]
        costs = f"{row['bpb']:.3f}", f"{characters:.3f}", f"{patch:.2f}" if patch else ""
        tokens = (f"{row['bytes_per_token'][name]:.2f}" for name in tokenizers)
        table.add_row(harmless(row["name"]), row["script"], f"{row['bytes']:,}", *costs, *tokens)
    return table


def scripts(found: Mapping[str, Any]) -> RenderableType:
    """Patches by script, and by file where there are several: what `bytequilt patch --report --json` prints."""
    table = _table("script", "bytes", "bytes/patch", "chars/patch", "bits/patch", "longest", "cuts inside")
    for row in found["scripts"]:
        table.add_row(row["script"], *_per_patch(row))
    if len(found["scripts"]) > 1:
        table.add_section()
        table.add_row("all", *_per_patch(found["all"]), style="bold")
    if len(found["files"]) > 1:
        table.add_section()
        for row in found["files"]:
            table.add_row(harmless(row["path"]), *_per_patch(row))
    return table


def _per_patch(row: Mapping[str, Any]) -> list[str]:
    means = [row[f"{kind}_per_patch"] for kind in ("bytes", "characters", "bits")]
    shown = ["" if mean is None else f"{mean:.2f}" for mean in means]
    return [f"{row['bytes']:,}", *shown, f"{row['longest']:,}", f"{row['cuts_inside'] / max(row['patches'], 1):.0%}"]


def comparison(found: Mapping[str, Any]) -> RenderableType:
    """Test bits per byte of each model of a study at each size: what `bytequilt compare --json` prints."""
    table = _table("model", "size", "seed", "bits per byte", "training FLOPs", "FLOPs per byte", "seconds")
    for row in (row for row in found["rows"] if not row["search"]):
        costs = si(row["train_flops"]), si(row["flops_per_byte"]["total"]), f"{row['seconds']:,.0f}"
        table.add_row(row["model"], row["size"], str(row["seed"]), f"{row['test_bpb']:.4f}", *costs)
    return table


def patchers(found: Mapping[str, Any]) -> RenderableType:
    """A lean patcher beside the entropy model it takes the place of: what `bytequilt distill --json` prints."""
    table = _table("patcher", "bits per byte", "bytes per patch", "microseconds per byte")
    for side, name in (("full", "entropy model"), ("lean", found["kind"])):
        one = found[side]
        costs = f"{one['mean_patch_bytes']:.2f}", f"{one['microseconds_per_byte']:.0f}"
        table.add_row(name, f"{one['bpb']:.4f}", *costs)
    note = (
        f" {found['same_decisions']:.1%} of decisions agree; of the entropy model's boundaries "
        f"{found['boundaries_found']:.1%} are found, and {found['boundaries_right']:.1%} of those found are its own"
    )
    return Group(table, Text(note, "dim"))


def description(found: Mapping[str, Any]) -> RenderableType:
    """Modules of a model with their shapes, parameters and FLOPs: what `bytequilt info --json` prints."""
    parameters, flops, config = found["parameters"], found["flops_per_byte"], found["config"]
    blt = config.get("blt") or config.get("model") or {}
    baseline = config.get("baseline") or {}
    shapes = {**blt, "entropy": config.get("entropy"), "body": baseline.get("stack") or baseline.get("mamba")}
    table = _table("module", "shape", "parameters", "FLOPs per byte")
    table.columns[1].justify = "left"
    for name in MODULES:
        if parameters.get(name):
            cost = f"{si(flops[name])}" if flops.get(name) else ""
            table.add_row(name, _shape(shapes.get(name)), f"{parameters[name]:,}", cost)
    table.add_section()
    total = si(flops["total"]) if flops else ""
    whole = "" if baseline else "parameters without the entropy model"
    table.add_row("all", whole, f"{parameters['total']:,}", total, style="bold")
    size, unit = (found["mean_token_bytes"], "token") if baseline else (found["mean_patch_bytes"], "patch")
    notes = [f"FLOPs of a forward pass at {size:.4g} bytes per {unit}; training takes three times that"]
    if patching := config.get("patching"):
        words = {key: _plain(value) for key, value in patching.items() if key != "sample_bytes"}
        notes.append("patching: " + ", ".join(f"{key} {word}" for key, word in words.items()))
    return Group(table, *(Text(f" {note}", "dim") for note in notes))


def decoding(found: Mapping[str, Any]) -> RenderableType:
    """Speed of decoding by setting: what `bytequilt bench decode --json` prints."""
    table = _table("prompt", "output", "rows", "B/s", "ms", "p95", "prefill", "latent", "patch", "MiB", "floor")
    table.columns[0].justify = "right"
    for one in found["settings"]:
        patch = one["mean_patch_bytes"]
        table.add_row(
            *(f"{one[name]:,}" for name in ("prompt", "output", "rows")),
            f"{one['bytes_per_s']:,.0f}",
            f"{one['ms_per_byte_p50']:.3f}",
            f"{one['ms_per_byte_p95']:.3f}",
            f"{one['prefill_bytes_per_s']:,.0f}",
            f"{one['latent_calls_per_byte']:.3f}",
            f"{patch:.2f}" if patch else "-",
            f"{one['peak_mib']:,.0f}",
            f"{one['times_floor']:.1f} x",
        )
    notes = [
        f"{found['machine']}, {found['threads']} thread(s)",
        "ms: the median step, a byte of each row; prefill: B/s; latent: calls per byte; patch: bytes",
        f"floor: the mean step over the time its weights take to be read at {found['read_gb_per_s']:.1f} GB/s",
    ]
    if guessed := found.get("speculation"):
        passed = f"{guessed['acceptance']:.0%}" if guessed["acceptance"] is not None else "none"
        notes.append(
            f"speculate {guessed['speculate']}: {guessed['bytes_per_s']:,.0f} B/s, {guessed['gain']:.2f} times plain; "
            f"{passed} of the guesses passed; {guessed['latent_calls_per_byte']:.3f} latent and "
            f"{guessed['decoder_calls_per_byte']:.2f} decoder calls per byte"
        )
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
    heads = f", {config['heads']} heads" if "heads" in config else ""
    words = f"{config['layers']} x {config['dim']}{heads}"
    return f"{words}, window {config['window']}" if config.get("window") else words


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
