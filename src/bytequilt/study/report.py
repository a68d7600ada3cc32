"""The report of a study: verdicts, advice, all settings and results, in tables and plots."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..config import UserError
from ..evals.timing import machine
from ..files import read_text, write_text
from ..view.curves import COSTS, accuracy_by_examples, bpb_by_cost, leads
from . import choices, lead, table
from .corpus import Corpus
from .markdown import amount, grid, scaled, seconds
from .models import TOLERANCE
from .recipe import Study
from .table import Row, Spread, Summary, summary

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
PREAMBLE = f"""\
- **Bits per byte** are of the test text, each document in its full context, EOS included. Where a model has several
  seeds, the mean is given, and the range in brackets. With one seed, small differences may be chance.
- **FLOPs**: a multiply-add is two. Counted are matrix products, and attention over the keys that a query may see.
  Embeddings, hash look-ups, norms, activations and softmax count nothing. Training is three forward passes, and for a
  BLT by entropy one of the entropy model, which prepares the training text. The training of the entropy model itself
  is not counted: all sizes and seeds use the same one; the advice states its cost. Learning a vocabulary counts
  nothing. The output head is counted; figures without it stand beside.
- **FLOPs a byte** are of inference: a forward pass, per byte of text, entropy model included.
- **A unit** is a patch or a token, in its mean size on the training text.
- **Seconds** are of training: on a CPU processor seconds of a thread, which other work on the machine hardly moves.
  Where the checks give a time for entropies, it is contained. For counting models they are of counting and of scoring
  the test text.
- **Parameters** are given after layers x width, in brackets those of look-up tables (embeddings, hashed n-grams). A
  BLT is given as encoder, latent transformer and decoder; its parameters are without the entropy model.
- **Learning rates** are searched on part of a budget, by held-out bits per byte: at the smallest size of a model from
  the middle of the grid to the best neighbour, until none is better. If a larger size is searched too, a second search
  starts from the best rates of the smaller size, and the better end counts. Other sizes have the rates of the next
  smaller one. `multiple` is the rate of embeddings and hash tables over that of all else. The best try is bold.
- **The leak test** comes before each training: a later byte or token is changed, and no earlier logit may move by more
  than {TOLERANCE:g}.
