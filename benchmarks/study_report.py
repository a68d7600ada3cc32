"""The report of a study, CSV and plots, made anew from its results.json; and what other pages say of it.

    python benchmarks/study_report.py docs/study            # writes docs/study/report.md, results.csv and the plots
    python benchmarks/study_report.py docs/study --check    # exits with 1 where the files there are others
    python benchmarks/study_report.py docs/study --take OUT # the same with the results.json of the folder OUT
    python benchmarks/study_report.py docs/study --take OUT OUT-RUSSIAN OUT-CODE # and of studies of other texts

`documents.json.xz` has the bits of each test document under each run, by corpus: what intervals are computed from.
--take writes it, and --check computes the intervals of results.json again.

The report is of the first study. results.json has the rows and differences of all of them, each with its `corpus`,
and the recipes of the other studies under `others`. In `results.md` each of these has a part with its own heading.

Two pages speak of a study. In `results.md` beside the folder, what stands between `<!-- study: made -->` and
`<!-- study: end -->` (the folder's name) is written from the results. So is the row of the README above the folder that
begins with `| study |`, once a difference has an interval. --check compares both, too.

Another study's section of results.md is written by people, between `<!-- first-study: begin -->` and
`<!-- first-study: end -->`. --check holds it to the results: a table row that begins with a model must have its bits
per byte under each size, and every number with three decimals must be the bits per byte of a model, or how far two
models of one size are apart. A row `slope of MODEL` has the slopes from size to size, and over all of them.
Plots are compared only where the version of matplotlib is the one that drew them: another sets letters differently.
"""

import argparse
import json
import lzma
import math
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from statistics import linear_regression
from typing import Any

from bytequilt.config import UserError
from bytequilt.files import read_json, read_text, write_bytes, write_json, write_text
from bytequilt.study import lead, table
from bytequilt.study.choices import progress
from bytequilt.study.compare import SIZES
from bytequilt.study.evidence import evidence
from bytequilt.study.markdown import grid
from bytequilt.study.recipe import Study
from bytequilt.study.report import REPORT, markdown, pictures
from bytequilt.study.search import Run

VERSION = re.compile(r"<dc:title>(Matplotlib v[\d.]+)")
DOCUMENTS = "documents.json.xz"
TRIES = (
    "The search for learning rates, as far as it has come: held-out bits per byte of the best try, with its rate and "
    "the multiple for tables, one seed and {share:g} of the budget each. The search only chooses rates. It does not "
    "decide which model is better."
)
OF_A_STUDY = ("machine", "corpus", "study", "finetuned", "fits", "without_largest")
OTHER = "### The same question asked on {corpus}"
FIGURE = re.compile(r"(?<![\d.])\d\.\d{3}(?!\d)")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where results.json is, and the report goes")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where files differ")
    parser.add_argument(
        "--take", type=Path, nargs="+", metavar="OUT", help="results of `bytequilt compare --out OUT` to publish"
    )
    options = parser.parse_args(arguments)
    try:
        results = joined(map(table.read, options.take)) if options.take else table.read(options.folder)
        files = made(results)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if options.check:
        complaints = [*stale(options.folder, files), *stale_pages(options.folder, results)]
        complaints += wrong_intervals(options.folder, results)
        for complaint in complaints:
            print(complaint, file=sys.stderr)
        return 1 if complaints else 0
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.take:
        write_json(options.folder / table.JSON, results, indent=1)
        write_documents(options.folder / DOCUMENTS, results, options.take)
        for path in options.folder.glob("*.svg"):
            path.unlink()
    for name, text in files.items():
        write_text(options.folder / name, text)
    for page, text in pages(options.folder, results).items():
        write_text(page, text)
    return 0


