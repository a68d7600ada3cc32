"""The report of a run: what the model reached on held-out text, beside compressors, with pictures."""

import gzip
import json
import lzma
from collections import Counter
from pathlib import Path
from typing import Any

from ..config import Recipe
from ..data.batches import held_out
from ..infer.score import Score
from ..lm import LM, load
from ..model.flops import flops_per_byte
from ..view.figures import training_curve
from ..view.html import page
from ..view.progress import progress
from . import metrics
from .tasks import entropy_scores

PARAGRAPH = 600  # bytes of held-out text that are shown in colour


def write_report(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Measure the model of a run directory on all its held-out text; write report.json, curve.png and patches.html."""
    path = folder / "report.json"
    if path.is_file():
        return json.loads(path.read_text())
    lm = load(folder)
    documents = [document.data for document in held_out(folder / "corpus")]
    report = measure(lm, documents) | training(folder)
    entropy = lm.patcher.model.config if lm.patcher.model else None
    if report["mean_patch_bytes"]:
        report["flops_per_byte"] = flops_per_byte(lm.model.config, entropy, report["mean_patch_bytes"])["total"]
    shown = recipe.report
    completion = lm.generate(shown.prompt, max_bytes=shown.max_bytes, temperature=shown.temperature, seed=shown.seed)
    report["sample"] = shown.prompt + completion.text
    patched = lm.patch(paragraph(documents))
    report["paragraph"] = patched.json()
    training_curve(metrics.read(folder / "metrics.jsonl"), folder / "curve.png")
    (folder / "patches.html").write_text(page(patched, title=f"Patches of {folder.name}"))
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(report, indent=2) + "\n")
    partial.rename(path)
    return report


def measure(lm: LM, documents: list[bytes]) -> dict[str, Any]:
    """Bits per byte of documents under the BLT, its entropy model and compressors, and the sizes of their patches."""
    together = b"".join(documents)
    report: dict[str, Any] = {"held_out_documents": len(documents), "held_out_bytes": len(together)}
    with progress() as bar:
        line = bar.add_task("score", total=len(together))
        scores, report["mean_patch_bytes"] = lm.score_documents(documents, lambda done: bar.update(line, advance=done))
    report["bpb"] = Score.total(scores).bits_per_byte
    if lm.patcher.model is not None:
        report["entropy_model_bpb"] = Score.total(entropy_scores(lm.patcher.model, documents)).bits_per_byte
    report |= compressed(together)
    report["patch_histogram"] = patch_lengths(lm, documents)
    report["threshold_bits"] = lm.patcher.rule.threshold_bits
    return report


def compressed(data: bytes) -> dict[str, float]:
    """Bits per byte that gzip -9 and xz -9 need for the same bytes."""
    return {
        "gzip_bpb": 8 * len(gzip.compress(data, 9)) / len(data),
        "xz_bpb": 8 * len(lzma.compress(data, preset=9)) / len(data),
    }


def patch_lengths(lm: LM, documents: list[bytes]) -> dict[str, int]:
    """How many patches have how many bytes of text, shortest first."""
    counts: Counter[int] = Counter()
    for document in documents:
        counts.update(patch.length for patch in lm.patch(document))
    return {str(length): counts[length] for length in sorted(counts)}


def training(folder: Path) -> dict[str, Any]:
    """What training took, from metrics.jsonl: the last record of the BLT's stage, and speed over the whole of it."""
    records = [r for r in metrics.read(folder / "metrics.jsonl") if r["stage"] == "blt"]
    last = records[-1]
    return {
        "steps": last["step"],
        "trained_bytes": last["bytes"],
        "train_seconds": last["seconds"],
        "bytes_per_second": last["bytes"] / last["seconds"],
        "skipped_steps": last["skipped"],
    }


def paragraph(documents: list[bytes]) -> str:
    """The first paragraph of held-out text that is long enough to look at."""
    for block in documents[0].decode("utf-8", "replace").split("\n"):
        if len(block) >= PARAGRAPH // 2:
            return block[:PARAGRAPH]
    return documents[0][:PARAGRAPH].decode("utf-8", "replace")
