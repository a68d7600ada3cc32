"""How much five kinds of noise cost the models of a study, with 95 % intervals of their differences.

    python benchmarks/noise.py OUT study/test.jsonl.xz --size S --models blt-entropy bpe-32k+ngrams

OUT is the folder of `bytequilt compare`; all seeds of a model that are there are scored. The table has bits per byte of
the *clean* text, since noise changes lengths, and how far each model is above the first: documents are drawn again in
pairs, and what seeds add is drawn from Student's t, as in the report of a study. The noises are those of
`bytequilt eval --noise`, which scores one model and asks it tasks as well.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bytequilt.config import UserError
from bytequilt.evals.corpora import texts
from bytequilt.evals.noise import CLEAN, NOISES, noised
from bytequilt.lm import load_any
from bytequilt.study.evidence import draws_of, interval
from bytequilt.study.markdown import grid
from bytequilt.study.trial import spread


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of a study's results")
    parser.add_argument("test", help="file of documents")
    parser.add_argument("--size", required=True)
    parser.add_argument("--models", nargs="+", required=True, help="the first is what the others are compared with")
    parser.add_argument("--bytes", type=int, default=200_000, help="of documents, evenly spread over the file")
    parser.add_argument("--longest", type=int, help="longer documents are cut to so many bytes")
    parser.add_argument("--json", action="store_true", help="print the lines as one JSON document")
    options = parser.parse_args(arguments)
    try:
        documents = spread([text[: options.longest] for text in texts(options.test, "text") if text], options.bytes)
        lines = compared(options.out, options.size, options.models, documents)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(lines, indent=2) if options.json else shown(lines))
    return 0


def compared(out: Path, size: str, models: Sequence[str], documents: Sequence[bytes]) -> list[dict]:
    """A line for each noise and model. Raises UserError where a model has not been trained."""
    changed = {name: [_changed(text, name, seed) for seed, text in enumerate(documents)] for name in (CLEAN, *NOISES)}
    bits = {name: {(model, size): scored(out, model, size, changed[name]) for model in models} for name in changed}
    bytes_D = np.array([len(text) for text in documents], dtype=float)
    lines = []
    for name, own in bits.items():
        draws, mean = (
            draws_of(own, bytes_D),
            {place: np.mean(list(seeds.values()), 0).sum() for place, seeds in own.items()},
        )
        for place in own:
            first = (models[0], size)
            line = {"noise": name, "model": place[0], "seeds": len(own[place])}
            line |= {"bits_per_clean_byte": mean[place] / bytes_D.sum(), "above": None, "low": None, "high": None}
            if place != first:
                line["above"] = (mean[place] - mean[first]) / bytes_D.sum()
                line |= interval(draws[place] - draws[first]) if draws else {}
            lines.append(line)
    return lines


def _changed(text: bytes, name: str, seed: int) -> bytes:
    return text if name == CLEAN else noised(text, name, seed)


def scored(out: Path, model: str, size: str, documents: Sequence[bytes]) -> dict[int, np.ndarray]:
    """Bits of each document (documents,) under a model, by seed."""
    folders = sorted(out.glob(f"runs/{model}-{size}-seed*/model"))
    if not folders:
        raise UserError(f"{out} has no trained {model} of size {size}")
    scores = {path: load_any(path).score_documents(documents) for path in folders}
    return {
        int(path.parent.name.rpartition("seed")[2]): np.array([s.bits for s in own]) for path, own in scores.items()
    }


def shown(lines: Sequence[dict]) -> str:
    """The lines as a table."""
    rows = []
    for line in lines:
        above = "" if line["above"] is None else f"{line['above']:+.3f}"
        if line["low"] is not None:
            above += f" ({line['low']:+.3f} to {line['high']:+.3f})"
        rows.append([line["noise"], line["model"], str(line["seeds"]), f"{line['bits_per_clean_byte']:.3f}", above])
    return grid(["noise", "model", "seeds", "bits per clean byte", "above the first, 95 %"], rows, left=2)


if __name__ == "__main__":
    sys.exit(main())
