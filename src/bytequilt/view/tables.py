"""Descriptions and results of models as tables for a terminal."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .glyphs import harmless
from .report import si

if TYPE_CHECKING:
    from ..config import MambaConfig, StackConfig
    from ..info import Description

ENTROPIES = ("threshold", "rise")
"""Fields of a rule that are in nats in files and in bits on the screen."""
RAW = 8
"""Bits per byte of a text that is stored uncompressed."""
MODULES = ("encoder", "latent", "decoder", "hash", "entropy", "embedding", "body", "head")
NETWORKS = {"blt": "the BLT", "entropy": "the entropy model"}


def evaluations(results: Mapping[str, Any]) -> Iterator[RenderableType]:
    """All tables of the results of `bytequilt eval`. `results` is the document of `--json`."""
    if "files" in results:
        yield evaluation(results)
    if "noise" in results:
        yield noises(results["noise"])
    for key, part in results.items():
        kind, _, under = key.partition(" ")
        if kind in ("answers", "harness"):
            show = answers if kind == "answers" else harness
            yield show(part, f" {under}" if under else "")


def evaluation(results: Mapping[str, Any]) -> RenderableType:
    """Bits per byte of each file and of all files, from the document of `bytequilt eval --json`."""
    table = _table("file", "bytes", "bits per byte")
    for file in results["files"]:
        table.add_row(harmless(file["path"]), f"{file['bytes']:,}", f"{file['bpb']:.4f}")
    if len(results["files"]) > 1:
        table.add_section()
        table.add_row("all", f"{results['bytes']:,}", f"{results['bpb']:.4f}", style="bold")
    notes = [f"{patch:.2f} bytes per patch"] if (patch := results["mean_patch_bytes"]) else []
    if results.get("context"):
        notes.append(f"context of at most {results['context']:,}")
    if any(file["bpb"] > RAW for file in results["files"]):
        notes.append(f"a raw byte takes {RAW} bits: where it needs more, the model has not learnt such text")
    return Group(table, Text(f" {' · '.join(notes)}", "dim")) if notes else table


def noises(results: Mapping[str, Any]) -> RenderableType:
    """Bits per byte of a clean text and under each kind of noise, per byte of the noisy and of the clean text."""
    table = _table("noise", "bytes", "bits per byte", "per clean byte", "bytes per patch")
    for name, row in results.items():
        patch = row["mean_patch_bytes"]
        costs = f"{row['bpb']:.4f}", f"{row['bits_per_clean_byte']:.4f}", f"{patch:.2f}" if patch else ""
        table.add_row(name, f"{row['bytes']:,}", *costs)
    return table


def answers(results: Mapping[str, Any], under: str = "") -> RenderableType:
    """Accuracy in each task, beside that of a constant answer and of copying the question; then means by level. `under`
    is " under NOISE" or empty."""
    columns = ("right", "+-", "constant", "copy", "no answer", "likelier")
    table = _table(f"task{under}", *columns)
    for name, row in results["tasks"].items():
        likelier = row["likelihood"]
        table.add_row(name, *_shares(row), f"{likelier['accuracy']:.1%}" if likelier else "")
    table.add_section()
    for level, row in results["means"].items():
        table.add_row(f"mean of {level}", *_shares(row), "", style="bold")
    return table


def _shares(row: Mapping[str, float]) -> list[str]:
    return [f"{row[key]:.1%}" for key in ("accuracy", "stderr", "constant", "copy", "unparsed")]


def harness(results: Mapping[str, Any], under: str = "") -> RenderableType:
    """Metrics of tasks and task groups of lm-evaluation-harness."""
    table = _table(f"task{under}", "shots", "items", "metric", "value", "+-")
    for name, row in results["tasks"].items():
        asked = ["" if row[key] is None else f"{row[key]:,}" for key in ("shots", "items")]
        for metric, value in row["metrics"].items():
            spread = "" if value["stderr"] is None else f"{value['stderr']:.4f}"
            table.add_row(harmless(name), *asked, metric, f"{value['value']:.4f}", spread)
            name, asked = "", ["", ""]
    return Group(table, Text(f" lm-evaluation-harness {results['lm_eval']}", "dim"))


def languages(rows: Sequence[Mapping[str, Any]], scripts: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Costs of each language, lowest bits per byte first, and of each script. `rows` is the document of `languages
    --json`, `scripts` are its sums by script.

    Columns with a cross (×) are ratios to the English edition.
    """
    tokenizers = list(rows[0]["tokens"])
    premiums = ("bytes", "patches", *tokenizers)
    costs = ("bits/\nbyte", "bytes/\npatch", "cuts\ninside", *tokenizers, *(f"×\n{name}" for name in premiums))
    own = _table("language", "script", *costs, names=True)
    for row in sorted(rows, key=lambda row: (row["bpb"] is None, row["bpb"], row["name"])):
        own.add_row(harmless(row["name"]), row["script"], *_costs(row, tokenizers))
    together = _table("script", "editions", *costs, names=True)
    for row in scripts:
        together.add_row(row["script"], str(row["editions"]), *_costs(row, tokenizers))
    return Group(own, together)


