"""Prepares a corpus: sources -> shards of documents -> shards with entropies. An interrupted step can be resumed."""

import hashlib
import shutil
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..codec import grouped
from ..config import DataConfig, UserError
from ..files import read_json, write_json
from ..patching.patcher import Patcher
from .corpus import Corpus, Counted
from .shards import (
    FORMAT,
    SCORED_SCHEMA,
    finished,
    pa,
    rank_and_world,
    read_about,
    remove_others,
    row_groups,
    shard_paths,
    shard_writer,
    write_corpus_shard,
)
from .sources import Document

MANIFEST = "manifest.json"
COUNTS = "counts.partial"
"""Folder for the counts of each source file, while several processes prepare a corpus."""
SPLITS = ("train", "val")
CALL_BYTES = 100_000
"""Maximum text bytes in one call of the patcher. A longer text has a call of its own."""


def ingest(config: DataConfig, folder: Path) -> dict[str, Any]:
    """Write the documents of all sources to `folder/train` and `folder/val`, and return the manifest.

    Each rank reads only the files that its own shards contain, and writes these shards. A rank that ends when all
    shards are complete writes the manifest. Finished shards are kept unless the configuration has changed; a change of
    a source file is not detected. A file that is in both `train` and `val` is held out only. Raises UserError if there
    is no training document or no held-out document.
    """
    if not config.train:
        raise UserError("`train` of [data] names no source")
    # documents do not depend on `streams`
    mark = hashlib.sha256(config.model_dump_json(exclude={"streams"}).encode()).hexdigest()
    manifest = read_manifest(folder)
    if manifest and manifest["corpus"] == mark and _complete(folder, manifest):
        return manifest
    (folder / MANIFEST).unlink(missing_ok=True)
    corpus, splits = Corpus(config), _splits(config, folder, mark)
    with _kept_when_stopped(lambda: sum(split.shards for split in splits), folder):
        counted = _deal(corpus, splits, folder, mark)
        manifest = {"format": FORMAT, "corpus": mark} | _fill(corpus, splits, counted)
    if splits[0].rank == 0:
        for note in filter(None, (corpus.left_out(), corpus.not_utf8())):
            print(note, file=sys.stderr)
    if _complete(folder, manifest):
        for name in SPLITS:
            remove_others(folder / name, [_name(index) for index in range(manifest[name]["shards"])])
        write_json(folder / MANIFEST, manifest, indent=2)
        shutil.rmtree(folder / COUNTS, ignore_errors=True)
    return manifest


def _splits(config: DataConfig, folder: Path, mark: str) -> list["_Split"]:
    sources = (config.train, config.val or config.train)
    return [_Split(folder / name, names, config, mark) for name, names in zip(SPLITS, sources, strict=True)]


def _fill(corpus: Corpus, splits: list["_Split"], counted: Mapping[int, np.ndarray]) -> dict[str, Any]:
    """Write this rank's shards; return the part of the manifest that describes the shards of all ranks."""
    for held_out, source, document in corpus.documents(counted):
        splits[held_out].add(source, document)
    for split, what in zip(splits, ("left to train on", "left to hold out"), strict=True):
        if not (split.shards or split.rows):
            names = ", ".join(corpus.config.train)[:100]
            raise UserError(f"{names}: no text is {what}; give more, or sources in `val`")
    return {name: split.close() for name, split in zip(SPLITS, splits, strict=True)}


def _deal(corpus: Corpus, splits: list["_Split"], folder: Path, mark: str) -> dict[int, np.ndarray]:
    """Assign shards to this rank. Return the counts of the parts (source files) that it need not read, by number.

    A dry run over the counts of all parts shows which parts each shard contains. Each rank gets a range of consecutive
    shards, and must read the parts of those that are unfinished. With one process, one part or very few documents the
    result is empty: all parts are read, and ranks take shards in turn.
    """
    rank, world = rank_and_world()
    if world == 1 or len(corpus.parts) == 1:
        return {}
    counted = corpus.counts(folder / COUNTS / mark[:16], rank, world)
    if not corpus.config.val and sum(len(counts) - 1 for counts in counted.values()) < corpus.config.val_every:
        return {}  # too few documents for `val_every`: bytes are cut off, so all must be read
    outline = _splits(corpus.config, folder, mark)
    for split in outline:
        split.ours = lambda _: False
    _fill(Corpus(corpus.config), outline, counted)
    for split, planned in zip(splits, outline, strict=True):
        split.planned = planned.counts
        # consecutive shards share source files, so each rank reads few files
        split.ours = lambda index, count=planned.shards: index * world // count == rank
        for index, made_of in enumerate(planned.made_of):
            if split.ours(index) and not split.finished(index):
                counted = {number: counts for number, counts in counted.items() if number not in made_of}
    return counted


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished corpus; None if there is no valid manifest of this format."""
    try:
        manifest = read_json(folder / MANIFEST)
    except UserError:  # missing or damaged
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("format") == FORMAT else None


class _Split:
    """Collects documents into shards and writes the shards of this rank. A shard stays in memory until it is full."""

    def __init__(self, folder: Path, sources: tuple[str, ...], config: DataConfig, mark: str) -> None:
        self.folder, self.sources, self.mark = folder, sources, mark
        self.shard_bytes = config.shard_bytes
        self.rank, world = rank_and_world()
        self.ours: Callable[[int], bool] = lambda index: index % world == self.rank
        self.planned: np.ndarray | None = None
        """The expected final value of `counts`; None if it is not known in advance."""
        self.made_of: list[set[int]] = []
        """For each shard so far, the numbers of its parts that were counted but not read."""
        self.counts = np.zeros((len(sources), 2), dtype=np.int64)  # (S, 2): documents and bytes of each source
        self.shards = 0
        self.rows: list[tuple[int, Document]] = []
        self.size = 0

    def add(self, source: int, document: Document) -> None:
        if len(document.data) > 2**30:
            raise UserError(f"{document.id} has {len(document.data):,} bytes; cut it into documents of 1 GiB at most")
        self.rows.append((source, document))
        self.size += len(document.data)
        if self.size >= self.shard_bytes:
            self._write()

    def _write(self) -> None:
        counts = np.zeros_like(self.counts)
        for source, document in self.rows:
            counts[source] += (1, len(document.data))
        self.made_of.append({document.part for _, document in self.rows if isinstance(document, Counted)})
        if self.ours(self.shards) and not self.finished(self.shards):
            if self.made_of[-1]:
                raise self.changed
            documents, sizes = counts.T.tolist()
            about = {"corpus": self.mark, "documents": documents, "bytes": sizes}
            write_corpus_shard(self.folder / _name(self.shards), self.rows, about)
        self.counts += counts
        self.rows, self.size = [], 0
        self.shards += 1

    @property
    def changed(self) -> UserError:
        return UserError(f"{self.sources[0]} or another source changed while it was read: prepare it again")

    def finished(self, index: int) -> bool:
        return finished(self.folder / _name(index), corpus=self.mark)

    def close(self) -> dict[str, Any]:
        """Write the last shard and return this split's part of the manifest."""
        if self.rows:
            self._write()
        if self.planned is not None and (self.counts != self.planned).any():
            raise self.changed
        documents, sizes = self.counts.T.tolist()
        columns = zip(self.sources, documents, sizes, strict=True)
        return {
            "shards": self.shards,
            "documents": sum(documents),
            "bytes": sum(sizes),
            "sources": [{"source": source, "documents": count, "bytes": size} for source, count, size in columns],
        }


