"""The report of a study: every choice, every result, and who wins, as Markdown with plots."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..config import UserError
from . import choices, finetune_plot, table, verdict
from .contender import TOLERANCE
from .corpus import Corpus
from .lessons import lessons
from .plan import plan
from .plots import COSTS, plot
from .recipe import Study
from .runs import machine
from .table import Row, Spread, Summary, summary
from .words import amount, grid, listed, ranged, scaled, seconds, wrapped

REPORT = "report.md"
PLOTS = {
    "train_flops": "bpb-by-training-flops.svg",
    "inference_flops": "bpb-by-inference-flops.svg",
    "seconds": "bpb-by-seconds.svg",
}
ANSWERS = "accuracy-by-examples.svg"
COLUMNS = (
    "model",
    "bits per byte",
    "above the best",
    "trained on",
    "bytes a unit",
    "training FLOPs",
    "without head",
    "FLOPs a byte",
    "without head",
    "of them entropy model",
    "seconds",
)
OFF = 0.05  # share of a budget that a run may miss before the report warns of it


def write_report(
    study: Study, rows: Sequence[Row], folder: Path, corpus: Corpus, finetuned: Sequence[Row] = ()
) -> dict[str, Any]:
    """Write all that is known of a study into a folder, and return the content of its results.json.

    `finetuned` are the results of its models that learnt letters and numbers. Written are results.json and
    results.csv, the plots, and report.md. Raises UserError where no run is done, and, once the results themselves are
    written, where matplotlib is missing.
    """
    found = table.write(study, rows, folder, machine(), table.corpus_facts(corpus), finetuned)
    for name, text in pictures(found, folder).items():
        table.whole(folder / name, text)
    table.whole(folder / REPORT, markdown(found))
    return found


def pictures(results: Row, scratch: Path) -> dict[str, str]:
    """The SVGs that a report shows, by name. They are drawn in the folder `scratch`, and do not stay there."""
    drawn = {name: partial(plot, summary(results["rows"]), cost) for cost, name in PLOTS.items()}
    if results["finetuned"]:
        drawn[ANSWERS] = partial(finetune_plot.plot, results["finetuned"])
    found = {}
    for name, draw in drawn.items():
        draw(path := scratch / f"partial-{name}")
        found[name] = path.read_text(encoding="utf-8")
        path.unlink()
    return found


def markdown(results: Row) -> str:
    """The report on the content of a results.json; its plots are links to files beside it.

    Raises UserError where no run but tries is done.
    """
    study, rows = Study.model_validate(results["study"]), results["rows"]
    found = summary(rows)
    if not found:
        raise UserError("no run of the study is done: nothing to report")
    sections = {
        "Who wins": _verdict(study, found),
        "Results": _results(study, rows, found),
        "Corpus": choices.corpus(study, results["corpus"], rows),
        "Entropy model": choices.entropy(study, rows),
        "Models": choices.models(study, rows),
        "What counts as a FLOP": choices.counting(),
        "Learning rates": choices.learning_rates(study, rows),
        "Checks": [*_checks(study, rows), f"Machine: {results['machine']}. {_threads(rows)}"],
    }
    if learnt := results["finetuned"]:
        sections["Letters and numbers"] = [f"![Accuracy against examples]({ANSWERS})", *lessons(study, learnt)]
    count = len({model for model, _ in found})
    opening = f"{count} model{'s' * (count > 1)} trained at equal budgets: {choices.budgets(study)}."
    parts = ["# Comparison at equal budgets", opening]
    for title, paragraphs in sections.items():
        parts += [f"## {title}", *paragraphs]
    return _joined(parts)


def _joined(parts: Sequence[str]) -> str:
    """Headings, tables and pictures as they are, paragraphs in lines, items of a list close together."""
    text = ""
    for before, part in zip(["", *parts], parts, strict=False):
        text += "" if not before else "\n" if before.startswith("- ") and part.startswith("- ") else "\n\n"
        text += part if part.startswith(("#", "|", "![")) else wrapped(part)
    return text + "\n"


def _verdict(study: Study, found: Summary) -> list[str]:
    """Sentences on who wins, how that changes with scale, and at what cost."""
    paragraphs = verdict.winners(study, found)
    if items := verdict.trends(study, found):
        paragraphs += ["With scale, in bits per byte:", *items]
    if items := verdict.costs(study, found):
        paragraphs += ["What that costs:", *items]
        paragraphs.append(
            "Beside each of these, nothing else here is as good in both bits per byte and FLOPs a byte of inference: "
            f"{listed(verdict.frontier(found))}."
        )
    return [*paragraphs, _ties(study, found)]


def _ties(study: Study, found: Summary) -> str:
    """What a tie is, and where the noise of seeds is not known."""
    bpb = {place: quantities["test_bpb"] for place, quantities in found.items()}
    text = f"A tie: means less than {verdict.TIE:g} bits apart, or ranges over seeds that meet. Percentages are of the "
    text += "other model's bits."
    single = [size for size in study.budgets if any(at == size and one.count == 1 for (_, at), one in bpb.items())]
    if single:
        text += f" At {listed(single)} there are models of one seed: their spread is not known, and small gaps may be"
        text += " chance"
        several = [one.high - one.low for one in bpb.values() if one.count > 1]
        text += f"; where it is, seeds lie up to {max(several):.3f} apart." if several else "."
    return text


def _results(study: Study, rows: Sequence[Row], found: Summary) -> list[str]:
    """The plots, and a table a budget."""
    paragraphs = [f"![bits per byte over {COSTS[cost]}]({name})" for cost, name in PLOTS.items()]
    for size in study.budgets:
        here = {model: quantities for (model, at), quantities in found.items() if at == size}
        if here:
            paragraphs += [f"### {size}: {amount(study.budgets[size].amounts)}", _table(here)]
    return [
        *paragraphs,
        "Bits per byte are of the test text, each document in its full context, EOS included"
        f"{'; in brackets the range over seeds' if any(s['test_bpb'].count > 1 for s in found.values()) else ''}. "
        "A unit is a patch or a token, in its mean size on the training text. FLOPs a byte are of inference. Seconds "
        "are those of training: on a CPU processor seconds of a thread, which other work on the machine hardly moves.",
    ]


def _table(here: Mapping[str, Mapping[str, Spread]]) -> str:
    """The models of one budget, best first."""
    bpb = {model: quantities["test_bpb"] for model, quantities in here.items()}
    best, lines = verdict.ranking(bpb)[0], []
    for model in verdict.ranking(bpb):
        gap = verdict.Gap.between(bpb[model], bpb[best])
        note = ", a tie" if gap.side == 0 else ""
        above = "" if model == best else f"{gap.mean:.3f} ({gap.share:.1%}){note}"
        mean = {name: spread.mean for name, spread in here[model].items()}
        score = ranged(bpb[model], 3)
        lines.append(
            [
                model,
                f"**{score}**" if model == best else score,
                above,
                scaled(mean["trained_bytes"], "B"),
                f"{mean['unit_bytes']:.2f}",
                *(scaled(mean[name]) for name in ("train_flops", "train_flops_without_head")),
                *(scaled(mean[name]) for name in ("inference_flops", "inference_flops_without_head")),
                scaled(mean["entropy_flops"]) if mean["entropy_flops"] else "none",
                seconds(mean["seconds"]),
            ]
        )
    return grid(COLUMNS, lines)


def _checks(study: Study, rows: Sequence[Row]) -> list[str]:
    """The leak test, how well budgets were met, and what is missing."""
    worst = max(rows, key=lambda row: row["leak"])
    moved = f"by more than {worst['leak']:.2g} ({choices.run_of(worst).name})" if worst["leak"] else "at all"
    paragraphs = [
        f"Leak test, before each training: a later byte or token was changed, and no earlier logit moved {moved}. More "
        f"than {TOLERANCE:g} would have ended the run.",
        _spent(rows),
    ]
    done = {choices.run_of(row) for row in rows}
    planned = plan(study, choices.known(rows))
    if missing := [run.name for run in planned if run not in done]:
        paragraphs.append(f"**Missing** are {len(missing)} of {len(planned)} runs: {listed(missing)}.")
    else:
        paragraphs.append(f"All {len(planned)} planned runs are done.")
    return paragraphs


def _spent(rows: Sequence[Row]) -> str:
    """How much of their budgets the runs took: steps are whole, and how many they are is set beforehand."""
    shares = {choices.run_of(row).name: _share(row) for row in rows}
    low, high = (pick(shares, key=lambda name: shares[name]) for pick in (min, max))
    text = f"Runs took {shares[low]:.1%} ({low}) to {shares[high]:.1%} ({high}) of their budgets"
    if max(shares[high] - 1, 1 - shares[low]) > OFF:
        return f"{text}. **Warning:** that is off by more than {OFF:.0%}; compare the training FLOPs of the tables."
    return f"{text}."


def _share(row: Row) -> float:
    ((kind, amount),) = row["budget"].items()
    return row[{"flops": "train_flops", "bytes": "trained_bytes", "seconds": "seconds"}[kind]] / amount


def _threads(rows: Sequence[Row]) -> str:
    counts = sorted({row["threads"] for row in rows})
    if len(counts) == 1:
        return f"All runs had {counts[0]} thread{'s' * (counts[0] > 1)}."
    return f"**Runs had {listed([str(n) for n in counts], 'or')} threads: their seconds do not compare.**"
