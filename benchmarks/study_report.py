"""The report, CSV and plots of a study, made anew from its results.json.

    python benchmarks/study_report.py docs/study            # writes docs/study/report.md, results.csv and the plots
    python benchmarks/study_report.py docs/study --check    # exits with 1 where the files there are others

--check also reads the page `results.md` beside the folder, which people write. Between the marks
`<!-- study: begin -->` and `<!-- study: end -->` (the folder's name) a table row that begins with a model must have
its bits per byte under each size, and every number with three decimals must be the bits per byte of a model, or how far
two models of one size are apart.
Plots are compared only where the version of matplotlib is the one that drew them: another sets letters differently.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from bytequilt.config import UserError
from bytequilt.files import read_text, write_text
from bytequilt.study import table
from bytequilt.study.report import REPORT, markdown, pictures

VERSION = re.compile(r"<dc:title>(Matplotlib v[\d.]+)")
FIGURE = re.compile(r"(?<![\d.])\d\.\d{3}(?!\d)")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where results.json is, and the report goes")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where files differ")
    options = parser.parse_args(arguments)
    try:
        results = table.read(options.folder)
        files = made(results)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if not options.check:
        for name, text in files.items():
            write_text(options.folder / name, text)
        return 0
    complaints = [
        f"{options.folder / name} is not what results.json gives"
        for name, text in files.items()
        if differs(options.folder / name, text)
    ]
    page = options.folder.parent / "results.md"
    if page.is_file():
        section = re.search(
            f"<!-- {options.folder.name}: begin -->(.*?)<!-- {options.folder.name}: end -->", read_text(page), re.S
        )
        complaints += [f"{page}: {said}" for said in wrong_figures(section[1] if section else "", results)]
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 1 if complaints else 0


def made(results: dict[str, Any]) -> dict[str, str]:
    """What belongs beside a results.json, by name."""
    with tempfile.TemporaryDirectory() as scratch:
        drawn = pictures(results, Path(scratch))
    return {REPORT: markdown(results), table.CSV: table.as_csv(results["rows"]), **drawn}


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
    for model, *cells in rows:
        for size, cell in zip(rows[0][1:], cells, strict=True):
            if model in {name for name, _ in bpb} and cell != (
                f"{bpb[model, size]:.3f}" if (model, size) in bpb else ""
            ):
                yield f"{model} at {size} has {bpb.get((model, size), 'no result')}, not {cell!r}"


if __name__ == "__main__":
    sys.exit(main())
