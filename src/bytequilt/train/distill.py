"""Distillation of patchers: replace a model's entropy model by one that costs a fraction of it."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..codec import encode
from ..config import Config, DataConfig, EntropyConfig, NgramConfig, Positive, TrainConfig
from ..data.batches import Batch, Batches
from ..data.prepare import ingest
from ..data.shards import held_out, sample_documents
from ..files import write_json
from ..infer.score import Score
from ..lm import LM, load
from ..model.entropy import EntropyModel
from ..model.ngram import NgramEntropy
from ..patching.calibration import first_bytes
from ..patching.patcher import Patcher
from ..view.progress import progress
from .checks import check_data, check_entropy, check_training
from .claim import claimed_for
from .device import device_of
from .loop import fit
from .tasks import EntropyTask

EVERY = 8  # every eighth document of the sample calibrates the threshold; an n-gram table is filled from the others
CALIBRATED = 500_000  # bytes of the sample on which both patchers get the same mean patch size, at most
PIECE = 200_000  # bytes per piece in which documents are scored to fill the tables
TIMED = 500  # number of steps over which the median time per byte is taken


class Lean(Config):
    """Options of the cheap patcher."""

    kind: Literal["ngram", "window"] = "ngram"
    sample_bytes: Positive = 2_000_000
    """Bytes of the corpus from which an n-gram table is filled and the threshold is calibrated."""
    val_every: Annotated[int, Field(ge=2)] = 10
    """One document in this many is held out for the report."""
    test_bytes: Positive = 50_000
    """Held-out bytes on which the report measures."""
    ngram: NgramConfig = NgramConfig()
    window: EntropyConfig = EntropyConfig(dim=64, layers=1, heads=2, ffn_dim=128, window=64)
    train: TrainConfig = TrainConfig(
        steps=600, rows=8, row_bytes=512, lr=3e-3, schedule="wsd", decay=0.3, eval_every=300, eval_bytes=30_000
    )


class DistillTask(EntropyTask):
    """Trains a small entropy model on the predicted distributions of a large one (the teacher), by cross-entropy."""

    def __init__(self, network: EntropyModel, teacher: EntropyModel, held_out: list[bytes]) -> None:
        super().__init__(network, held_out)
        self.teacher = teacher

    def loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            wanted = self.teacher(batch.ids_BN)[:, :-1].softmax(-1)
        logits = self.network(batch.ids_BN)[:, :-1].float()
        costs_BN = F.cross_entropy(logits.transpose(1, 2), wanted.transpose(1, 2), reduction="none")
        return (costs_BN * batch.learn_BN[:, 1:]).sum()


def distill(name: str, files: tuple[str, ...], lean: Lean, folder: Path) -> dict[str, Any]:
    """Make a cheap patcher for the model `name` from text files, write the model with it to `folder/model`, and return
    the report.

    The threshold is calibrated to the model's mean patch size. Raises UserError before any work if the model has no
    entropy model.
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
    test = list(first_bytes((document.data for document in held_out(folder / "corpus")), lean.test_bytes))
    sample = sample_documents(shards, lean.sample_bytes)
    student: EntropyModel | NgramEntropy
    if lean.kind == "ngram":
        texts = [text for at, text in enumerate(sample) if at % EVERY] or sample
        student = filled_table(lean.ngram, lm.patcher, texts)
    else:
        student = EntropyModel(lean.window)
        fit(DistillTask(student, teacher, test), Batches(shards, lean.train, None), lean.train, folder, "patcher")
    documents, patcher = list(first_bytes(sample[::EVERY], CALIBRATED)), Patcher(lm.patcher.rule, student.eval())
    patcher.calibrate(documents, lm.patcher.mean_bytes(documents))
    result = LM(lm.model, patcher, lm.patch_bytes)
    result.save(folder / "model")
    report = {"kind": lean.kind} | compare(lm, result, test)
    write_json(folder / "report.json", report, indent=2)
    return report


def compare(lm: LM, lean: LM, documents: list[bytes]) -> dict[str, Any]:
    """Compare a cheap patcher with the entropy model of the same BLT on held-out text: agreement, bits per byte,
    time."""
    device = lm.model.decoder.head.weight.device
    ids = [torch.from_numpy(encode(document))[None].to(device) for document in documents]
    # without the BOS, which always closes
    closes = [torch.cat([model.patcher(i).closes_BN[0, 1:] for i in ids]) for model in (lm, lean)]
    both, full, own = (int(x.sum()) for x in (closes[0] & closes[1], *closes))
    report: dict[str, Any] = {
        "test_bytes": sum(map(len, documents)),
        "same_decisions": float((closes[0] == closes[1]).float().mean()),
        "boundaries_found": both / max(1, full),
        "boundaries_right": both / max(1, own),
    }
    for side, model in (("full", lm), ("lean", lean)):
        score = Score.total(model.score_documents(documents))
        report[side] = {
            "bpb": score.bits_per_byte,
            "mean_patch_bytes": score.patch_bytes,
            "microseconds_per_byte": _step_time(model.patcher, ids[0][0]) * 1e6,
        }
    return report


def filled_table(config: NgramConfig, patcher: Patcher, documents: list[bytes]) -> NgramEntropy:
    """An n-gram table of the entropies that a patcher's model gives for these documents."""
    table = NgramEntropy(config)
    table.learn(_scored(patcher, documents))
    return table


def _scored(patcher: Patcher, documents: list[bytes]) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of ids and entropies, for pieces of the documents."""
    with progress() as bar:
        line = bar.add_task("patcher", total=sum(map(len, documents)))
        for document in documents:
            for at in range(0, max(1, len(document)), PIECE):
                data = document[at : at + PIECE]
                yield torch.from_numpy(encode(data, eos=True)), torch.from_numpy(patcher.entropies([data])[0])
                bar.update(line, advance=len(data))


def _step_time(patcher: Patcher, ids_n: Tensor) -> float:
    """Median seconds per id of the streaming entropy model."""
    cache, times = patcher.cache(), []
    for id in ids_n.repeat(1 + TIMED // len(ids_n))[:TIMED]:
        begun = time.perf_counter()
        patcher.nats_step(id[None], cache)
        times.append(time.perf_counter() - begun)
    return sorted(times)[TIMED // 2]
