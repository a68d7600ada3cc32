"""What a report leads with: each BLT against the best baseline, by budget and matching, with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

from .evidence import ahead
from .markdown import grid

PLOT = "difference-to-the-best.svg"
RULE = """\
A BLT is called **ahead** at a size only where the 95 % interval of its difference to the best baseline lies below zero
under both matchings: equal training FLOPs, and also equal total parameters. Intervals are of documents, drawn again in
pairs, and of seeds, whose variance is pooled over the models of a size. Baselines are all models that are no BLT."""
NO_INTERVALS = "No difference below has an interval: no model of a size has a second seed. Nobody is called ahead."
ONE_SIDED = (
    "**One seed each, and n-gram tables on one side alone**: only the BLTs have tables of hashed n-grams. So these "
    "results do not show that patches are better or worse than tokens."
)


def shown(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The differences to the best baselines that have an interval. Results before intervals have none."""
    return [line for line in results.get("differences", []) if line["best"] and line["low"] is not None]


def markdown(results: Mapping[str, Any]) -> list[str]:
    """The paragraphs."""
    lines = shown(results)
    if not lines:
        tables = any(model["patching"] for model in results["study"]["models"].values())
        baselines = any(row["model"].endswith("+ngrams") for row in results["rows"])
        return [NO_INTERVALS, *([ONE_SIDED] if tables and not baselines else [])]
    picture = f"![difference to the best baseline]({PLOT})"
    parts = ["## Against the best baseline", RULE, _table(lines), picture]
    return [*parts, *_slopes(results["fits"])]


def _table(lines: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for line in lines:
        own = [other for other in lines if (other["model"], other["size"]) == (line["model"], line["size"])]
        seeds = " and ".join(map(str, line["seeds"]))
        verdict = "ahead" if ahead(own) else ""
        value = f"{line['difference']:+.3f} ({line['low']:+.3f} to {line['high']:+.3f})"
        rows.append([line["size"], line["model"], line["matching"], line["against"], seeds, value, verdict])
    return grid(
        ["size", "model", "equal", "best baseline", "seeds", "bits per byte, 95 %", "by the rule"], rows, left=4
    )


def _slopes(fits: Sequence[Mapping[str, Any]]) -> list[str]:
    """Slopes and their differences; nothing is said outside of the sizes that were trained."""
    if not fits:
        return []
    said = (
        "Slopes b of ln bpb = a - b ln C over the sizes trained; a difference whose interval holds zero says nothing."
    )
    rows = []
    for line in fits:
        place = [line["model"], line["against"] or "", ", ".join(line["sizes"])]
        rows.append([*place, f"{line['slope']:+.4f}", f"{line['low']:+.4f} to {line['high']:+.4f}"])
    return [said, grid(["model", "minus that of", "sizes", "b", "95 %"], rows, left=3)]
