"""The corpus that all models of a study share: one split, one entropy model, one set of shards."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..data.batches import held_out
from ..data.prepare import ingest, score
from ..data.shards import opened, shard_paths
from ..data.sources import documents
from ..files import locked
from ..model.entropy import EntropyModel
from ..patching.patcher import Patcher
from ..train.run import entropy_stage
from ..train.sample import sample_documents
from ..view.progress import console, progress
from .jobs import keep_recipe
from .recipe import Contender, Study

LINE = 60  # bytes of a line that is long enough not to be the same by chance
SAMPLE = 2_000_000  # bytes that tokens are measured on


@dataclass(frozen=True)
class Corpus:
    """The documents of a study and where they are."""

    folder: Path
    scored: Path | None
    """Shards of the training text with entropies, where a model needs them."""
    entropy: EntropyModel | None
    split: str
    """A digest of the documents of all parts: results of other documents cannot be compared."""
    overlap: float
    """Share of held-out bytes in lines of 60 bytes and more that the training text has as well."""
    train_bytes: int
    val: list[bytes]
    test: list[bytes]

    def shards(self, with_entropy: bool) -> Path:
        """The shards of the training text."""
        return self.scored if with_entropy and self.scored else self.folder / "train"

    def sample(self, size: int = SAMPLE) -> list[bytes]:
        """Documents of the training text, evenly spread."""
        return sample_documents(self.folder / "train", size)


def prepared(study: Study, folder: Path) -> Corpus:
    """Do what is missing: read the documents, train the entropy model, score the training text.

    One process does it, and others wait. Raises UserError where the folder holds the results of another corpus, or an
    entropy model of another recipe.
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
    entropy = entropy_stage(folder, *sections, study.data) if name else None
    scored = _score(study.models[name], entropy, folder, train_bytes) if name and entropy else None
    return Corpus(corpus, scored, entropy, split, overlap, train_bytes, val, test)


def _score(model: Contender, entropy: EntropyModel, folder: Path, train_bytes: int) -> Path:
    """Write shards with the entropy of every byte of the training text."""
    assert model.patching is not None
    field = model.patching.calibrated
    patcher = Patcher(model.patching.rule(**({field: 0.0} if field else {})), entropy)
    with progress() as bar:
        line = bar.add_task("prepare", total=train_bytes)
        score(folder / "corpus", folder / "shards", patcher, lambda done: bar.update(line, advance=done))
    return folder / "shards"


def _digest(corpus: Path, test: list[bytes]) -> str:
    """A digest of the documents of all parts, whatever order the shards have them in."""
    digests = []
    for part in ("train", "val"):
        ordered = sorted(hashlib.sha256(data).digest() for data in _texts(corpus / part))
        digests.append(hashlib.sha256(b"".join(ordered)).digest())
    digests += [hashlib.sha256(data).digest() for data in test]
    return hashlib.sha256(b"".join(digests)).hexdigest()[:16]


def _overlap(corpus: Path, held_out: list[bytes]) -> float:
    """The share of held-out bytes in long lines that the training text has, too."""
    wanted = {line for data in held_out for line in data.split(b"\n") if len(line) >= LINE}
    seen = {line for data in _texts(corpus / "train") for line in data.split(b"\n") if line in wanted}
    total = sum(map(len, held_out))
    return sum(len(line) for data in held_out for line in data.split(b"\n") if line in seen) / total


def _texts(folder: Path) -> Iterator[bytes]:
    """The documents of a folder of shards, one after another."""
    for path in shard_paths(folder):
        with opened(path) as file:
            for batch in file.iter_batches(batch_size=64, columns=["data"]):
                yield from (data.as_py() for data in batch["data"])