- **The recipe** is given without its ladders, which are in [results.json](results.json), and without what has its
  default. `row_bytes` counts ids, of bytes or of tokens."""
LETTERS = """\
All models learn from the same generated questions, each once. They are then asked about words and numbers that no
example had (`held out`), and about longer ones than any example had (`longer`). The constant answer is the most
frequent one."""
PARTS = {"held_out": "held out", "longer": "longer"}


def write_report(
    study: Study,
    rows: Sequence[Row],
    folder: Path,
    corpus: Corpus,
    finetuned: Sequence[Row] = (),
    evidence: Row | None = None,
) -> dict[str, Any]:
    """Write results.json, results.csv, report.md and the plots into a folder; returns the content of results.json.

    `finetuned` are the results of the models fine-tuned on letters and numbers. Raises UserError if no run is done,
    and, after the results are written, if matplotlib is missing.
    """
    results = table.write(study, rows, folder, machine(), corpus, finetuned, evidence)
    for name, text in (pictures(results, folder) | {REPORT: markdown(results)}).items():
        write_text(folder / name, text)
    return results


def pictures(results: Row, scratch: Path) -> dict[str, str]:
    """The plots of a report as SVG text, by file name. `scratch` is a folder for temporary files."""
    trained = [row for row in results["rows"] if row["train_flops"] or row["search"]]  # counting models have no FLOPs
    quantities = summary(trained)
    plots = {name: partial(bpb_by_cost, quantities, cost) for cost, name in PLOTS.items()} if quantities else {}
    if lines := lead.plotted(results):
        plots[lead.PLOT] = partial(leads, lines)
    if results["finetuned"]:
        plots[ANSWERS] = partial(accuracy_by_examples, results["finetuned"])
    drawn = {}
    for name, draw in plots.items():
        draw(path := scratch / f"partial-{name}")
        drawn[name] = read_text(path)
        path.unlink()
    return drawn


def markdown(results: Row) -> str:
    """The report as Markdown, from the content of a results.json. Plots are links to files in the same folder. Raises
    UserError if nothing is done, not even a try of a learning rate."""
    study, rows = Study.model_validate(results["study"]), results["rows"]
    if not rows:
        raise UserError("no run of the study is done: nothing to report")
    tables = {
        "Corpus": choices.corpus(results["corpus"], rows),
        "Networks": choices.networks(study, rows),
        "Learning rates": choices.rates(study, rows),
        "Search for learning rates": choices.search(study, rows),
        "Checks": choices.checks(rows, results["machine"], results["corpus"].get("entropy_seconds_per_byte")),
    }
    sizes = choices.progress(study, rows)
    parts = ["# Comparison at equal budgets", *lead.markdown(study, results, sizes)]
    parts += ["## What is done and what is missing", choices.progress_table(sizes)]
    parts += [*lead.advice(study, results), *lead.slopes(results), "## How to read the rest", PREAMBLE]
    parts += ["## Results", *_results(study, summary(rows))] if summary(rows) else []
    for title, text in tables.items():
        parts += [f"## {title}", text] if text else []
    if results["finetuned"]:
        parts += ["## Letters and numbers", *_finetuned(results["finetuned"])]
    return "\n\n".join([*parts, "## Recipe", f"```toml\n{_toml(study)}```"]) + "\n"


def _results(study: Study, quantities: Summary) -> list[str]:
    """Links to the plots, and a table for each size."""
    paragraphs = [f"![bits per byte over {COSTS[cost]}]({name})" for cost, name in PLOTS.items()]
    for size, budget in study.budgets.items():
        of_size = {model: spreads for (model, at), spreads in quantities.items() if at == size}
        if of_size:
            paragraphs += [f"### {size}: {amount(budget.amounts)}", _table(of_size)]
    return paragraphs


def _table(models: Mapping[str, Mapping[str, Spread]]) -> str:
    """The results of all models of one size, best first."""
    bpb = {model: spreads["test_bpb"] for model, spreads in models.items()}
    lines, best = [], min(spread.mean for spread in bpb.values())
    for model in sorted(bpb, key=lambda model: bpb[model].mean):
        mean = {name: spread.mean for name, spread in models[model].items()}
        above = mean["test_bpb"] - best
        costs = ("train_flops", "train_flops_without_head", "inference_flops", "inference_flops_without_head")
        lines.append(
            [
                model,
                _ranged(bpb[model]) if above else f"**{_ranged(bpb[model])}**",
                f"{above:.3f} ({above / best:.1%})" if above else "",
                scaled(mean["trained_bytes"], "B"),
                f"{mean['unit_bytes']:.2f}",
                *(scaled(mean[name]) for name in costs),
                scaled(mean["entropy_flops"]) if mean["entropy_flops"] else "none",
                seconds(mean["seconds"]),
            ]
        )
    return grid(COLUMNS, lines)


def _ranged(spread: Spread) -> str:
    """A mean, with the range in brackets if there are several seeds."""
    return f"{spread.mean:.3f}" + (f" ({spread.low:.3f} to {spread.high:.3f})" if spread.count > 1 else "")


def _finetuned(results: Sequence[Row]) -> list[str]:
    """The section on fine-tuning: learning curves, accuracies, costs, and quoted answers."""
    columns = ["model", "size", "seed", "rate", "training FLOPs"]
    lines = [
        [r["model"], r["size"], str(r["seed"]), f"{r['lr']:g}", scaled(r["points"][-1]["train_flops"])] for r in results
    ]
    picture = f"![Accuracy against examples]({ANSWERS})"
    return [LETTERS, picture, _accuracies(results), grid(columns, lines), _answers(results)]


def _accuracies(results: Sequence[Row]) -> str:
    """Accuracy after each number of examples, one line per level, part and model."""
    rows, points = [], results[0]["points"]
    for level in points[0]["held_out"]["means"]:
        for part, words in PARTS.items():
            for result in results:
                means = [point[part]["means"][level] for point in result["points"]]
                accuracy = [f"{mean['accuracy']:.1%}" for mean in means]
                rows.append([result["model"], level, words, *accuracy, f"{means[0]['constant']:.1%}"])
    counts = [f"{point['examples']:,} examples" for point in points]
    return grid(["model", "level", "asked of", *counts, "constant answer"], rows, left=3)


def _answers(results: Sequence[Row]) -> str:
    """The fixed questions, one per line, with the answer of each model."""
    lines: dict[str, list[str]] = {}
    for result in results:
        for item in result["points"][-1]["asked"]:
            question = item["prompt"].strip().replace("\n", " ")
            answer = item["answer"].replace("|", "/").replace("`", "'")
            lines.setdefault(question, []).append(f'`"{answer}` {"right" if item["right"] else "wrong"}')
    rows = [[f"`{question}`", *answers] for question, answers in lines.items()]
    return grid(["question", *(result["model"] for result in results)], rows)


def _toml(study: Study) -> str:
    """The recipe as TOML, without ladders and default values."""
    import tomli_w

    return tomli_w.dumps(study.model_dump(mode="json", exclude={"ladders"}, exclude_defaults=True, exclude_none=True))
