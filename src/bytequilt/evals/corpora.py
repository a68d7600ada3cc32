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
"""Longest context that is read unless another is given: time grows as its square, and some texts have no end."""


def evaluate(lm: LM | Baseline, named: Sequence[tuple[str, list[bytes]]], context: int | None = None) -> dict[str, Any]:
    """Score each of the documents that stand under a name: what `bytequilt eval --json` prints.

    `context` limits what is read before an id: bytes of a BLT, tokens of a BPE. Where it is not given, a document of up
    to FULL bytes is read in its full context, and a longer one in a context of FULL. The result has a `context` where
    some document met that limit; `mean_patch_bytes` is None for a baseline, which has no patches.
    """
    limit = FULL if context is None else context
    rows, totals = [], []
    with progress() as bar:
        line = bar.add_task("score", total=sum(len(text) + 2 for _, file in named for text in file))  # BOS, EOS
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
    """The documents of a file."""
    return [document.data for document in documents(path, DataConfig(field=field))]