def _costs(row: Mapping[str, Any], tokenizers: Sequence[str]) -> list[str]:
    cuts = "" if row["patches"] is None else f"{row['cuts_inside'] / max(row['patches'], 1):.0%}"
    premiums = row["premiums"] or {"tokens": {}}
    shown = [row["bpb"], row["mean_patch_bytes"], *(row["bytes_per_token"][name] for name in tokenizers)]
    shown += [premiums.get("bytes"), premiums.get("patches"), *(premiums["tokens"].get(name) for name in tokenizers)]
    means = ["" if value is None else f"{value:.2f}" for value in shown]
    return [*means[:2], cuts, *means[2:]]


def scripts(report: Mapping[str, Any]) -> RenderableType:
    """Patches by script, and by file if there are several, from the document of `bytequilt patch --report --json`."""
    table = _table("script", "bytes", "bytes/patch", "chars/patch", "bits/patch", "longest", "cuts inside")
    for row in report["scripts"]:
        table.add_row(row["script"], *_per_patch(row))
    if len(report["scripts"]) > 1:
        table.add_section()
        table.add_row("all", *_per_patch(report["all"]), style="bold")
    if len(report["files"]) > 1:
        table.add_section()
        for row in report["files"]:
            table.add_row(harmless(Path(row["path"]).name), *_per_patch(row))
    return table


def _per_patch(row: Mapping[str, Any]) -> list[str]:
    means = [row[f"{kind}_per_patch"] for kind in ("bytes", "characters", "bits")]
    shown = ["" if mean is None else f"{mean:.2f}" for mean in means]
    return [f"{row['bytes']:,}", *shown, f"{row['longest']:,}", f"{row['cuts_inside'] / max(row['patches'], 1):.0%}"]


def comparison(results: Mapping[str, Any]) -> RenderableType:
    """Test bits per byte of each model of a study at each size, from the document of `bytequilt compare --json`."""
    table = _table("model", "size", "seed", "bits per byte", "training FLOPs", "FLOPs per byte", "seconds")
    for row in (row for row in results["rows"] if not row["search"]):
        costs = si(row["train_flops"]), si(row["flops_per_byte"]["total"]), f"{row['seconds']:,.0f}"
        table.add_row(row["model"], row["size"], str(row["seed"]), f"{row['test_bpb']:.4f}", *costs)
    return table


def patchers(results: Mapping[str, Any]) -> RenderableType:
    """A distilled patcher beside the entropy model that it replaces, from the document of `bytequilt distill
    --json`."""
    table = _table("patcher", "bits per byte", "bytes per patch", "microseconds per byte")
    for side, name in (("full", "entropy model"), ("lean", results["kind"])):
        row = results[side]
        costs = f"{row['mean_patch_bytes']:.2f}", f"{row['microseconds_per_byte']:.0f}"
        table.add_row(name, f"{row['bpb']:.4f}", *costs)
    note = (
        f" {results['same_decisions']:.1%} of decisions agree; of the entropy model's boundaries "
        f"{results['boundaries_found']:.1%} are found, and {results['boundaries_right']:.1%} of those found are its own"
    )
    return Group(table, Text(note, "dim"))


def description(described: "Description") -> RenderableType:
    """The modules of a model with shapes, parameters and FLOPs, for `bytequilt info`."""
    parameters, flops, shapes = described.parameters, described.flops_per_byte, _shapes(described)
    table = _table("module", "shape", "parameters", "FLOPs per byte")
    table.columns[1].justify = "left"
    for name in MODULES:
        if parameters.get(name):
            cost = si(flops[name]) if flops.get(name) else ""
            table.add_row(name, shapes.get(name, ""), f"{parameters[name]:,}", cost)
    table.add_section()
    scope = "" if described.baseline else "parameters without the entropy model"
    total = si(flops["total"]) if flops else ""
    table.add_row("all", scope, f"{parameters['total']:,}", total, style="bold")
    if tables := parameters.get("hash"):
        table.add_row("", "the same without the n-gram tables", f"{parameters['total'] - tables:,}", "")
    return Group(table, *(Text(f" {note}", "dim") for note in _notes(described)))


