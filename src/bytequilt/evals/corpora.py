"""Bits per byte of files."""

from collections.abc import Sequence
from typing import Any

from ..config import DataConfig, UserError
from ..data.sources import documents
from ..infer.score import Score
from ..lm import load
from ..view.progress import progress


def evaluate_files(model: str, files: Sequence[str], field: str = "text", device: str = "cpu") -> dict[str, Any]:
    """Score each document of each file in its full context: what `bytequilt eval --json` prints."""
    if not files:
        raise UserError("eval needs a file: bytequilt eval MODEL FILE...")
    found = {path: [d.data for d in documents(path, DataConfig(field=field))] for path in files}
    lm = load(model, device)
    rows, patches, total = [], 0.0, Score(0.0, 0)
    with progress() as bar:
        line = bar.add_task("score", total=sum(len(d) for texts in found.values() for d in texts))
        for path, texts in found.items():
            scores, mean_patch = lm.score_documents(texts, lambda done: bar.update(line, advance=done))
            score = sum(scores, Score(0.0, 0))
            if not score.bytes:
                raise UserError(f"{path} is empty: there are no bits per byte of nothing")
            rows.append({"path": path, "bpb": score.bits_per_byte, "bytes": score.bytes})
            total, patches = total + score, patches + score.bytes / mean_patch
    mean_patch = total.bytes / patches
    return {"bpb": total.bits_per_byte, "bytes": total.bytes, "mean_patch_bytes": mean_patch, "files": rows}
