"""Bits per byte of files."""

from collections.abc import Sequence
from typing import Any

from ..baselines.baseline import Baseline
from ..config import DataConfig
from ..data.sources import documents
from ..infer.score import Score
from ..lm import LM
from ..view.progress import progress

FULL = 32_768
"""Default limit of the context in ids: scoring time grows with the square of the context, and some documents are very
long."""


def evaluate_files(
    lm: LM | Baseline, files: Sequence[str], field: str = "text", context: int | None = None
) -> dict[str, Any]:
    """Score each document of each file; returns the output of `bytequilt eval --json`.

    `context` limits the number of ids before a predicted id: bytes for a BLT, tokens for a BPE. By default, a document
    of up to FULL ids is scored in its full context, and a longer one in a context of FULL. The result has the field
    `context` if a document was longer than the limit. `mean_patch_bytes` is None for a baseline, which has no patches.
    Raises UserError for a file that is missing, empty or damaged.
    """
    limit = FULL if context is None else context
    documents_of = [texts(path, field) for path in files]
    rows, totals = [], []
    with progress() as bar:
        # plus BOS and EOS
        line = bar.add_task("score", total=sum(len(text) + 2 for file in documents_of for text in file))
        for path, file in zip(files, documents_of, strict=True):
            score = Score.total(lm.score_documents(file, lambda done: bar.update(line, advance=done), limit))
            rows.append({"path": path, "bpb": score.bits_per_byte, "bytes": score.bytes})
            totals.append(score)
    total = Score.total(totals)
    mean_patch = total.patch_bytes or None
    result = {"bpb": total.bits_per_byte, "bytes": total.bytes, "mean_patch_bytes": mean_patch, "files": rows}
    met = any(len(text) + 1 > limit for file in documents_of for text in file)
    return result | ({"context": limit} if met else {})


def texts(path: str, field: str = "text") -> list[bytes]:
    """The documents of a file as bytes."""
    return [document.data for document in documents(path, DataConfig(field=field))]
