"""The report of a training run for a terminal."""

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from .glyphs import harmless
from .legend import BITS
from .patched import PatchedText
from .terminal import coloured

WIDTH = 76
BAR = 46
HISTOGRAM = 16
EIGHTHS = " ▁▂▃▄▅▆▇█"
RIVALS = (("entropy_model_bpb", "entropy model"), ("xz_bpb", "xz -9"), ("gzip_bpb", "gzip -9"))
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def report(report: Mapping) -> RenderableType:
    """The report of a training run: bits per byte beside compressors, patch lengths, speed, and a sample.

    Keys of `report`, which may be missing or None: `bpb`, `entropy_model_bpb`, `xz_bpb`, `gzip_bpb` (bits per byte),
    `patch_histogram` (number of patches by length in bytes), `mean_patch_bytes`, `steps`, `bytes_per_second`,
    `flops_per_byte` (forward), `paragraph` (the `json` of a PatchedText), `sample` (text), `example` (texts: `prompt`,
    `wanted`, `before`, `after`).
    """
    values = {key: value for key, value in report.items() if value is not None}
    parts: list[RenderableType] = []
    if "bpb" in values:
        parts.append(_section("bits per byte, held out", "less is better", _bars(values)))
    if values.get("patch_histogram"):
        counts = {int(length): count for length, count in values["patch_histogram"].items()}
        average = values.get("mean_patch_bytes", mean(counts))
        parts.append(_section("bytes per patch", f"{average:.2f} on average", _columns(counts)))
    if facts := _facts(values):
        parts.append(Text(" · ".join(facts), "dim"))
    screens: list[RenderableType] = []
    if parts:
        screens.append(_panel("[bold]bytequilt", Group(*parts)))
    if values.get("paragraph"):
        screens.append(_panel("held-out text", coloured(PatchedText.from_json(values["paragraph"]))))
    if values.get("sample") and not values.get("example"):  # which shows the same text, or one that says more
        screens.append(_panel("generated", Text(harmless(values["sample"]).strip("\n"))))
    if values.get("example"):
        screens.append(_panel("a held-out prompt, before and after", _example(values["example"])))
    return Group(*screens)


def _example(example: Mapping[str, str]) -> Table:
    """A table with a prompt, the wanted text, and what the model wrote before and after training."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    for name, text in example.items():
        if text:
            table.add_row(name, Text(harmless(text).strip("\n")))
    return table


def _panel(title: str, body: RenderableType) -> Panel:
    return Panel(body, title=title, border_style="dim", width=WIDTH, padding=(1, 2))


def _section(title: str, note: str, body: RenderableType) -> RenderableType:
    head = Text.assemble((title, "bold"), "  ", (note, "dim"))
    return Padding(Group(head, Text(), body), (0, 0, 1, 0))


def _bars(values: Mapping) -> Table:
    rows = [("BLT", values["bpb"], BITS[2], "bold")]
    rows += [(name, values[key], "dim", "") for key, name in RIVALS if key in values]
    worst = max(value for _, value, _, _ in rows)
    table = Table.grid(padding=(0, 2))
    for name, value, hue, style in rows:
        halves = round(2 * BAR * value / worst) if worst else 0
        bar = "━" * (halves // 2) + "╸" * (halves % 2)
        table.add_row(Text(name, style), Text(f"{value:.3f}", style), Text(bar, hue))
    return table


def _columns(counts: Mapping[int, int]) -> Text:
    """A bar chart of patch lengths, three lines high. The last bar includes all longer patches."""
    parts = shares(counts, HISTOGRAM)
    heights = [round(24 * part / max(parts)) or (part > 0) for part in parts]
    text = Text()
    for floor in (16, 8, 0):
        text.append(" ".join(EIGHTHS[max(0, min(8, height - floor))] * 3 for height in heights) + "\n", BITS[2])
    labels = [str(length) for length in range(1, len(parts) + 1)]
    if max(counts) > len(parts):
        labels[-1] += "+"
    text.append(" ".join(f"{label:^3}" for label in labels), "dim")
    return text


def shares(counts: Mapping[int, int], most: int) -> list[float]:
    """The shares of patches with 1, 2, ... bytes: at most `most` numbers. The last one includes all longer patches.

    `counts` maps a length in bytes to a number of patches. Raises ValueError if there are no patches.
    """
    total = sum(counts.values())
    if total <= 0 or min(counts) < 1:
        raise ValueError("a histogram needs at least one patch, of at least one byte")
    out = [0.0] * min(most, max(counts))
    for length, count in counts.items():
        out[min(length, len(out)) - 1] += count / total
    return out


def mean(counts: Mapping[int, int]) -> float:
    """Mean bytes per patch."""
    return sum(length * count for length, count in counts.items()) / sum(counts.values())


def _facts(values: Mapping) -> list[str]:
    facts = []
    if "steps" in values:
        facts.append(f"{values['steps']:,} steps")
    if "mean_patch_bytes" in values and not values.get("patch_histogram"):
        facts.append(f"{values['mean_patch_bytes']:.2f} bytes per patch")
    if "bytes_per_second" in values:
        facts.append(f"{si(values['bytes_per_second'])}B/s")
    if "flops_per_byte" in values:
        facts.append(f"{si(values['flops_per_byte'])}FLOPs per byte")
    return facts


def si(value: float) -> str:
    for scale, prefix in UNITS:
        if value >= scale:
            return f"{value / scale:.3g} {prefix}"
    return f"{value:.3g} "
