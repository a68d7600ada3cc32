"""Patches and reports in a terminal, dark or light."""

from collections.abc import Mapping

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.style import Style
from rich.table import Table
from rich.text import Text

from .glyphs import Glyph, glyphs, harmless
from .histogram import mean, shares
from .legend import BITS, colour, has_levels, summary
from .patched import PatchedText

INK = "#16181d"
WIDTH = 76
BAR = 46
HISTOGRAM = 16
EIGHTHS = " ▁▂▃▄▅▆▇█"
RIVALS = (("entropy_model_bpb", "entropy model"), ("xz_bpb", "xz -9"), ("gzip_bpb", "gzip -9"))
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def coloured(patched: PatchedText) -> Text:
    """The text with a background for each patch, by the entropy that opened it, and a line of legend below."""
    text = Text()
    for index, part in enumerate(_by_patch(patched)):
        style = Style(color=INK, bgcolor=_tint(colour(patched.patches[index]), 0.62 if index % 2 else 0.36))
        text.append("".join(map(_shown, part)), style)
    _newline(text)
    text.append(summary(patched), "dim")
    if has_levels(patched):
        text.append(" · ", "dim")
        for bits, hue in enumerate(BITS):
            last = "+" if bits == len(BITS) - 1 else ""
            text.append(f" {bits}{last}", Style(color=INK, bgcolor=_tint(hue, 0.5)))
        text.append(" bits", "dim")
    return text


def shown(patched: PatchedText) -> str:
    """The patched text as a string: coloured by ANSI codes for a terminal, otherwise with | between patches."""
    console = Console(force_jupyter=False)
    if console.color_system is None or console.no_color:
        text = Text("|".join("".join(map(_shown, part)) for part in _by_patch(patched)))
        _newline(text)
        return text.plain + summary(patched)
    with console.capture() as capture:
        console.print(coloured(patched), end="", soft_wrap=True)
    return capture.get()


def report(report: Mapping) -> RenderableType:
    """The report of a training run: bits per byte beside compressors, patch lengths, speed, and a sample.

    Keys that are missing, or None, are left out: `bpb`, `entropy_model_bpb`, `xz_bpb`, `gzip_bpb` (bits per byte),
    `patch_histogram` (patches by length in bytes), `mean_patch_bytes`, `steps`, `bytes_per_second`, `flops_per_byte`
    (forward), `paragraph` (patched text, as its `json`), `sample` (text).
    """
    found = {key: value for key, value in report.items() if value is not None}
    parts: list[RenderableType] = []
    if "bpb" in found:
        parts.append(_section("bits per byte, held out", "less is better", _bars(found)))
    if found.get("patch_histogram"):
        counts = {int(length): count for length, count in found["patch_histogram"].items()}
        average = found.get("mean_patch_bytes", mean(counts))
        parts.append(_section("bytes per patch", f"{average:.2f} on average", _columns(counts)))
    if facts := _facts(found):
        parts.append(Text(" · ".join(facts), "dim"))
    screens: list[RenderableType] = []
    if parts:
        screens.append(_panel("[bold]bytequilt", Group(*parts)))
    if found.get("paragraph"):
        screens.append(_panel("held-out text", coloured(PatchedText.from_json(found["paragraph"]))))
    if found.get("sample"):
        screens.append(_panel("generated", Text(harmless(found["sample"]).strip("\n"))))
    return Group(*screens)


# ------------------------------------------------------------------------------------------------------------ patches


def _by_patch(patched: PatchedText) -> list[list[Glyph]]:
    starts = {patch.start: index for index, patch in enumerate(patched)}
    parts: list[list[Glyph]] = []
    for glyph in glyphs(patched.data, starts):
        if glyph.start in starts:
            parts.append([])
        parts[-1].append(glyph)
    return parts


def _shown(glyph: Glyph) -> str:
    special = {"space": " ", "newline": "↵\n", "control": "·", "fragment": f"‹{glyph.shown}›", "invalid": "�"}
    return special.get(glyph.kind, glyph.shown)


def _newline(text: Text) -> None:
    if text.plain and not text.plain.endswith("\n"):
        text.append("\n")


def _tint(hue: str, strength: float) -> str:
    """A colour laid thinly on white: with dark ink on it, it reads the same on a dark and on a light terminal."""
    return "#" + "".join(f"{round(255 - strength * (255 - int(hue[at : at + 2], 16))):02x}" for at in (1, 3, 5))


# ------------------------------------------------------------------------------------------------------------- report


def _panel(title: str, body: RenderableType) -> Panel:
    return Panel(body, title=title, border_style="dim", width=WIDTH, padding=(1, 2))


def _section(title: str, note: str, body: RenderableType) -> RenderableType:
    head = Text.assemble((title, "bold"), "  ", (note, "dim"))
    return Padding(Group(head, Text(), body), (0, 0, 1, 0))


def _bars(found: Mapping) -> Table:
    rows = [("BLT", found["bpb"], BITS[2], "bold")]
    rows += [(name, found[key], "dim", "") for key, name in RIVALS if key in found]
    worst = max(value for _, value, _, _ in rows)
    table = Table.grid(padding=(0, 2))
    for name, value, hue, style in rows:
        halves = round(2 * BAR * value / worst) if worst else 0
        bar = "━" * (halves // 2) + "╸" * (halves % 2)
        table.add_row(Text(name, style), Text(f"{value:.3f}", style), Text(bar, hue))
    return table


def _columns(counts: Mapping[int, int]) -> Text:
    """A bar chart three lines high: lengths in bytes below, the last bar holds all longer patches."""
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


def _facts(found: Mapping) -> list[str]:
    facts = []
    if "steps" in found:
        facts.append(f"{found['steps']:,} steps")
    if "mean_patch_bytes" in found and not found.get("patch_histogram"):
        facts.append(f"{found['mean_patch_bytes']:.2f} bytes per patch")
    if "bytes_per_second" in found:
        facts.append(f"{si(found['bytes_per_second'])}B/s")
    if "flops_per_byte" in found:
        facts.append(f"{si(found['flops_per_byte'])}FLOPs per byte")
    return facts


def si(value: float) -> str:
    for scale, prefix in UNITS:
        if value >= scale:
            return f"{value / scale:.3g} {prefix}"
    return f"{value:.3g} "
