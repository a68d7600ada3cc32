"""The corpus that all models of a study share: one split, one entropy model, one set of shards."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config import NgramConfig, PatchingConfig, RuleConfig
from ..data.prepare import ingest, score
from ..data.shards import documents_in, held_out, sample_documents
from ..data.sources import documents
from ..files import locked
from ..interop.directory import load_entropy, write_model
from ..interop.native import FORMAT, ModelConfig
from ..model.entropy import EntropyModel
from ..model.ngram import NgramEntropy
from ..patching.patcher import Patcher
from ..train.device import device_of
from ..train.distill import filled_table
from ..train.run import entropy_stage
from ..view.progress import console, progress
from .jobs import cached, keep_recipe
from .recipe import Contender, Study

LINE = 60  # lines of at least this many bytes are unlikely to occur twice by chance
SAMPLE = 2_000_000  # bytes of a sample on which token sizes are measured, and from which an n-gram table is filled
TIMED = 300_000  # bytes of a sample on which the speed of the entropy model is measured


@dataclass(frozen=True)
class Scored:
    """The training shards with entropies, and what gives them: an entropy model or an n-gram table."""

    model: EntropyModel | NgramEntropy
    shards: Path
    timing: Path
    """File of the measured speed."""

    def seconds(self, sample: list[bytes]) -> float:
        """Seconds per byte of a sample, measured once and as `Trial` measures training."""
        return cached(self.timing, lambda: {"per_byte": self._timed(sample)})["per_byte"]

    def _timed(self, texts: list[bytes]) -> float:
        patcher = Patcher(RuleConfig(kind="entropy", threshold=0.0), self.model)
        on_cpu = patcher.device.type == "cpu"
        clock, threads = (time.process_time, torch.get_num_threads()) if on_cpu else (time.perf_counter, 1)
        patcher.entropies(texts[:1])
        begun = clock()
        patcher.entropies(texts)
        return (clock() - begun) / threads / sum(map(len, texts))


@dataclass(frozen=True)
class Corpus:
    """The documents of a study and their location."""

    folder: Path
    entropy: Scored | None
    """Of the entropy model; None if no model needs it."""
    table: Scored | None
    """Of the n-gram table; None if no model needs it."""
    split: str
    """A hash of all documents. Results with different hashes cannot be compared."""
    overlap: float
    """Share of held-out bytes that are in lines of 60 bytes or more which also occur in the training text."""
    train_bytes: int
    val: list[bytes]
    test: list[bytes]

    def scored(self, model: Contender) -> Scored | None:
        """What gives the entropies of a model of the study; None if it needs none."""
        if not model.needs_entropy:
            return None
        return self.table if model.ngram_patcher else self.entropy

    def shards(self, model: Contender) -> Path:
        """Folder of the training shards of a model of the study."""
        scored = self.scored(model)
        return scored.shards if scored else self.folder / "train"

    def sample(self, size: int = SAMPLE) -> list[bytes]:
        """Training documents, evenly spread, of about `size` bytes in total."""
        return sample_documents(self.folder / "train", size)

    def seconds(self, scored: Scored | None) -> float | None:
        """Seconds per byte of text whose entropies are computed, measured once; None if there is nothing to compute."""
        return scored.seconds(self.sample(TIMED)) if scored else None


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
    entropy = table = None
    if name := next((name for name, model in study.models.items() if model.needs_entropy), None):
        patching, device = study.models[name].patching, device_of(study.training(name))
        assert patching is not None
        model = entropy_stage(folder, study.entropy, study.entropy_train, study.entropy_init, study.data).to(device)
        entropy = Scored(model, folder / "shards", folder / "entropy-seconds.json")
        _score(patching, entropy, corpus, train_bytes)
        if any(model.ngram_patcher for model in study.models.values()):
            ngrams = _table(folder / "ngram", model, corpus).to(device)
            table = Scored(ngrams, folder / "ngram-shards", folder / "ngram-seconds.json")
            _score(patching, table, corpus, train_bytes)
    return Corpus(corpus, entropy, table, split, overlap, train_bytes, val, test)


def _score(patching: PatchingConfig, scored: Scored, corpus: Path, train_bytes: int) -> None:
    """Write training shards that contain the entropy after every byte."""
    field = patching.calibrated
    patcher = Patcher(patching.rule(**({field: 0.0} if field else {})), scored.model)
    with progress() as bar:
        line = bar.add_task("prepare", total=train_bytes)
        score(corpus, scored.shards, patcher, lambda done: bar.update(line, advance=done))


def _table(folder: Path, entropy: EntropyModel, corpus: Path) -> NgramEntropy:
    """An n-gram table of the entropies that a model gives for a sample of the training text. It is stored in
    `folder`."""
    if not (folder / "config.json").is_file():
        patcher = Patcher(RuleConfig(kind="entropy", threshold=0.0), entropy)
        table = filled_table(NgramConfig(), patcher, sample_documents(corpus / "train", SAMPLE))
        write_model(folder, ModelConfig(format=FORMAT, ngram=table.config), None, table)
    table = load_entropy(folder)
    assert isinstance(table, NgramEntropy)
    return table


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
