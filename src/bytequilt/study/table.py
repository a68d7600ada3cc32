"""The results of a study as files: results.json with everything, results.csv with a row per run."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..config import UserError
from ..files import read_json, write_json, write_text
from .corpus import Corpus
from .evidence import ModelSize, groups
from .recipe import Study

FORMAT = 1
JSON, CSV = "results.json", "results.csv"
PREFIXES = {"flops_per_byte": "flops_", "budget": "budget_"}
"""Nested fields of a row, with the prefix of their columns in the CSV."""

Row = Mapping[str, Any]

QUANTITIES: dict[str, Callable[[Row], float]] = {
    "test_bpb": lambda row: row["test_bpb"],
    "train_flops": lambda row: row["train_flops"],
    "train_flops_without_head": lambda row: row["train_flops_without_head"],
    "inference_flops": lambda row: row["flops_per_byte"]["total"],
    "inference_flops_without_head": lambda row: row["flops_per_byte"]["total"] - row["flops_per_byte"]["head"],
    "entropy_flops": lambda row: row["flops_per_byte"].get("entropy", 0.0),
    "seconds": lambda row: row["seconds"] + row.get("entropy_seconds", 0.0),
    "trained_bytes": lambda row: row["trained_bytes"],
    "unit_bytes": lambda row: row["unit_bytes"],
}
"""Compared quantities, computed from a row. Training FLOPs are those of a whole run. Inference FLOPs are per byte of
text and include the entropy model, which is also given separately. Seconds include the computation of entropies, except
in older results. A unit is a patch or a token."""


@dataclass(frozen=True)
class Spread:
    """Mean and range of a quantity over the seeds of a model at one size."""

    mean: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        return cls(sum(values) / len(values), min(values), max(values), len(values))


Summary = dict[ModelSize, dict[str, Spread]]
"""Quantities by model and size, in the order of the runs."""


def write(
    study: Study,
    rows: Sequence[Row],
    folder: Path,
    machine: str,
    corpus: Corpus,
    finetuned: Sequence[Row] = (),
    evidence: Row | None = None,
) -> dict[str, Any]:
    """Write results.json and results.csv into a folder, and return the content of results.json.

    `machine` describes the computer in one line, and `evidence` contains `differences` and `fits` of study/evidence.py.
    """
    facts = {"split": corpus.split, "overlap": corpus.overlap, "train_bytes": corpus.train_bytes}
    facts |= {"val_bytes": sum(map(len, corpus.val)), "test_bytes": sum(map(len, corpus.test))}
    facts |= {"test_documents": len(corpus.test), "largest_test_document": max(map(len, corpus.test))}
    facts |= {"entropy_seconds_per_byte": corpus.seconds(corpus.entropy)}
    results = {"format": FORMAT, "machine": machine, "corpus": facts, "study": study.model_dump(mode="json")}
    results |= {"rows": [dict(row) for row in rows], "finetuned": [dict(row) for row in finetuned]}
    results |= evidence or {"differences": [], "fits": []}
    write_json(folder / JSON, results, indent=1)
    write_text(folder / CSV, as_csv(rows))
    return results


def read(path: Path) -> dict[str, Any]:
    """The content of a results.json, given by its path or its folder. Raises UserError if it is missing or of another
    version."""
    path = path / JSON if path.is_dir() else path
    results = read_json(path)
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise UserError(f"{path} does not hold results of a study, or those of another version")
    return results


def as_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV. Missing fields are empty; nested fields have their own columns."""
    lines = [_flat(row) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, dict.fromkeys(name for line in lines for name in line), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def summary(rows: Iterable[Row]) -> Summary:
    """Mean and range over seeds of every quantity, without the tries of the learning-rate search."""
    return {
        model_size: {name: Spread.of([of(row) for row in group]) for name, of in QUANTITIES.items()}
        for model_size, group in groups(rows).items()
    }


def _flat(row: Row) -> dict[str, Any]:
    nested = {f"{prefix}{part}": v for field, prefix in PREFIXES.items() for part, v in row[field].items()}
    return {field: value for field, value in row.items() if field not in PREFIXES} | nested
