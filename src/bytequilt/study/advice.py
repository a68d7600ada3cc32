"""The advice section of a report: which model to choose. Every sentence is built from the results."""

from collections.abc import Mapping
from typing import Any

from .lead import verdicts, with_interval
from .markdown import scaled
from .recipe import Study
from .table import summary

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


def advice(study: Study, results: Mapping[str, Any]) -> list[str]:
    """The section as a list of paragraphs, without statements on anything unmeasured; empty if no difference has an
    interval."""
    all_verdicts = verdicts(study, results)
    if not all_verdicts:
        return []
    points = []
    for verdict, text in ADVICE.items():
        models = [f"{model} at {size}" for (size, model), own_verdict in all_verdicts.items() if own_verdict == verdict]
        if models:
            points.append(f"- **{verdict.capitalize()}**: {text.format(models=', '.join(models))}")
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
