"""Bits per byte of a study's models by script, with the patches that their rules make.

    bytequilt compare rules --out runs/rules
    python benchmarks/rules_by_script.py rules runs/rules

A test document counts for the script of most of its letters. Bits are those that `compare` kept of each document, of
all seeds; patches and cuts inside characters are counted in the first `--sample` bytes of each script.
"""

import argparse
from collections import Counter
from pathlib import Path
from statistics import mean
from typing import Any

from bytequilt import load
from bytequilt.data.sources import documents
from bytequilt.evals.scripts import OTHER, Share, script_of, share_of
from bytequilt.files import read_json
from bytequilt.study.jobs import results_in
from bytequilt.study.markdown import grid
from bytequilt.study.recipe import load_study
from bytequilt.study.trial import spread, trial_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("out", type=Path)
    parser.add_argument("--sample", type=int, default=20_000)
    given = parser.parse_args()
    study = load_study(given.study)
    tests = [document.data for source in study.test for document in documents(source, study.data)]
    print(table(given.out, spread(tests, study.test_bytes), given.sample))


def table(out: Path, texts: list[bytes], sample: int) -> str:
    """A line a script, the most bytes first, and a column a model: bits per byte by seed, and its patches."""
    rows = sorted((row for row in trial_rows(results_in(out)) if not row["search"]), key=lambda row: row["seed"])
    models = list(dict.fromkeys(row["model"] for row in rows))
    runs = {model: [row for row in rows if row["model"] == model] for model in models}
    places: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        places.setdefault(main_script(text), []).append(place)
    sizes = {script: sum(len(texts[place]) for place in own) for script, own in places.items()}
    cells = {model: _column(out, runs[model], texts, places, sample) for model in models}
    lines = [[script, f"{sizes[script]:,}", *(cells[model][script] for model in models)] for script in _by(sizes)]
    return grid(["script", "bytes", *models], lines)


def main_script(text: bytes) -> str:
    """The script of most characters that have one."""
    counts = Counter(filter(None, map(script_of, text.decode("utf-8", "replace"))))
    return counts.most_common(1)[0][0] if counts else OTHER


def _by(sizes: dict[str, int]) -> list[str]:
    return sorted(sizes, key=lambda script: -sizes[script])


def _column(
    out: Path, runs: list[dict[str, Any]], texts: list[bytes], places: dict[str, list[int]], sample: int
) -> dict[str, str]:
    """The cell of each script for one model, whose runs differ in their seeds."""
    names = [f"{row['model']}-{row['size']}-seed{row['seed']}" for row in runs]
    bits = [read_json(out / "documents" / f"{name}.json") for name in names]
    lm = load(str(out / "runs" / names[0] / "model"))
    cells = {}
    for script, own in places.items():
        size = sum(len(texts[place]) for place in own)
        bpb = [sum(costs[place] for place in own) / size for costs in bits]
        share = share_of(lm, b"\n".join(texts[place] for place in own)[:sample])
        cells[script] = f"{_bpb(bpb)} ({_patches(share)})"
    return cells


def _bpb(values: list[float]) -> str:
    """Their mean, and the values where there are several."""
    return f"{mean(values):.3f}" + (f" [{', '.join(f'{value:.3f}' for value in values)}]" if len(values) > 1 else "")


def _patches(share: Share) -> str:
    return f"{share.bytes / max(share.patches, 1):.1f} bytes, {share.cuts_inside / max(share.patches, 1):.0%} cut"


if __name__ == "__main__":
    main()