def _name(index: int) -> str:
    return f"{index:06d}.parquet"


def _complete(folder: Path, manifest: dict[str, Any]) -> bool:
    """True if every shard of the manifest exists, is complete and belongs to this corpus."""
    paths = [folder / split / _name(i) for split in ("train", "val") for i in range(manifest[split]["shards"])]
    return all(finished(path, corpus=manifest["corpus"]) for path in paths)


@contextmanager
def _kept_when_stopped(count: Callable[[], int], folder: Path) -> Generator[None]:
    """On Ctrl-C, print how many finished shards are kept."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"stopped: {count():,} finished shards are kept in {folder}; the same command goes on", file=sys.stderr)
        raise


def score(corpus: Path, folder: Path, patcher: Patcher, progress: Callable[[int], object] = lambda _: None) -> None:
    """Copy the training shards of `corpus` to `folder` with a new column `entropies`: fp32 nats, one after each id.

    Each rank scores its own shards and skips shards that this patcher has already scored. `progress` is called with the
    number of text bytes just done, which includes skipped shards and shards of other ranks. Raises UserError if the
    corpus is unfinished or damaged.
    """
    rank, world = rank_and_world()
    done = 0
    with _kept_when_stopped(lambda: done, folder):
        for number, (path, about, missing) in enumerate(unscored(corpus, folder, patcher)):
            ours = number % world == rank
            if ours and missing:
                score_shard(path, folder / path.name, about, patcher, progress)
            else:
                progress(sum(about["bytes"]))
            done += ours


def unscored(corpus: Path, folder: Path, patcher: Patcher) -> Iterator[tuple[Path, dict[str, Any], bool]]:
    """For each training shard: (its path, the metadata of its scored copy, True if `folder` lacks this copy).

    Raises UserError if the corpus is not finished.
    """
    manifest = read_manifest(corpus)
    if manifest is None:
        raise UserError(f"{corpus} is not a finished corpus; `bytequilt prepare` finishes it")
    paths = shard_paths(corpus / "train")
    remove_others(folder, [path.name for path in paths])
    marks = {"corpus": manifest["corpus"], "patcher": patcher.fingerprint}  # a slow digest of all weights: only once
    rule = patcher.rule.model_dump(mode="json")
    for path in paths:
        about = read_about(path) | {"patcher": marks["patcher"], "rule": rule}
        yield path, about, not finished(folder / path.name, **marks)


def score_shard(
    path: Path,
    target: Path,
    about: dict[str, Any],
    patcher: Patcher,
    progress: Callable[[int], object] = lambda _: None,
) -> None:
    """Write the scored copy of a shard. It appears at `target` only when it is complete, so a retry is safe."""
    with shard_writer(target, SCORED_SCHEMA, about) as writer:
        for table in row_groups(path):
            calls = grouped(table["data"].to_pylist(), CALL_BYTES)
            values = [entropies for texts in calls for entropies in _entropies(texts, patcher, progress)]
            column = pa.array(values, SCORED_SCHEMA.field("entropies").type)
            writer.write_table(table.append_column("entropies", column), row_group_size=len(table))


def _entropies(texts: list[bytes], patcher: Patcher, progress: Callable[[int], object]) -> list[np.ndarray]:
    if len(texts[0]) > CALL_BYTES:  # a single long text: report progress within it
        entropies = patcher.entropies(texts, progress)
    else:
        entropies = patcher.entropies(texts)
        progress(sum(map(len, texts)))
    if [len(values) for values in entropies] != [len(text) + 2 for text in texts]:
        raise ValueError("a patcher must give one entropy for each id of BOS, bytes and EOS")
    return [np.asarray(values, dtype=np.float32) for values in entropies]
