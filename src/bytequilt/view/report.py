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
    """The report of a training run, from the document of `bytequilt train --json`: bits per byte beside compressors,
    patch lengths, speed, and a sample."""
    lengths = f"{report['mean_patch_bytes']:.2f} on average"
    counts = {int(length): count for length, count in report["patch_histogram"].items()}
    speed, flops = si(report["bytes_per_second"]), si(report["flops_per_byte"])
    facts = f"{report['steps']:,} steps · {speed}B/s · {flops}FLOPs per byte"
    measured = Group(
        _section("bits per byte, held out", "less is better", _bars(report)),
        _section("bytes per patch", lengths, _columns(counts)),
        Text(facts, "dim"),
    )
    if "example" in report:  # which shows the same text as the sample, or one that says more
        last = _panel("a held-out prompt, before and after", _example(report["example"]))
    else:
        last = _panel("generated", Text(harmless(report["sample"]).strip("\n")))
    paragraph = coloured(PatchedText.from_json(report["paragraph"]))
    return Group(_panel("[bold]bytequilt", measured), _panel("held-out text", paragraph), last)


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


def _bars(report: Mapping) -> Table:
    rows = [("BLT", report["bpb"], BITS[2], "bold")]
    rows += [(name, report[key], "dim", "") for key, name in RIVALS if key in report]
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
    """The shares of patches with 1, 2, ... bytes: at most `most` numbers. The last one includes all longer patches."""
    total = sum(counts.values())
    out = [0.0] * min(most, max(counts))
    for length, count in counts.items():
        out[min(length, len(out)) - 1] += count / total
    return out


def si(value: float) -> str:
    for scale, prefix in UNITS:
        if value >= scale:
            return f"{value / scale:.3g} {prefix}"
    return f"{value:.3g} "
