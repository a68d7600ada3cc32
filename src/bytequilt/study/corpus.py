"""The corpus that all models of a study share: one split, one entropy model, one set of shards."""

import fcntl
import hashlib
from dataclasses import dataclass
from pathlib import Path

from ..config import Recipe, UserError
from ..data.batches import held_out
from ..data.prepare import ingest, score
from ..data.shards import pq, shard_paths
from ..data.sources import documents
from ..model.entropy import EntropyModel
from ..patching.patcher import Patcher
from ..train.run import entropy_stage
from ..train.sample import sample_documents
from ..view.progress import console, progress
from .recipe import Rate, Study

LINE = 60  # bytes of a line that is long enough not to be the same by chance
SAMPLE = 2_000_000  # bytes that tokens are measured on
LEARN = 12_000_000  # bytes that a vocabulary is learnt from


@dataclass(frozen=True)
class Corpus:
    """Where the text is, and what it is."""

    folder: Path
    scored: Path | None
    """Shards of the training text with entropies, where a model needs them."""
    entropy: EntropyModel | None
    split: str
    """Names the documents of both parts: studies of other documents cannot be compared."""
    overlap: float
    """Share of held-out bytes in lines of 60 bytes and more that the training text has as well."""
    train_bytes: int
    val: list[bytes]
    test: list[bytes]

    @property
    def plain(self) -> Path:
        """Shards of the training text alone."""
        return self.folder / "train"

    def sample(self, size: int = SAMPLE) -> list[bytes]:
        """Documents of the training text, evenly spread."""
        return sample_documents(self.plain, size)


def prepared(study: Study, folder: Path) -> Corpus:
    """Do what is missing: read the documents, train the entropy model, score the training text.

    One process does it, and others wait. Raises UserError where the folder holds the results of another corpus, or an
    entropy model of another recipe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _prepared(study, folder)


def _prepared(study: Study, folder: Path) -> Corpus:
    corpus, recipe = folder / "corpus", _recipe(study)
    manifest = ingest(study.data, corpus)
    val = [document.data for document in held_out(corpus)]
    test = [d.data for source in study.test for d in documents(source, study.data)] or val
    split = _digest(corpus, test)
    same_as_before(folder / "split", split, f"{folder} holds results of another corpus")
    made_of = study.model_dump_json(include={"entropy", "entropy_train", "entropy_init"})
    same_as_before(folder / "entropy.json", made_of, f"{folder} holds an entropy model of another recipe")
    overlap = _overlap(corpus, val + (test if study.test else []))
    if overlap:
        console.print(f"warning: {overlap:.2%} of the held-out text stands in the training text, line by line")
    sections = (study.entropy, study.entropy_train, study.entropy_init)
    entropy, scored = (entropy_stage(folder, *sections, study.data), folder / "shards") if recipe else (None, None)
    if entropy is not None and scored is not None:
        patcher = Patcher(recipe.patching.rule(**{recipe.patching.calibrated: 0.0}), entropy)
        with progress() as bar:
            line = bar.add_task("prepare", total=manifest["train"]["bytes"])
            score(corpus, scored, patcher, lambda done: bar.update(line, advance=done))
    return Corpus(corpus, scored, entropy, split, overlap, manifest["train"]["bytes"], val, test)


def same_as_before(path: Path, text: str, complaint: str) -> None:
    """Keep a text in a file. Raises UserError, with the complaint, where the file holds another."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    elif path.read_text() != text:
        raise UserError(f"{complaint}; delete {path.parent}, or give another --out")


def _recipe(study: Study) -> Recipe | None:
    """The recipe of the stages that BLTs by entropy share; None where there is no such model."""
    for name, model in study.models.items():
        if model.patching is not None and model.patching.needs_entropy:
            return Recipe(
                data=study.data,
                entropy=study.entropy,
                entropy_train=study.entropy_train,
                entropy_init=study.entropy_init,
                patching=model.patching,
                model=study.network(name, study.sizes(name)[0]),
                train=study.training(name, 1, Rate(1e-3, 1.0), 0),
            )
    return None


def _digest(corpus: Path, test: list[bytes]) -> str:
    """A name of the documents of all parts, whatever order the shards have them in."""
    found = []
    for part in ("train", "val"):
        digests = sorted(hashlib.sha256(data).digest() for data in _texts(corpus / part))
        found.append(hashlib.sha256(b"".join(digests)).digest())
    found += [hashlib.sha256(data).digest() for data in test]
    return hashlib.sha256(b"".join(found)).hexdigest()[:16]


def _overlap(corpus: Path, held: list[bytes]) -> float:
    """The share of held-out bytes that stand in long lines of the training text, too."""
    wanted = {line for data in held for line in data.split(b"\n") if len(line) >= LINE}
    seen = {line for data in _texts(corpus / "train") for line in data.split(b"\n") if line in wanted}
    total = sum(map(len, held))
    return sum(len(line) for data in held for line in data.split(b"\n") if line in seen) / total


def _texts(folder: Path):
    """The documents of a folder of shards, one after another."""
    for path in shard_paths(folder):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=64, columns=["data"]):
                yield from (data.as_py() for data in batch["data"])
