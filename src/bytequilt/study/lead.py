"""The sections of a report on verdicts: each BLT against the best baseline, by size and matching, with intervals; and
what follows for a user. Every sentence is built from the results."""

from collections.abc import Mapping
from typing import Any

from .choices import Progress
from .evidence import verdict
from .markdown import grid, scaled
from .recipe import Study
from .table import summary

PLOT = "difference-to-the-best.svg"
RULE = """\
Bits per byte above the best baseline, in brackets the 95 % interval: below zero the BLT is better. **ahead**: the
intervals lie below zero under both matchings, equal training FLOPs, and of those models the ones of equal total
parameters, too. **behind**: under either matching the interval lies above zero. **open**: neither. "so far": runs of
that size are missing, and a baseline among them could be better than the best of those that are done. Baselines are all
models that are no BLT. Models that only count have read the same text, and are no part of the rule. Intervals are of
documents, drawn again in pairs, and of seeds, whose variance is pooled over the models of a size. Each row stands for
itself: of twenty comparisons without any difference, one is expected to look like one."""
NO_RUNS = "No run with a full budget is done: only learning rates have been tried. Nobody is called ahead."
NO_INTERVALS = "No difference below has an interval: no model of a size has a second seed. Nobody is called ahead."
ONE_SIDED = (
    "**One seed each, and n-gram tables on one side alone**: only the BLTs have tables of hashed n-grams. So these "
    "results do not show that patches are better or worse than tokens."
)
ADVICE = {
    "ahead": "Take it where bits per byte count. {models}.",
    "open": "Bits per byte give no reason for or against it: take what is simpler or faster to you. {models}.",
    "behind": "Take the baseline, unless something else speaks for a BLT. {models}.",
}
KINDS = {
    "english": "English text",
    "russian": "Russian text",
    "code": "code",
    "multilingual": "text in many languages",
}
ELSE = """\
What else speaks for a BLT is not in this table: it needs no tokenizer, reads any bytes, and its units can be made
longer without a larger output head. Against it speaks that it has more parts: patches, tables, mostly an entropy
model."""
MATCHINGS = {"flops": "at equal FLOPs", "parameters": "and equal parameters", "bytes": "beside counts on the same text"}


