"""Bits per byte of files."""

from collections.abc import Sequence
from typing import Any

from ..baselines.baseline import Baseline
from ..config import DataConfig
from ..data.sources import documents
from ..infer.score import Score
from ..lm import LM
from ..view.progress import progress


def evaluate_files(lm: LM | Baseline, files: Sequence[str], field: str = "text") -> dict[str, Any]:
    """Score each document of each file in its full context: what `bytequilt eval --json` prints.

    `mean_patch_bytes` is None for a baseline, which has no patches. Raises UserError for a file that is missing, empty
    or damaged.
    """
    documents_of = [texts(path, field) for path in files]
    rows, patches, totals = [], 0.0, []
    with progress() as bar:
        line = bar.add_task("score", total=sum(len(text) + 2 for file in documents_of for text in file))  # BOS, EOS
        for path, file in zip(files, documents_of, strict=True):
            scores, mean_patch = lm.score_documents(file, lambda done: bar.update(line, advance=done))
            score = Score.total(scores)
            rows.append({"path": path, "bpb": score.bits_per_byte, "bytes": score.bytes})
            totals.append(score)
            patches += score.bytes / mean_patch if mean_patch else 0.0
    total = Score.total(totals)
    mean_patch = total.bytes / patches if patches else None
    return {"bpb": total.bits_per_byte, "bytes": total.bytes, "mean_patch_bytes": mean_patch, "files": rows}


def texts(path: str, field: str = "text") -> list[bytes]:
    """The documents of a file."""
    return [document.data for document in documents(path, DataConfig(field=field))]
