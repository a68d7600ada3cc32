"""Cheap patchers: what takes the place of a model's entropy model and costs a fraction of it."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..codec import encode
from ..config import Config, DataConfig, EntropyConfig, NgramConfig, Positive, RuleConfig, TrainConfig
from ..data.batches import Batch, Batches, held_out
from ..data.prepare import ingest
from ..files import write_json
from ..infer.score import Score
from ..lm import LM, load
from ..model.entropy import EntropyModel
from ..model.ngram import NgramEntropy
from ..patching import rules
from ..patching.patcher import Patcher
from ..view.progress import progress
from .checks import check_data, check_entropy, check_training
from .claim import claimed_for
from .device import device_of
from .loop import fit
from .sample import sample_documents
from .tasks import entropy_scores

EIGHTH = 8  # one document of so many of the sample is for the threshold; an n-gram table learns from the others
PIECE = 200_000  # bytes that are scored for the tables at a time
TIMED = 500  # steps of which the median is the time a byte takes


class Lean(Config):
    """Options of the cheap patcher to make."""

    kind: Literal["ngram", "window"] = "ngram"
    sample_bytes: Positive = 2_000_000
    """Bytes of the corpus that the threshold is calibrated on, and an n-gram table filled from."""
    val_every: Annotated[int, Field(ge=2)] = 10
    """Every so many documents, one is held out for the report."""
    test_bytes: Positive = 50_000
    """Held-out bytes that the report measures."""
    ngram: NgramConfig = NgramConfig()
    window: EntropyConfig = EntropyConfig(dim=64, layers=1, heads=2, ffn_dim=128, window=64)
    train: TrainConfig = TrainConfig(
        steps=600, rows=8, row_bytes=512, lr=3e-3, schedule="wsd", decay=0.3, eval_every=300, eval_bytes=30_000
    )


class DistillTask:
    """Trains a small entropy model to give the distributions of a large one."""

    def __init__(self, network: EntropyModel, teacher: EntropyModel, held_out: list[bytes]) -> None:
        self.network, self.teacher, self.held_out = network, teacher, held_out

    def bytes_of(self, batch: Batch) -> int:
        return batch.targets

    def loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            wanted = self.teacher(batch.ids_BN)[:, :-1].softmax(-1)
        logits = self.network(batch.ids_BN)[:, :-1].float()
        costs_BN = F.cross_entropy(logits.transpose(1, 2), wanted.transpose(1, 2), reduction="none")
        return (costs_BN * batch.learn_BN[:, 1:]).sum()

    def evaluate(self) -> dict[str, float]:
        return {"val_bpb": Score.total(entropy_scores(self.network, self.held_out)).bits_per_byte}


def distill(name: str, files: tuple[str, ...], lean: Lean, folder: Path) -> dict[str, Any]:
    """Make a cheap patcher for a model from text, and write the model with it to `folder/model`; returns the report.

    Its threshold is calibrated to the mean patch of the model. Raises UserError where the model has no entropy model,
    before any work.
    """
    data = DataConfig(train=files, val_every=lean.val_every)
    check_entropy(name)
    check_data(data)
    check_training(lean.train)
    device = device_of(lean.train) if lean.kind == "window" else torch.device("cpu")  # tables are filled on the CPU
    lm = load(name, str(device))
    about = {"patcher": lm.patcher.fingerprint, "files": files, "lean": lean.model_dump(mode="json")}
    with claimed_for(about, folder, "distill.json"):
        return _distilled(lm, data, lean, folder)


def _distilled(lm: LM, data: DataConfig, lean: Lean, folder: Path) -> dict[str, Any]:
    teacher = lm.patcher.model
    assert isinstance(teacher, EntropyModel)
    ingest(data, folder / "corpus")
    shards = folder / "corpus" / "train"
    test = _cut([document.data for document in held_out(folder / "corpus")], lean.test_bytes)
    sample = sample_documents(shards, lean.sample_bytes)
    student: EntropyModel | NgramEntropy
    if lean.kind == "ngram":
        student = NgramEntropy(lean.ngram)
        student.learn(_scored(lm.patcher, [text for at, text in enumerate(sample) if at % EIGHTH] or sample))
    else:
        student = EntropyModel(lean.window)
        fit(DistillTask(student, teacher, test), Batches(shards, lean.train, None), lean.train, folder, "patcher")
    result = LM(lm.model, _calibrated(lm, student, sample[::EIGHTH]), lm.patch_bytes)
    result.save(folder / "model")
    report = {"kind": lean.kind} | compare(lm, result, test)
    write_json(folder / "report.json", report, indent=2)
    return report


def compare(lm: LM, lean: LM, documents: list[bytes]) -> dict[str, Any]:
    """How near a cheap patcher comes to the entropy model of the same BLT, on held-out text, and what it saves."""
    device = lm.model.decoder.head.weight.device
    ids = [torch.from_numpy(encode(document))[None].to(device) for document in documents]
    closes = [torch.cat([model.patcher(i).closes_BN[0, 1:] for i in ids]) for model in (lm, lean)]  # BOS always closes
    both = int((closes[0] & closes[1]).sum())
    sides = {}
    for side, model, mine in zip(("full", "lean"), (lm, lean), closes, strict=True):
        score = Score.total(model.score_documents(documents))
        sides[side] = {
            "bpb": score.bits_per_byte,
            "mean_patch_bytes": score.patch_bytes,
            "microseconds_per_byte": _step_time(model.patcher, ids[0][0]) * 1e6,
            "found": both / max(1, int(mine.sum())),
        }
    result, right = (sides[side].pop("found") for side in ("full", "lean"))
    return {
        "test_bytes": sum(map(len, documents)),
        "same_decisions": float((closes[0] == closes[1]).float().mean()),
        "boundaries_found": result,
        "boundaries_right": right,
        **sides,
    }


def _scored(patcher: Patcher, documents: list[bytes]) -> Iterator[tuple[Tensor, Tensor]]:
    """Documents and their entropies, piece by piece."""
    with progress() as bar:
        line = bar.add_task("patcher", total=sum(map(len, documents)))
        for document in documents:
            for at in range(0, max(1, len(document)), PIECE):
                data = document[at : at + PIECE]
                yield torch.from_numpy(encode(data, eos=True)), torch.from_numpy(patcher.entropies([data])[0])
                bar.update(line, advance=len(data))


def _calibrated(lm: LM, student: EntropyModel | NgramEntropy, sample: list[bytes]) -> Patcher:
    """A patcher whose mean patch on the sample is that of the model."""
    documents, rule = _cut(sample, 500_000), lm.patcher.rule
    patcher = Patcher(rule, student.eval())
    patcher.calibrate(documents, _mean_patch(rule, lm.patcher, documents))
    return patcher


def _mean_patch(rule: RuleConfig, patcher: Patcher, documents: list[bytes]) -> float:
    starts = 0
    for document, nats in zip(documents, patcher.entropies(documents), strict=True):
        ids_BN = torch.from_numpy(encode(document, eos=True))[None]
        start_BN = rules.patches(rule, ids_BN, torch.from_numpy(nats)[None]).start_BN
        starts += int((start_BN & (ids_BN >= 4)).sum())
    return sum(map(len, documents)) / starts


def _cut(documents: list[bytes], limit: int) -> list[bytes]:
    """The first documents, of so many bytes in all."""
    result: list[bytes] = []
    for document in documents:
        if limit > 0:
            result.append(document[:limit])
            limit -= len(document)
    return result


def _step_time(patcher: Patcher, ids_n: Tensor) -> float:
    """Median seconds of a streaming step."""
    cache, times = patcher.cache(), []
    for id in ids_n.repeat(1 + TIMED // len(ids_n))[:TIMED]:
        begun = time.perf_counter()
        patcher.nats_step(id[None], cache)
        times.append(time.perf_counter() - begun)
    return sorted(times)[TIMED // 2]
