"""The corpus that all models of a study share: one split, one entropy model, one set of shards."""

import hashlib
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from ..config import RuleConfig
from ..data.prepare import ingest, score
from ..data.shards import documents_in, held_out, sample_documents
from ..data.sources import documents
from ..files import locked
from ..model.entropy import EntropyModel
from ..patching.patcher import Patcher
from ..train.device import device_of
from ..train.run import entropy_stage
from ..view.progress import console, progress
from .jobs import cached, keep_recipe
from .recipe import Contender, Study

LINE = 60  # lines of at least this many bytes are unlikely to occur twice by chance
SAMPLE = 2_000_000  # bytes of a sample on which token sizes are measured
TIMED = 300_000  # bytes of a sample on which the speed of the entropy model is measured


@dataclass(frozen=True)
class Corpus:
    """The documents of a study and their location."""

    folder: Path
    scored: Path | None
    """Training shards with entropies; None if no model needs them."""
    entropy: EntropyModel | None
    split: str
    """A hash of all documents. Results with different hashes cannot be compared."""
    overlap: float
    """Share of held-out bytes that are in lines of 60 bytes or more which also occur in the training text."""
    train_bytes: int
    val: list[bytes]
    test: list[bytes]

    def shards(self, with_entropy: bool) -> Path:
        """Folder of the training shards."""
        return self.scored if with_entropy and self.scored else self.folder / "train"

    def sample(self, size: int = SAMPLE) -> list[bytes]:
        """Training documents, evenly spread, of about `size` bytes in total."""
        return sample_documents(self.folder / "train", size)

    @cached_property
    def entropy_seconds(self) -> float | None:
        """Seconds per byte of text whose entropies are computed, measured once as `Trial` measures training; None
        without an entropy model."""
        if self.entropy is None or self.scored is None:
            return None
        return cached(self.scored.parent / "entropy-seconds.json", lambda: {"per_byte": self._timed()})["per_byte"]

    def _timed(self) -> float:
        patcher, texts = Patcher(RuleConfig(kind="entropy", threshold=0.0), self.entropy), self.sample(TIMED)
        on_cpu = patcher.device.type == "cpu"
        clock, threads = (time.process_time, torch.get_num_threads()) if on_cpu else (time.perf_counter, 1)
        patcher.entropies(texts[:1])
        begun = clock()
        patcher.entropies(texts)
        return (clock() - begun) / threads / sum(map(len, texts))


def prepared(study: Study, folder: Path) -> Corpus:
    """The corpus of a study; missing parts are made first: read documents, train the entropy model, compute entropies.

    One process works while others wait. Raises UserError if the folder holds another corpus, or an entropy model of
    another recipe.
    """
    with locked(folder, wait=True):
        return _prepared(study, folder)


def _prepared(study: Study, folder: Path) -> Corpus:
    corpus = folder / "corpus"
    train_bytes = ingest(study.data, corpus)["train"]["bytes"]
    val = [document.data for document in held_out(corpus)]
    test = [document.data for source in study.test for document in documents(source, study.data)] or val
    split = _digest(corpus, test)
    keep_recipe(folder / "split.json", split, f"{folder} holds results of another corpus")
    made_of = study.model_dump(mode="json", include={"entropy", "entropy_train", "entropy_init"})
    keep_recipe(folder / "entropy.json", made_of, f"{folder} holds an entropy model of another recipe")
    overlap = _overlap(corpus, val + (test if study.test else []))
    if overlap:
        console.print(f"warning: {overlap:.2%} of the held-out text stands in the training text, line by line")
    name = next((name for name, model in study.models.items() if model.needs_entropy), None)
    sections = (study.entropy, study.entropy_train, study.entropy_init)
    entropy = entropy_stage(folder, *sections, study.data).to(device_of(study.training(name))) if name else None
    scored = _score(study.models[name], entropy, folder, train_bytes) if name and entropy else None
    return Corpus(corpus, scored, entropy, split, overlap, train_bytes, val, test)


def _score(model: Contender, entropy: EntropyModel, folder: Path, train_bytes: int) -> Path:
    """Write training shards that contain the entropy after every byte. Returns their folder."""
    assert model.patching is not None
    field = model.patching.calibrated
    patcher = Patcher(model.patching.rule(**({field: 0.0} if field else {})), entropy)
    with progress() as bar:
        line = bar.add_task("prepare", total=train_bytes)
        score(folder / "corpus", folder / "shards", patcher, lambda done: bar.update(line, advance=done))
    return folder / "shards"


def _digest(corpus: Path, test: list[bytes]) -> str:
    """A hash of the documents of all parts; the order of training documents does not matter."""
    digests = []
    for part in ("train", "val"):
        ordered = sorted(hashlib.sha256(data).digest() for data in documents_in(corpus / part))
        digests.append(hashlib.sha256(b"".join(ordered)).digest())
    digests += [hashlib.sha256(data).digest() for data in test]
    return hashlib.sha256(b"".join(digests)).hexdigest()[:16]


def _overlap(corpus: Path, held_out: list[bytes]) -> float:
    """Share of held-out bytes in long lines that also occur in the training text."""
    wanted = {line for data in held_out for line in data.split(b"\n") if len(line) >= LINE}
    seen = {line for data in documents_in(corpus / "train") for line in data.split(b"\n") if line in wanted}
    total = sum(map(len, held_out))
    return sum(len(line) for data in held_out for line in data.split(b"\n") if line in seen) / total
