"""Prepare: sources -> shards of documents -> shards with entropies. Each step goes on where it was interrupted."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..config import DataConfig, RuleConfig, UserError
from .shards import (
    FORMAT,
    SCORED_SCHEMA,
    atomic,
    finished,
    pa,
    pq,
    rank_and_world,
    read_about,
    remove_others,
    shard_paths,
    shard_writer,
    write_corpus_shard,
)
from .sources import Document, documents

MANIFEST = "manifest.json"
CALL_GROUPS = 4
"""Row groups, of about 1 MB of text each, that go to the patcher in one call."""


class Scorer(Protocol):
    """What `score` needs of a patcher."""

    rule: RuleConfig

    @property
    def fingerprint(self) -> str: ...

    def entropies(self, texts: list[bytes], /) -> list[np.ndarray]: ...


# ----------------------------------------------------------------------------------------------------------- ingest


def ingest(config: DataConfig, folder: Path) -> dict[str, Any]:
    """Writes the documents of all sources to `folder/train` and `folder/val`, and returns the manifest.

    Every rank reads all sources and writes its own shards; whoever finds all shards there writes the manifest. What is
    finished stays, unless the configuration changed; a changed source is not noticed. Raises UserError where
    there is nothing to train on or nothing held out.
    """
    if not config.train:
        raise UserError("`train` of [data] names no source")
    mark = _fingerprint(config)
    manifest = read_manifest(folder)
    if manifest and manifest["corpus"] == mark and _complete(folder, manifest):
        return manifest
    (folder / MANIFEST).unlink(missing_ok=True)
    train = _Split(folder / "train", config.train, config, mark)
    val = _Split(folder / "val", config.val or config.train, config, mark)
    for number, (source, document) in enumerate(_rows(config.train, config), 1):
        if not config.val and number % config.val_every == 0:
            val.add(source, document)
        elif _kept(document.id, config.share):
            train.add(source, document)
    for source, document in _rows(config.val, config):
        val.add(source, document)
    if not (val.shards or val.rows):
        raise UserError(
            f"no held-out documents: `train` has fewer than val_every {config.val_every}; "
            "name held-out sources in `val`, or lower `val_every`"
        )
    manifest = {"format": FORMAT, "corpus": mark, "train": train.close(), "val": val.close()}
    if _complete(folder, manifest):
        for split in ("train", "val"):
            remove_others(folder / split, [_name(index) for index in range(manifest[split]["shards"])])
        with atomic(folder / MANIFEST) as stream:
            stream.write(json.dumps(manifest, indent=2).encode())
    return manifest


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished corpus, None where there is none of this format."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return manifest if manifest.get("format") == FORMAT else None


class _Split:
    """Collects documents into shards, and writes those of this rank. A shard is held in memory until it is full."""

    def __init__(self, folder: Path, sources: tuple[str, ...], config: DataConfig, mark: str) -> None:
        self.folder, self.sources, self.mark = folder, sources, mark
        self.shard_bytes = config.shard_bytes
        self.rank, self.world = rank_and_world()
        self.counts = np.zeros((len(sources), 2), dtype=np.int64)  # documents and bytes of each source
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
        path = self.folder / _name(self.shards)
        if self.shards % self.world == self.rank and not finished(path, corpus=self.mark):
            documents, sizes = counts.T.tolist()
            write_corpus_shard(path, self.rows, {"corpus": self.mark, "documents": documents, "bytes": sizes})
        self.counts += counts
        self.rows, self.size = [], 0
        self.shards += 1

    def close(self) -> dict[str, Any]:
        """Writes what is left, and returns this split's part of the manifest."""
        if self.rows:
            self._write()
        documents, sizes = self.counts.T.tolist()
        columns = zip(self.sources, documents, sizes, strict=True)
        return {
            "shards": self.shards,
            "documents": sum(documents),
            "bytes": sum(sizes),
            "sources": [{"source": source, "documents": count, "bytes": size} for source, count, size in columns],
        }


def _rows(sources: tuple[str, ...], config: DataConfig) -> Iterator[tuple[int, Document]]:
    for index, source in enumerate(sources):
        for document in documents(source, config):
            yield index, document


def _kept(id: str, share: float) -> bool:
    """Whether a document is among the share to keep: always the same ones, and more of them for a larger share."""
    return int.from_bytes(hashlib.sha256(id.encode("utf-8", "surrogatepass")).digest()[:8]) < share * 2**64


def _name(index: int) -> str:
    return f"{index:06d}.parquet"


def _complete(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether every shard that the manifest counts is there and belongs to it."""
    paths = [folder / split / _name(i) for split in ("train", "val") for i in range(manifest[split]["shards"])]
    return all(finished(path, corpus=manifest["corpus"]) for path in paths)


def _fingerprint(config: DataConfig) -> str:
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()


# ------------------------------------------------------------------------------------------------------------ score


def score(corpus: Path, folder: Path, patcher: Scorer, progress: Callable[[int], object] | None = None) -> None:
    """Writes to `folder` the training shards of `corpus` with a column `entropies`: fp32 nats, one after each id.

    Each rank scores its own shards, and leaves those that this patcher has scored already. `progress` is told the text
    bytes just done, those of finished shards included. Raises UserError where the corpus is not finished.
    """
    manifest = read_manifest(corpus)
    if manifest is None:
        raise UserError(f"{corpus} is not a finished corpus; `bytequilt prepare` finishes it")
    paths = shard_paths(corpus / "train")
    remove_others(folder, [path.name for path in paths])
    rank, world = rank_and_world()
    fingerprint = patcher.fingerprint  # a digest of all weights: taken once
    for path in paths[rank::world]:
        about = read_about(path)
        if finished(folder / path.name, corpus=manifest["corpus"], patcher=fingerprint):
            if progress:
                progress(sum(about["bytes"]))
            continue
        about |= {"patcher": fingerprint, "rule": patcher.rule.model_dump(mode="json")}
        _score_shard(path, folder / path.name, about, patcher, progress or (lambda done: None))


def _score_shard(
    path: Path, target: Path, about: dict[str, Any], patcher: Scorer, progress: Callable[[int], object]
) -> None:
    with pq.ParquetFile(path) as file, shard_writer(target, SCORED_SCHEMA, about) as writer:
        for first in range(0, file.num_row_groups, CALL_GROUPS):
            last = min(first + CALL_GROUPS, file.num_row_groups)
            tables = [file.read_row_group(group) for group in range(first, last)]
            texts = [data for table in tables for data in table["data"].to_pylist()]
            entropies = iter(_entropies(texts, patcher))
            for table in tables:
                column = pa.array([next(entropies) for _ in range(len(table))], SCORED_SCHEMA.field("entropies").type)
                writer.write_table(table.append_column("entropies", column), row_group_size=len(table))
            progress(sum(map(len, texts)))


def _entropies(texts: list[bytes], patcher: Scorer) -> list[np.ndarray]:
    found = patcher.entropies(texts)
    if [len(values) for values in found] != [len(text) + 2 for text in texts]:
        raise ValueError("a patcher must give one entropy for each id of BOS, bytes and EOS")
    return [np.asarray(values, dtype=np.float32) for values in found]