def decoding(results: Mapping[str, Any]) -> RenderableType:
    """Decoding speed of each setting, from the document of `bytequilt bench decode --json`."""
    table = _table("prompt", "output", "rows", "B/s", "ms", "p95", "prefill", "latent", "patch", "MiB", "floor")
    table.columns[0].justify = "right"
    for row in results["settings"]:
        patch = row["mean_patch_bytes"]
        table.add_row(
            *(f"{row[name]:,}" for name in ("prompt", "output", "rows")),
            f"{row['bytes_per_s']:,.0f}",
            f"{row['ms_per_byte_p50']:.3f}",
            f"{row['ms_per_byte_p95']:.3f}",
            f"{row['prefill_bytes_per_s']:,.0f}",
            f"{row['latent_calls_per_byte']:.3f}",
            f"{patch:.2f}" if patch else "-",
            f"{row['peak_mib']:,.0f}",
            f"{row['times_floor']:.1f} x",
        )
    notes = [
        f"{results['machine']}, {results['threads']} thread(s)",
        "ms: the median step, a byte of each row; prefill: B/s; latent: calls per byte; patch: bytes",
        f"floor: the mean step over the time its weights take to be read at {results['read_gb_per_s']:.1f} GB/s",
    ]
    if guessed := results.get("speculation"):
        passed = f"{guessed['acceptance']:.0%}" if guessed["acceptance"] is not None else "none"
        notes.append(
            f"speculate {guessed['speculate']}: {guessed['bytes_per_s']:,.0f} B/s, {guessed['gain']:.2f} times plain; "
            f"{passed} of the guesses passed; {guessed['latent_calls_per_byte']:.3f} latent and "
            f"{guessed['decoder_calls_per_byte']:.2f} decoder calls per byte"
        )
    return Group(table, *(Text(f" {note}", "dim") for note in notes))


def side_by_side(results: Mapping[str, Any]) -> RenderableType:
    """Speed of a model, or of a model and a peer, from the document of `bytequilt bench train --json` and others."""
    table = _table("side", "setting", "B/s", "slowest", "fastest", "B/processor s", "parameters")
    notes = [f"{results['machine']}, {results['threads']} thread(s), median of {results['repeats']} turns"]
    for row in results["settings"]:
        setting = ", ".join(f"{name} {row[name]:,}" for name in row if name not in ("sides", "ratio"))
        for side in row["sides"]:
            speeds = (f"{side[name]:,.0f}" for name in ("bytes_per_s", "min", "max", "bytes_per_cpu_s"))
            table.add_row(side["side"], setting, *speeds, f"{side['parameters']:,}")
        if ratio := row.get("ratio"):
            processor, clock = (f"{r['median']:.2f} ({r['min']:.2f} to {r['max']:.2f})" for r in ratio.values())
            notes.append(f"{setting}: {processor} times {results['peer']} in processor seconds, {clock} by the clock")
    return Group(table, *(Text(f" {note}", "dim") for note in notes))


def _table(*columns: str, names: bool = False) -> Table:
    """An empty table. With `names`, the first column has one line per row, and a long name is truncated."""
    table = Table(box=None, padding=(0, 1 if names else 2, 0, 0), header_style="dim", pad_edge=False)
    for at, column in enumerate(columns):
        table.add_column(column, justify="right" if at else "left", overflow="fold")
    if names:
        first = table.columns[0]
        first.no_wrap, first.overflow, first.width = True, "ellipsis", 14
    return table


def _shapes(described: "Description") -> dict[str, str]:
    """The shape of each module in words, by module name."""
    if described.baseline:
        return {"body": _stack(described.baseline.network)}
    shapes = {}
    if blt := described.blt:
        shapes = {name: _stack(getattr(blt, name)) for name in ("encoder", "latent", "decoder")}
        shapes["hash"] = f"{blt.hash.tables} x {blt.hash.rows:,} rows of n-grams"
    if entropy := getattr(described.config, "entropy", None):
        shapes["entropy"] = _stack(entropy)
    return shapes


def _stack(stack: "StackConfig | MambaConfig") -> str:
    heads, window = getattr(stack, "heads", None), getattr(stack, "window", None)
    words = [f"{stack.layers} x {stack.dim}", f"{heads} heads" if heads else "", f"window {window}" if window else ""]
    return ", ".join(filter(None, words))


def _notes(described: "Description") -> list[str]:
    unit = "token" if described.baseline else "patch"
    notes = [
        f"FLOPs of a forward pass at {described.mean_unit_bytes:.4g} bytes per {unit}; training takes three times that"
    ]
    if patching := described.config.patching:
        chosen = patching.model_dump(exclude_none=True, exclude_defaults=True, exclude={"sample_bytes"})
        fields = {"kind": patching.kind} | chosen
        notes.append("patching: " + ", ".join(_field(name, value) for name, value in fields.items()))
    if described.weight_bytes:
        eight = " and ".join(NETWORKS[network] for network in described.eight_bits)
        size = f"weights take {described.weight_bytes / 1e6:,.1f} MB on disk"
        notes.append(f"{size}; those of {eight} are stored in eight bits" if eight else size)
    return notes


def _field(name: str, value: Any) -> str:
    if name in ENTROPIES:
        return f"{name} {value / math.log(2):.4g} bits"
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
