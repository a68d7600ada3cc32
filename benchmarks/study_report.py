"""The report and plots of a study, made anew from its results.json.

    python benchmarks/study_report.py docs/study            # writes docs/study/report.md and its plots
    python benchmarks/study_report.py docs/study --check    # exits with 1 where the files there are not those

A page `results.md` beside the folder gets what the report says of who wins, between marks with the folder's name,
`<!-- study: begin -->` and `<!-- study: end -->`.
Plots are compared only where the version of matplotlib is the one that drew them: another sets letters differently.
"""

import argparse
import re
import sys
import tempfile
from pathlib import Path

from bytequilt.config import UserError
from bytequilt.study import table
from bytequilt.study.report import REPORT, markdown, pictures

VERSION = re.compile(r"<dc:title>(Matplotlib v[\d.]+)")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where results.json is, and the report goes")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where files differ")
    options = parser.parse_args(arguments)
    try:
        files = made(options.folder)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if not options.check:
        for name, text in files.items():
            table.whole(options.folder / name, text)
        return 0
    stale = [name for name, text in files.items() if differs(options.folder / name, text)]
    for name in stale:
        print(f"{options.folder / name} is not what results.json gives", file=sys.stderr)
    return 1 if stale else 0


def made(folder: Path) -> dict[str, str]:
    """What belongs beside a results.json, by name."""
    results = table.read(folder)
    report, page = markdown(results), folder.parent / "results.md"
    with tempfile.TemporaryDirectory() as scratch:
        files = {REPORT: report} | pictures(results, Path(scratch))
    marks = tuple(f"<!-- {folder.name}: {end} -->" for end in ("begin", "end"))
    if page.is_file() and all(mark in (text := page.read_text(encoding="utf-8")) for mark in marks):
        files["../results.md"] = filled(text, report, folder.name, *marks)
    return files


def filled(page: str, report: str, folder: str, begin: str, end: str) -> str:
    """A page with the report's verdict and first plot between the marks."""
    before, after = page.partition(begin)[0], page.partition(end)[2]
    verdict = report.partition("## Who wins\n\n")[2].partition("\n## ")[0]
    plot = re.search(r"!\[[^]]*\]\(", report)
    shown = report[plot.start() :].partition("\n")[0].replace("](", f"]({folder}/", 1) if plot else ""
    return f"{before}{begin}\n{verdict}\n{shown}\n\n{end}{after}"


def differs(path: Path, text: str) -> bool:
    """Whether a file is missing or has other content; a plot of another matplotlib is taken as it is."""
    if not path.is_file():
        return True
    there = path.read_text(encoding="utf-8")
    versions = {tuple(VERSION.findall(one)) for one in (there, text)}
    return there != text and len(versions) == 1


if __name__ == "__main__":
    sys.exit(main())
