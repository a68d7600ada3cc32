"""The report of a run: the model's bits per byte on held-out text, compared with compressors, with pictures."""

import gzip
import lzma
from collections import Counter
from pathlib import Path
from typing import Any

from ..config import Recipe, ReportConfig
from ..data.shards import held_out
from ..data.sources import Document
from ..files import write_json, write_text
from ..infer.score import Score
from ..lm import LM, load
from ..model.flops import flops_per_byte
from ..view.figures import training_curve
from ..view.html import page
from ..view.progress import progress
from . import metrics
from .loop import Progress
from .tasks import entropy_scores, held_out_score

WORDS = 4  # of held-out text that make a prompt
CHARACTERS = 40  # of such a prompt at most: some scripts have no spaces
PARAGRAPH = 600  # characters of held-out text that the report shows in colour


def write_report(recipe: Recipe, folder: Path, lm: LM, done: Progress) -> dict[str, Any]:
    """Measure a trained model on all held-out text, on its own device; write report.json, curve.png and
    patches.html."""
    records = held_out(folder / "corpus")
    documents = [document.data for document in records]
    report = measure(lm, records) | training(done)
    entropy = lm.patcher.model.config if lm.patcher.model else None
    report["flops_per_byte"] = flops_per_byte(lm.model.config, entropy, report["mean_patch_bytes"])["total"]
    shown = recipe.report
    prompt = shown.prompt or opening(records)
    completion = lm.generate(prompt, max_bytes=shown.max_bytes, temperature=shown.temperature, seed=shown.seed)
    report |= {"prompt": prompt, "sample": prompt + completion.text}
    if recipe.train.init is not None:
        report["example"] = example(load(recipe.train.init), lm, records, shown)
    patched = lm.patch(paragraph(documents))
    report["paragraph"] = patched.json() | {"summed": patched.summed}
    training_curve(metrics.read(folder / "metrics.jsonl"), folder / "curve.png")
    write_text(folder / "patches.html", page(patched, title=f"Patches of {folder.name}"))
    write_json(folder / "report.json", report, indent=2)
    return report


def opening(records: list[Document]) -> str:
    """A prompt of the run's own kind: the first one in held-out text or, if there is none, its first words."""
    for document in records:
        if document.prompt:
            return document.data[: document.prompt].decode("utf-8", "replace")
    words = paragraph([document.data for document in records]).split()[:WORDS]
    return f"{' '.join(words)[:CHARACTERS]} "


def example(former: LM, lm: LM, records: list[Document], shown: ReportConfig) -> dict[str, str]:
    """A prompt with the expected continuation, and the continuations before and after training. The prompt is the first
    one in held-out text or, if there is none, that of the recipe or the first words of held-out text."""
    prompted = next((document for document in records if document.prompt), None)
    own = shown.prompt or opening(records)
    prompt = prompted.data[: prompted.prompt] if prompted else own.encode("utf-8", "surrogateescape")
    options = {"max_bytes": shown.max_bytes, "temperature": shown.temperature, "seed": shown.seed}
    texts = {"prompt": prompt, "wanted": prompted.data[prompted.prompt :] if prompted else b""}
    texts |= {"before": former.generate(prompt, **options).data, "after": lm.generate(prompt, **options).data}
    return {name: data.decode("utf-8", "replace") for name, data in texts.items()}


def measure(lm: LM, records: list[Document]) -> dict[str, Any]:
    """Bits per byte of documents under the BLT, its entropy model and compressors, and the patch lengths. The BLT's
    figure counts only what is trained, without prompts. The other figures count whole documents."""
    documents = [document.data for document in records]
    together = b"".join(documents)
    report: dict[str, Any] = {"held_out_documents": len(documents), "held_out_bytes": len(together)}
    with progress() as bar:
        line = bar.add_task("score", total=len(together) + 2 * len(documents))  # plus BOS and EOS
        score, mean_patch = held_out_score(lm, records, lambda done: bar.update(line, advance=done))
    report |= {"mean_patch_bytes": mean_patch, "bpb": score.bits_per_byte}
    if lm.patcher.model is not None:
        report["entropy_model_bpb"] = Score.total(entropy_scores(lm.patcher.model, documents)).bits_per_byte
    report |= compressed(together)
    report["patch_histogram"] = patch_lengths(lm, documents)
    report["threshold_bits"] = lm.patcher.rule.threshold_bits
    return report


def compressed(data: bytes) -> dict[str, float]:
    """Bits per byte of gzip -9 and xz -9 for the data."""
    return {
        "gzip_bpb": 8 * len(gzip.compress(data, 9)) / len(data),
        "xz_bpb": 8 * len(lzma.compress(data, preset=9)) / len(data),
    }


def patch_lengths(lm: LM, documents: list[bytes]) -> dict[str, int]:
    """Number of patches of each length in bytes, shortest first."""
    counts: Counter[int] = Counter()
    for document in documents:
        counts.update(patch.length for patch in lm.patch(document))
    return {str(length): counts[length] for length in sorted(counts)}


def training(done: Progress) -> dict[str, Any]:
    """Steps, bytes, seconds and speed of the BLT's training."""
    return {
        "steps": done.step,
        "trained_bytes": done.bytes,
        "train_seconds": round(done.seconds, 3),
        "bytes_per_second": done.bytes / done.seconds if done.seconds else 0.0,
        "skipped_steps": done.skipped,
    }


def paragraph(documents: list[bytes]) -> str:
    """The first held-out paragraph with at least PARAGRAPH / 2 characters, cut to PARAGRAPH."""
    for block in documents[0].decode("utf-8", "replace").split("\n"):
        if len(block) >= PARAGRAPH // 2:
            return block[:PARAGRAPH]
    return documents[0][:PARAGRAPH].decode("utf-8", "replace")