def joined(studies: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One results.json of several studies, each of its own corpus. Raises UserError if two have the same one."""
    first, *others = studies
    results, rows, differences = first | {"others": {}}, [], []
    for study in (first, *others):
        corpus = study["study"]["corpus"]
        if corpus in {row["corpus"] for row in rows}:
            raise UserError(f"two studies to publish have the corpus {corpus}; each must have its own")
        rows += [row | {"corpus": corpus} for row in study["rows"]]
        differences += [line | {"corpus": corpus} for line in study["differences"]]
        if study is not first:
            results["others"][corpus] = {name: study[name] for name in OF_A_STUDY if name in study}
    return results | {"rows": rows, "differences": differences}


def of_corpus(results: dict[str, Any], corpus: str | None = None) -> dict[str, Any]:
    """The results of one study out of those that were joined: of the first, or of the one with this corpus."""
    if "others" not in results:
        return results
    own = results if corpus in (None, results["study"]["corpus"]) else results | results["others"][corpus]
    corpus = own["study"]["corpus"]
    return own | {
        name: [line for line in results[name] if line["corpus"] == corpus] for name in ("rows", "differences")
    }


def write_documents(path: Path, results: dict[str, Any], outs: Sequence[Path]) -> None:
    """Write the sizes of the test documents, and their bits under each run, of all studies."""
    corpora = {}
    for corpus, out in zip(corpora_of(results), outs, strict=True):
        if not (out / "documents" / SIZES).is_file():  # results from before bits were kept
            continue
        rows = [row for row in of_corpus(results, corpus)["rows"] if not row["search"]]
        names = [Run.of(row).name for row in rows]
        bits = {name: read_json(out / "documents" / f"{name}.json") for name in names}
        corpora[corpus] = {"bytes": read_json(out / "documents" / SIZES), "bits": bits}
    write_bytes(path, lzma.compress(json.dumps(corpora).encode(), preset=9))


def corpora_of(results: dict[str, Any]) -> list[str]:
    """The corpora of the studies, the first study first."""
    return [results["study"]["corpus"], *results.get("others", {})]


def wrong_intervals(folder: Path, results: dict[str, Any]) -> Iterator[str]:
    """Studies whose intervals are not those that the published bits give. Older folders have no bits."""
    path = folder / DOCUMENTS
    corpora = json.loads(lzma.decompress(path.read_bytes())) if path.is_file() else {}
    for corpus, documents in corpora.items():
        own = of_corpus(results, corpus)
        study = Study.model_validate(own["study"])
        bits = documents["bits"]
        again = evidence(
            own["rows"], lambda row, bits=bits: bits[Run.of(row).name], documents["bytes"], study.counts, study.blts
        )
        published = [{name: line[name] for name in line if name != "corpus"} for line in own["differences"]]
        intervals = {"differences": published} | {name: own.get(name, []) for name in ("fits", "without_largest")}
        if intervals != again:
            yield f"{folder / table.JSON}: the intervals of {corpus} are not those of {DOCUMENTS}"


def stale(folder: Path, files: dict[str, str]) -> Iterator[str]:
    """Files that are not what the results give."""
    for name, text in files.items():
        if differs(folder / name, text):
            yield f"{folder / name} is not what results.json gives"


def stale_pages(folder: Path, results: dict[str, Any]) -> Iterator[str]:
    """What other pages say, and the results do not."""
    for page, text in pages(folder, results).items():
        if read_text(page) != text:
            yield f"{page} does not say what results.json gives: make it again without --check"
    page = folder.parent / "results.md"
    if page.is_file():
        section = re.search(f"<!-- {folder.name}: begin -->(.*?)<!-- {folder.name}: end -->", read_text(page), re.S)
        yield from (f"{page}: {said}" for said in wrong_figures(section[1] if section else "", of_corpus(results)))


def pages(folder: Path, results: dict[str, Any]) -> dict[Path, str]:
    """The pages that have parts of their own made from the results, with these parts renewed."""
    renewed, first = {}, of_corpus(results)
    page = folder.parent / "results.md"
    if page.is_file():
        mark = re.compile(f"(?<=<!-- {folder.name}: made -->\n).*?(?=<!-- {folder.name}: end -->)", re.S)
        text = section_of(folder.name, first)
        for corpus in results.get("others", {}):
            section = section_of(folder.name, of_corpus(results, corpus), plot=False)
            text += f"\n{OTHER.format(corpus=lead.KINDS[corpus])}\n\n{section}"
        renewed[page] = mark.sub(lambda _: text, read_text(page))
    readme = folder.parent.parent / "README.md"
    if readme.is_file() and lead.plotted(first):
        link = f"[report]({folder.parent.name}/{folder.name}/{REPORT})"
        row = re.compile(rf"^\| {folder.name} \|.*$", re.M)
        renewed[readme] = row.sub(lambda _: readme_row(folder.name, link, results), read_text(readme))
    return renewed


def section_of(name: str, results: dict[str, Any], plot: bool = True) -> str:
    """Bits per byte of all models, differences to the best baseline, and what follows, for a page beside a folder."""
    study, rows = Study.model_validate(results["study"]), results["rows"]
    bpb = {place: quantities["test_bpb"].mean for place, quantities in table.summary(rows).items()}
    models = sorted({model for model, _ in bpb}, key=[*study.models, *study.counts].index)
    figures = [
        [model, *(f"{bpb[model, s]:.3f}" if (model, s) in bpb else "" for s in study.budgets)] for model in models
    ]
    sizes = progress(study, rows)
    parts = [grid(["test, bits per byte", *study.budgets], figures)] if figures else []
    if lead.with_interval(results):
        parts.append(lead.table(study, results, sizes))
    else:
        parts += lead.markdown(study, results, sizes)
    if plot and lead.plotted(results):
        parts.append(f"![bits per byte above the best baseline]({name}/{lead.PLOT})")
    parts.append(
        "Runs done: " + ", ".join(f"{size} {state.done} of {state.planned}" for size, state in sizes.items()) + "."
    )
    parts += [*(part for part in lead.advice(study, results) if not part.startswith("#"))]
    if study.sweep and (tried := best_tries(study, rows)):
        parts += [TRIES.format(share=study.sweep.share), tried]
    return "\n\n".join(parts) + "\n"


def best_tries(study: Study, rows: list[dict[str, Any]]) -> str | None:
    """The best try so far of each model and size, with its learning rates; None if there are no tries."""
    lowest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = row["model"], row["size"]
        if row["search"] and row["val_bpb"] and row["val_bpb"] < lowest.get(key, {"val_bpb": math.inf})["val_bpb"]:
            lowest[key] = row
    sizes = [size for size in study.budgets if any(at == size for _, at in lowest)]
    lines = []
    for model in dict.fromkeys(model for model, _ in lowest):
        best = [lowest.get((model, size)) for size in sizes]
        lines.append(
            [model, *(f"{r['val_bpb']:.3f} ({r['lr']:g} x {r['hash_lr_factor']:g})" if r else "" for r in best)]
        )
    return grid(["best try", *sizes], lines) if lines else None


def readme_row(name: str, link: str, results: dict[str, Any]) -> str:
    """The first BLT of each recipe against the best baseline at each size."""
    first = of_corpus(results)
    study = Study.model_validate(first["study"])
    blt, sizes, values = first_blt(study), progress(study, first["rows"]), against_best(first)
    for corpus in results.get("others", {}):
        other = of_corpus(results, corpus)
        if lead.plotted(other):
            values.append(f"{lead.KINDS[corpus]}, {first_blt(Study.model_validate(other['study']))}: ")
            values[-1] += "; ".join(against_best(other))
    done, all_runs = (sum(getattr(state, field) for state in sizes.values()) for field in ("done", "planned"))
    what = (
        f"how many bits per byte more {blt} needs on the English test text than the best baseline with equal training "
        "FLOPs; some baselines have n-gram tables; 95 % intervals; verdicts by a rule written beforehand, with later "
        f"changes [listed](docs/compare.md#decision-rule); {done} of {all_runs} runs done"
    )
    if counts := lead.unreached(study, first):
        what += f"; at {', '.join(counts)} models that only count need fewer bits than all of these"
    return f"| {name} | {what}, {link} | {'; '.join(values)} | `bytequilt compare evidence` |"


def first_blt(study: Study) -> str:
    return study.blts[0]


def against_best(results: dict[str, Any]) -> list[str]:
    """The first BLT of one recipe against the best baseline, one text for each size."""
    study = Study.model_validate(results["study"])
    sizes, said, values = progress(study, results["rows"]), lead.verdicts(study, results), []
    for line in lead.with_interval(results):
        if line["model"] == first_blt(study) and line["matching"] == "flops":
            size = line["size"]
            ends, so_far = f"{line['low']:+.3f} to {line['high']:+.3f}", ", so far" if sizes[size].missing else ""
            verdict = said[size, line["model"]]
            values.append(f"{size} {line['difference']:+.3f} ({ends}; {line['against']}): {verdict}{so_far}")
    return values


def made(results: dict[str, Any]) -> dict[str, str]:
    """What belongs beside a results.json, by name."""
    first = of_corpus(results)
    with tempfile.TemporaryDirectory() as scratch:
        drawn = pictures(first, Path(scratch))
    return {REPORT: markdown(first), table.CSV: table.as_csv(results["rows"]), **drawn}


def differs(path: Path, text: str) -> bool:
    """Whether a file is missing or has other content; a plot of another matplotlib is taken as it is."""
    if not path.is_file():
        return True
    there = path.read_text(encoding="utf-8")
    versions = {tuple(VERSION.findall(content)) for content in (there, text)}
    return there != text and len(versions) == 1


def wrong_figures(section: str, results: dict[str, Any]) -> Iterator[str]:
    """What a section of a page says about bits per byte and results.json does not."""
    bpb = {place: quantities["test_bpb"].mean for place, quantities in table.summary(results["rows"]).items()}
    pairs = [(bpb[a], bpb[b]) for a, b in combinations(bpb, 2) if a[1] == b[1]]
    known = {f"{value:.3f}" for value in (*bpb.values(), *(abs(a - b) for a, b in pairs))}
    yield from (f"{figure} is no result" for figure in FIGURE.findall(section) if figure not in known)
    rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    yield from wrong_slopes(rows, results)
    for model, *cells in rows:
        for size, cell in zip(rows[0][1:], cells, strict=True):
            if model in {name for name, _ in bpb} and cell != (
                f"{bpb[model, size]:.3f}" if (model, size) in bpb else ""
            ):
                yield f"{model} at {size} has {bpb.get((model, size), 'no result')}, not {cell!r}"


def wrong_slopes(rows: list[list[str]], results: dict[str, Any]) -> Iterator[str]:
    """Slopes that are not those of ln bpb over ln FLOPs: of neighbours, and of the line through all sizes."""
    quantities = table.summary(results["rows"])
    for first, *cells in rows:
        if first.startswith("slope of "):
            own = [values for (model, _), values in quantities.items() if model == first.removeprefix("slope of ")]
            x, y = ([math.log(values[name].mean) for values in own] for name in ("train_flops", "test_bpb"))
            steps = [linear_regression(x[at : at + 2], y[at : at + 2]).slope for at in range(len(x) - 1)]
            wanted = [f"{-slope:.4f}" for slope in (*steps, linear_regression(x, y).slope)]
            if cells != wanted:
                yield f"{first} has {wanted}, not {cells}"


if __name__ == "__main__":
    sys.exit(main())
