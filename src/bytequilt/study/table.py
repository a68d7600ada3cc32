"""The results of a study as files: one JSON document that says everything, one CSV with a row a run."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..config import UserError
from .corpus import Corpus
from .recipe import Study

FORMAT = 1
JSON, CSV = "results.json", "results.csv"
PREFIXES = {"flops_per_byte": "flops_", "budget": "budget_"}
"""How the fields within a field are called in the CSV."""

Row = Mapping[str, Any]

QUANTITIES: dict[str, Callable[[Row], float]] = {
    "test_bpb": lambda row: row["test_bpb"],
    "train_flops": lambda row: row["train_flops"],
    "train_flops_without_head": lambda row: row["train_flops_without_head"],
    "inference_flops": lambda row: row["flops_per_byte"]["total"],
    "inference_flops_without_head": lambda row: row["flops_per_byte"]["total"] - row["flops_per_byte"]["head"],
    "entropy_flops": lambda row: row["flops_per_byte"].get("entropy", 0.0),
    "seconds": lambda row: row["seconds"],
    "trained_bytes": lambda row: row["trained_bytes"],
    "unit_bytes": lambda row: row["unit_bytes"],
}
"""What is compared. FLOPs of training are of a whole run; of inference, forward and per byte of text, the entropy
model's included and also given apart. A unit is a patch or a token."""


@dataclass(frozen=True)
class Spread:
    """A quantity over the seeds of a model at one size."""

    mean: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        return cls(sum(values) / len(values), min(values), max(values), len(values))


Summary = dict[tuple[str, str], dict[str, Spread]]
"""Quantities by model and size, in the order of the runs."""


def corpus_facts(corpus: Corpus) -> dict[str, Any]:
    """What a reader has to know of the corpus; sizes in bytes of text."""
    return {
        "split": corpus.split,
        "overlap": corpus.overlap,
        "train_bytes": corpus.train_bytes,
        "val_bytes": sum(map(len, corpus.val)),
        "test_bytes": sum(map(len, corpus.test)),
    }


def write(
    study: Study, rows: Sequence[Row], folder: Path, machine: Row, corpus: Row, finetuned: Sequence[Row] = ()
) -> dict[str, Any]:
    """Write results.json and results.csv into a folder, and return what the first of them says.

    `machine` is of `runs.machine`, `corpus` of `corpus_facts`.
    """
    found = {"format": FORMAT, **machine, "corpus": dict(corpus), "study": study.model_dump(mode="json")}
    found |= {"rows": [dict(row) for row in rows], "finetuned": [dict(row) for row in finetuned]}
    folder.mkdir(parents=True, exist_ok=True)
    whole(folder / JSON, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    whole(folder / CSV, as_csv(rows))
    return found


def read(path: Path) -> dict[str, Any]:
    """The document of a results.json, or of the folder that has one. Raises UserError where it is none."""
    path = path / JSON if path.is_dir() else path
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"no results at {path} ({error.strerror})") from None
    except ValueError:
        raise UserError(f"{path} is not JSON") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"{path} does not hold results of a study, or those of another version")
    return found


def as_csv(rows: Sequence[Row]) -> str:
    """A line a run; a field that some runs lack is empty there, and fields within fields have columns of their own."""
    flat = [{(field, part): value for field, part, value in _cells(row)} for row in rows]
    fields = _once(field for row in flat for field, _ in row)
    columns = [(field, part) for field in fields for part in _once(p for row in flat for f, p in row if f == field)]
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(PREFIXES.get(field, "") + part for field, part in columns)
    lines.writerows([row.get(column) for column in columns] for row in flat)
    return text.getvalue()


def summary(rows: Iterable[Row]) -> Summary:
    """Mean and range over the seeds of every quantity; tries of the search for a learning rate do not count."""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if not row["search"]:
            grouped.setdefault((row["model"], row["size"]), []).append(row)
    return {
        place: {name: Spread.of([of(row) for row in group]) for name, of in QUANTITIES.items()}
        for place, group in grouped.items()
    }


def whole(path: Path, text: str) -> None:
    """Write a file, which is there once it is whole."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(path)


def _cells(row: Row) -> Iterable[tuple[str, str, Any]]:
    for field, value in row.items():
        if field in PREFIXES:
            yield from ((field, part, inner) for part, inner in value.items())
        else:
            yield field, field, value


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