def with_interval(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The differences to the best rivals that have an interval. Older results have none."""
    return [line for line in results.get("differences", []) if line["best"] and line["low"] is not None]


def plotted(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines of `with_interval` that the plot shows. Differences to counting models are left out: they may be too
    large for the scale of the plot."""
    return [line for line in with_interval(results) if line["matching"] != "bytes"]


def verdicts(study: Study, results: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """The verdict of the decision rule by (size, BLT), where a difference has an interval."""
    lines = with_interval(results)
    order, places = list(study.budgets), {(line["size"], line["model"]) for line in lines}
    return {
        (size, model): verdict(line for line in lines if (line["size"], line["model"]) == (size, model))
        for size, model in sorted(places, key=lambda key: (order.index(key[0]), list(study.models).index(key[1])))
    }


def markdown(study: Study, results: Mapping[str, Any], sizes: Mapping[str, Progress]) -> list[str]:
    """The section as a list of paragraphs."""
    lines = with_interval(results)
    if not lines:
        tables = any(model.patching for model in study.models.values())
        baselines = any(row["model"].endswith("+ngrams") for row in results["rows"])
        if all(row["search"] for row in results["rows"]):
            return [NO_RUNS]
        return [NO_INTERVALS, *([ONE_SIDED] if tables and not baselines else [])]
    picture = [f"![bits per byte above the best baseline]({PLOT})"] if plotted(results) else []
    return ["## Against the best baseline", table(study, results, sizes), *picture, RULE]


def table(study: Study, results: Mapping[str, Any], sizes: Mapping[str, Progress]) -> str:
    """A table with a line for each BLT and size, and a column for each matching."""
    lines, rows = with_interval(results), []
    for (size, model), said in verdicts(study, results).items():
        own = {line["matching"]: line for line in lines if (line["size"], line["model"]) == (size, model)}
        seeds = " and ".join(map(str, own["flops"]["seeds"])) if "flops" in own else ""
        cells = [_difference(own[matching]) if matching in own else "" for matching in MATCHINGS]
        rows.append([size, model, seeds, *cells, said + (", so far" if sizes[size].missing else "")])
    return grid(["size", "model", "seeds", *MATCHINGS.values(), "by the rule"], rows, left=7)


def _difference(line: Mapping[str, Any]) -> str:
    return f"{line['difference']:+.3f} ({line['low']:+.3f} to {line['high']:+.3f}) {line['against']}"


def slopes(results: Mapping[str, Any]) -> list[str]:
    """The section on slopes and their differences; an empty list if there are no fits."""
    if not results.get("fits"):
        return []
    said = (
        "Slopes b of ln bpb = a - b ln C over the sizes trained; a difference whose interval holds zero says nothing."
    )
    rows = []
    for line in results["fits"]:
        models_and_sizes = [line["model"], line["against"] or "", ", ".join(line["sizes"])]
        rows.append([*models_and_sizes, f"{line['slope']:+.4f}", f"{line['low']:+.4f} to {line['high']:+.4f}"])
    return ["## Slopes", said, grid(["model", "minus that of", "sizes", "b", "95 %"], rows, left=3)]


def advice(study: Study, results: Mapping[str, Any]) -> list[str]:
    """The section as a list of paragraphs, without statements on anything unmeasured; empty if no difference has an
    interval."""
    all_verdicts = verdicts(study, results)
    if not all_verdicts:
        return []
    points = []
    for outcome, text in ADVICE.items():
        models = [f"{model} at {size}" for (size, model), own in all_verdicts.items() if own == outcome]
        if models:
            points.append(f"- **{outcome.capitalize()}**: {text.format(models=', '.join(models))}")
    points += _counts(results) + _costs(study, results)
    return ["## What follows for a user", "\n".join(points), _range(results), ELSE]


def _counts(results: Mapping[str, Any]) -> list[str]:
    """A line naming the trained models that are not shown to be better than an n-gram model (or PPMd); possibly
    none."""
    lines = [line for line in with_interval(results) if line["matching"] == "bytes" and line["high"] > 0]
    if not lines:
        return []
    places = ", ".join(f"{line['against']} beside {line['model']} at {line['size']}" for line in lines)
    return [f"- **Counting is not beaten** on as much text: {places}. It needs no training at all."]


def _costs(study: Study, results: Mapping[str, Any]) -> list[str]:
    """Seconds and FLOPs of each BLT as multiples of the best baseline's, at equal training FLOPs."""
    quantities, points = summary(results["rows"]), []
    for field, words in {"seconds": "Seconds of training", "inference_flops": "FLOPs per byte of inference"}.items():
        ratios = []
        for line in with_interval(results):
            if line["matching"] == "flops":
                own, other = (quantities[line[name], line["size"]][field].mean for name in ("model", "against"))
                ratios.append(f"{own / other:.2f} ({line['model']} at {line['size']})")
        points.append(f"- **{words}**, as multiples of the best baseline's: {', '.join(ratios)}.")
    return points


def _range(results: Mapping[str, Any]) -> str:
    """The range of model sizes, text amounts and text kinds for which the advice is valid."""
    rows = [row for row in results["rows"] if not row["search"] and row["train_flops"]]
    parameters, text = ([row[field] for row in rows] for field in ("parameters", "trained_bytes"))
    sizes = " to ".join(dict.fromkeys(scaled(end(parameters)) for end in (min, max)))
    amounts = " to ".join(dict.fromkeys(scaled(end(text), "B") for end in (min, max)))
    kind = KINDS[rows[0]["corpus"]]
    return (
        f"All this is of models of {sizes} parameters, trained on {amounts} of {kind}. Of larger models, more text or "
        "other text it says nothing."
    )
