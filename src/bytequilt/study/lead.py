"""The sections of a report on verdicts: each BLT against the best baseline, by size and matching, with intervals; and
what follows for a user. Every sentence is built from the results."""

import math
from collections.abc import Mapping
from typing import Any

from .budget import entropy_cost, entropy_ids, patcher_cost, table_cost
from .choices import Progress
from .evidence import ALIKE, verdict
from .markdown import grid, scaled
from .models import LEARN
from .recipe import Study
from .table import summary

PLOT = "difference-to-the-best.svg"
RULE = f"""\
Bits per byte above the best baseline, with the 95 % interval in brackets: below zero the BLT is better. Baselines are
all trained models except BLTs; `baselines` is the number of them that are done at that size. **ahead**: the interval
lies below zero against the best of all baselines, and also against the best of those with the same number of
parameters (within {ALIKE * 100:g} %). **behind**: one of these two intervals lies above zero. **open**: neither. "so
far": runs of that size are missing, and a missing baseline could be better. Models that only count have read about as
much text (within {ALIKE * 100:g} %), but not the same documents; the rule does not use them. Intervals come from
resampling the test documents and from the spread between seeds. They do not contain what another entropy model, another
vocabulary, another search for learning rates or other sources of text would change. Rows are not corrected for their
number. The best baseline is chosen on the test text, and no interval contains this choice. So if a BLT and all
baselines were equally good, fewer than 2.5 % of rows would be called ahead, but more than 2.5 % behind: the more
baselines there are, the more rows."""
NO_RUNS = "No run with a full budget is done: only learning rates have been tried. Nobody is called ahead."
NO_INTERVALS = "No difference below has an interval: no model of a size has a second seed. Nobody is called ahead."
ONE_SIDED = (
    "**One seed each, and n-gram tables on one side alone**: only the BLTs have tables of hashed n-grams. So these "
    "results do not show that patches are better or worse than tokens."
)
ADVICE = {
    "ahead": "Take it where bits per byte count. {models}.",
    "open": "Bits per byte give no reason for or against it: decide by seconds, FLOPs and other needs. {models}.",
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
longer without a larger output head. Against it speaks that it has more parts: patches, tables and, for most rules, an
entropy model."""
MATCHINGS = {
    "flops": "at equal FLOPs",
    "parameters": "at equal FLOPs and parameters",
    "bytes": "beside counts of as much text",
}


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
    if len(study.blts) == len(study.models):
        return _against_first(study, results)
    if not lines:
        tables = any(model.patching for model in study.models.values())
        baselines = any(row["model"].endswith("+ngrams") for row in results["rows"])
        if all(row["search"] for row in results["rows"]):
            return [NO_RUNS]
        return [NO_INTERVALS, *([ONE_SIDED] if tables and not baselines else [])]
    picture = [f"![bits per byte above the best baseline]({PLOT})"] if plotted(results) else []
    return ["## Against the best baseline", table(study, results, sizes), *picture, RULE]


def _against_first(study: Study, results: Mapping[str, Any]) -> list[str]:
    """The section of a study without baselines: each model against the first one."""
    first, rows = study.blts[0], []
    own = {(line["size"], line["model"]): line for line in results["differences"] if line["against"] == first}
    for size, model in sorted(own, key=lambda place: (list(study.budgets).index(place[0]), own[place]["difference"])):
        line = own[size, model]
        ends = "" if line["low"] is None else f" ({line['low']:+.3f} to {line['high']:+.3f})"
        seeds = " and ".join(map(str, line["seeds"]))
        rows.append([size, model, seeds, f"{line['difference']:+.3f}{ends}"])
    said = (
        f"Bits per byte above {first}, the first model of the recipe, at equal budgets, best first; in brackets the "
        "95 % interval, of test documents and seeds, where there are two seeds. No model of this study is a baseline, "
        "so the decision rule does not apply."
    )
    columns = ["size", "model", "seeds", f"above {first}"]
    return [f"## Against {first}", grid(columns, rows, left=3), said] if rows else [NO_RUNS]


def table(study: Study, results: Mapping[str, Any], sizes: Mapping[str, Progress]) -> str:
    """A table with a line for each BLT and size, and a column for each matching."""
    lines, rows, quantities = with_interval(results), [], summary(results["rows"])
    for (size, model), said in verdicts(study, results).items():
        own = {line["matching"]: line for line in lines if (line["size"], line["model"]) == (size, model)}
        seeds = " and ".join(map(str, own["flops"]["seeds"])) if "flops" in own else ""
        rivals = [name for name, at in quantities if at == size and name in study.models and name not in study.blts]
        cells = [_difference(own[matching]) if matching in own else "" for matching in MATCHINGS]
        cells += [_parameters(own["flops"], results["rows"]) if "flops" in own else ""]
        rows.append([size, model, seeds, f"{len(rivals)}", *cells, said + (", so far" if sizes[size].missing else "")])
    pair = "(BLT, best baseline at equal FLOPs)"
    columns = ["size", "model", f"seeds {pair}", "baselines", *MATCHINGS.values(), f"parameters {pair}", "by the rule"]
    return grid(columns, rows, left=len(columns))


def _parameters(line: Mapping[str, Any], rows: list[dict[str, Any]]) -> str:
    """Parameters of the BLT and of the best baseline."""
    own, other = (
        next(row["parameters"] for row in rows if (row["model"], row["size"]) == (line[name], line["size"]))
        for name in ("model", "against")
    )
    return f"{scaled(own)} and {scaled(other)}"


def _difference(line: Mapping[str, Any]) -> str:
    return f"{line['difference']:+.3f} ({line['low']:+.3f} to {line['high']:+.3f}) {line['against']}"


def slopes(results: Mapping[str, Any]) -> list[str]:
    """The section on slopes and their differences; an empty list if there are no fits."""
    if not results.get("fits"):
        return []
    budgets, done = len(results["study"]["budgets"]), max(len(line["sizes"]) for line in results["fits"])
    said = (
        "Slopes b of ln bpb = a - b ln C over the sizes trained. If an interval contains zero, no difference is shown."
    )
    said += f" Provisional: {done} of {budgets} sizes." if done < budgets else ""
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
    points += _without_largest(results, all_verdicts) + _equivalents(results) + _counts(study, results)
    points += _costs(study, results) + _uncharged(study, results)
    return ["## What follows for a user", "\n".join(points), _range(study, results), ELSE]


def _without_largest(results: Mapping[str, Any], all_verdicts: Mapping[tuple[str, str], str]) -> list[str]:
    """A line on the verdicts that would be others if the largest test document were left out."""
    changed, about = [], results["corpus"]
    for (size, model), said in all_verdicts.items():
        own = [r for r in results.get("without_largest", []) if (r["size"], r["model"]) == (size, model)]
        if own and (other := verdict(own)) != said:
            changed.append(f"{model} at {size} {other} instead of {said}, {_difference(own[0])}")
    if not results.get("without_largest"):
        return []
    share = f"{about['largest_test_document'] / about['test_bytes']:.1%} of the test text"
    outcome = f"these verdicts would be others: {'; '.join(changed)}" if changed else "all verdicts would be the same"
    return [f"- **Without the largest document**, which is {share}, {outcome}."]


def _equivalents(results: Mapping[str, Any]) -> list[str]:
    """A line with the intervals as changes of training compute, by the slope of each BLT; possibly none."""
    slope = {line["model"]: line["slope"] for line in results.get("fits", []) if not line["against"]}
    quantities, said = summary(results["rows"]), []
    for line in with_interval(results):
        if line["matching"] == "flops" and slope.get(line["model"], 0) > 0:
            scale = slope[line["model"]] * quantities[line["model"], line["size"]]["test_bpb"].mean
            low, high = (math.expm1(line[end] / scale) for end in ("low", "high"))
            said.append(f"{low:+.0%} to {high:+.0%} ({line['model']} at {line['size']})")
    if not said:
        return []
    return [
        "- **As training compute**, by the slope of the BLT, which is taken as exact: its budget would have to change "
        f"by this much until it needs as few bits as the best baseline: {', '.join(said)}. Where this range contains "
        "0 %, it is not shown that the budget would have to change."
    ]


def _counts(study: Study, results: Mapping[str, Any]) -> list[str]:
    """Lines naming the BLTs that an n-gram model or PPMd is better than with as much text, or not told apart from, and
    the counting models that need the fewest bits of all; possibly none."""
    said, lines = [], [line for line in with_interval(results) if line["matching"] == "bytes" and line["high"] > 0]
    for words, own in {
        "is better": [line for line in lines if line["low"] > 0],
        "is not told apart": [line for line in lines if line["low"] <= 0],
    }.items():
        if own:
            places = ", ".join(f"{line['against']} beside {line['model']} at {line['size']}" for line in own)
            said.append(f"- **Counting {words}** with as much text, read once and without gradients: {places}.")
    if counts := unreached(study, results):
        places = "; ".join(f"{', '.join(models)} at {size}" for size, models in counts.items())
        adapting = [name for name, count in study.counts.items() if count.kind == "ppmd"]
        learns = (
            f" {adapting[0]} goes on learning while it reads a test document; no other model does." if adapting else ""
        )
        said.append(
            f"- **These counting models need fewer bits than every trained model** of the same size, by their means: "
            f"{places}.{learns} So these results do not show what patches are worth in a well-trained model."
        )
    return said


def unreached(study: Study, results: Mapping[str, Any]) -> dict[str, list[str]]:
    """By size, the counting models that need fewer bits per byte than every trained model, without intervals."""
    bpb, counts = {key: spreads["test_bpb"].mean for key, spreads in summary(results["rows"]).items()}, {}
    for size in study.budgets:
        trained = [value for (model, at), value in bpb.items() if at == size and model in study.models]
        below = [model for model in study.counts if trained and bpb.get((model, size), math.inf) < min(trained)]
        counts |= {size: below} if below else {}
    return counts


def _costs(study: Study, results: Mapping[str, Any]) -> list[str]:
    """Seconds and FLOPs of each BLT as multiples of the best baseline's, at equal training FLOPs."""
    quantities, points = summary(results["rows"]), []
    entropies = ", entropies of the text included" if results["corpus"].get("entropy_seconds_per_byte") else ""
    for field, words in {
        "seconds": f"Seconds of training{entropies}",
        "inference_flops": "FLOPs per byte of inference",
    }.items():
        ratios = []
        for line in with_interval(results):
            if line["matching"] == "flops":
                own, other = (quantities[line[name], line["size"]][field].mean for name in ("model", "against"))
                ratios.append(f"{own / other:.2f} ({line['model']} at {line['size']})")
        points.append(f"- **{words}**, as multiples of the best baseline's: {', '.join(ratios)}.")
    return points


def _uncharged(study: Study, results: Mapping[str, Any]) -> list[str]:
    """A line on the training of the entropy model, which is in no budget of these BLTs; possibly none."""
    if not study.entropy_train or not study.entropy:
        return []
    quantities, said = summary(results["rows"]), []
    for line in with_interval(results):
        model = study.models[line["model"]]
        if line["matching"] == "flops" and model.needs_entropy and not model.charge_entropy:
            own, other = (quantities[line[name], line["size"]]["train_flops"].mean for name in ("model", "against"))
            said.append(f"{(own + patcher_cost(study, model)) / other:.2f} ({line['model']} at {line['size']})")
    if not said:
        return []
    table = any(study.models[line["model"]].ngram_patcher for line in with_interval(results))
    filled = f" Filling an n-gram table takes {scaled(table_cost(study), 'FLOPs')} more." if table else ""
    return [
        f"- **The entropy model** is trained once, on {scaled(entropy_ids(study), 'B')} of text with "
        f"{scaled(entropy_cost(study), 'FLOPs')}, which no budget contains.{filled} With this, training FLOPs as "
        f"multiples of the best baseline's: {', '.join(said)}."
    ]


def _range(study: Study, results: Mapping[str, Any]) -> str:
    """The range of model sizes, text amounts and text kinds for which the advice is valid."""
    rows = [row for row in results["rows"] if not row["search"] and row["train_flops"]]
    parameters, text = ([row[field] for row in rows] for field in ("parameters", "trained_bytes"))
    sizes = " to ".join(dict.fromkeys(scaled(end(parameters)) for end in (min, max)))
    amounts = " to ".join(dict.fromkeys(scaled(end(text), "B") for end in (min, max)))
    kind = KINDS[rows[0]["corpus"]]
    learnt = any(model.vocabulary and not model.tokenizer for model in study.models.values())
    besides = f" Vocabularies are learnt on up to {scaled(LEARN, 'B')} of it." if learnt else ""
    return (
        f"All this is of models of {sizes} parameters, trained on {amounts} of {kind}.{besides} It says nothing about "
        "larger models, more text or other text."
    )
