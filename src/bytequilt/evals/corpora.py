"""Bits per byte of files."""

from collections.abc import Sequence
from typing import Any

from ..baselines.baseline import Baseline
from ..config import DataConfig, UserError
from ..data.sources import documents
from ..data.unpack import LARGEST
from ..infer.score import Score
from ..lm import LM
from ..view.progress import progress

FULL = 32_768
"""Default limit of the context in ids: scoring time grows with the square of the context, and some documents are very
long."""
OBJECT = 256
"""Bytes of memory that a document and its score take besides the text. A small file may hold millions of them."""


def evaluate(lm: LM | Baseline, named: Sequence[tuple[str, list[bytes]]], context: int | None = None) -> dict[str, Any]:
    """Score documents that are grouped under names (file names); returns the output of `bytequilt eval --json`.

    `context` limits the number of ids before a predicted id: bytes for a BLT, tokens for a BPE. By default, a document
    of up to FULL ids is scored in its full context, and a longer one in a context of FULL. The result has the field
    `context` if a document was longer than the limit. `mean_patch_bytes` is None for a baseline, which has no patches.
    """
    limit = FULL if context is None else context
    rows, totals = [], []
    with progress() as bar:
        # plus BOS and EOS
        line = bar.add_task("score", total=sum(len(text) + 2 for _, file in named for text in file))
        for path, file in named:
            score = Score.total(lm.score_documents(file, lambda done: bar.update(line, advance=done), limit))
            rows.append({"path": path, "bpb": score.bits_per_byte, "bytes": score.bytes})
            totals.append(score)
    total = Score.total(totals)
    mean_patch = total.patch_bytes or None
    result = {"bpb": total.bits_per_byte, "bytes": total.bytes, "mean_patch_bytes": mean_patch, "files": rows}
    met = any(len(text) + 1 > limit for _, file in named for text in file)
    return result | ({"context": limit} if met else {})


def texts(path: str, field: str = "text") -> list[bytes]:
    """The documents of a file as bytes. Raises UserError if they fill more than LARGEST bytes of memory."""
    kept, size = [], 0
    for document in documents(path, DataConfig(field=field)):
        size += len(document.data) + OBJECT
        if size > LARGEST:
            raise UserError(f"the documents of {path[-150:]} fill more than {LARGEST:,} bytes of memory; give a part")
        kept.append(document.data)
    return kept
