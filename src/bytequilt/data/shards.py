"""Reads and writes shards: Parquet files of documents. A shard is complete or absent; metadata name its origin."""

import json
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..config import UserError, one_line
from ..files import replacing, sweep
from .sources import Document

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    raise UserError("shards are Parquet files and need pyarrow: pip install 'bytequilt[train]'") from None

FORMAT = 1
KEY = b"bytequilt"
"""Key of the Parquet metadata with the description of a shard, as JSON (see `read_about`)."""
GROUP_BYTES = 1_000_000
"""Approximate text bytes per row group. To read one document, its whole row group must be read."""
CORPUS_SCHEMA = pa.schema({"id": pa.string(), "source": pa.int32(), "prompt": pa.int32(), "data": pa.binary()})
SCORED_SCHEMA = CORPUS_SCHEMA.append(pa.field("entropies", pa.list_(pa.float32())))
LAYOUT = {"compression": "zstd", "use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
REMEDY = "delete it, it will be made again"
SHARE = 16
"""A document may fill at most 1 / SHARE of a sample, unless there are too few others."""


def rank_and_world() -> tuple[int, int]:
    """(rank, number of processes), from the environment variables of torchrun; (0, 1) without torchrun."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def shard_paths(folder: Path) -> list[Path]:
    """Paths of the shards of a folder, in order. Raises UserError if there are none."""
    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        raise UserError(f"no shards in {folder}; `bytequilt prepare` makes them")
    return paths


@contextmanager
def opened(path: Path) -> Generator[pq.ParquetFile]:
    """Open a shard for reading. The checksum of each page is checked when the page is read.

    Raises UserError with the path if the shard is damaged.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is damaged ({one_line(error)[:100]}): {REMEDY}") from None


def row_groups(path: Path) -> Iterator[pa.Table]:
    """Yield the row groups of a shard as tables. Raises UserError with the path if the shard is damaged."""
    with opened(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group)


@contextmanager
def shard_writer(path: Path, schema: pa.Schema, about: dict[str, Any]) -> Generator[pq.ParquetWriter]:
    """A writer of one shard. Every table written becomes a row group. `read_about` will return `about`."""
    with replacing(path) as stream, pq.ParquetWriter(stream, schema, **LAYOUT) as writer:
        writer.add_key_value_metadata({KEY: json.dumps({"format": FORMAT} | about).encode()})
        yield writer


def write_corpus_shard(path: Path, rows: Sequence[tuple[int, Document]], about: dict[str, Any]) -> None:
    """Write a shard of (source, document) rows, in row groups of about GROUP_BYTES bytes of text."""
    with shard_writer(path, CORPUS_SCHEMA, about) as writer:
        begin, size = 0, 0
        for end, (_, document) in enumerate(rows, 1):
            size += len(document.data)
            if size >= GROUP_BYTES or end == len(rows):
                writer.write_table(_table(rows[begin:end]), row_group_size=end - begin)
                begin, size = end, 0


def _table(rows: Sequence[tuple[int, Document]]) -> pa.Table:
    columns = {
        "id": [document.id for _, document in rows],
        "source": [source for source, _ in rows],
        "prompt": [document.prompt for _, document in rows],
        "data": [document.data for _, document in rows],
    }
    return pa.table(columns, schema=CORPUS_SCHEMA)


def read_about(path: Path) -> dict[str, Any]:
    """The metadata of a shard: format, corpus, patcher, rule, documents and bytes per source.

    Raises UserError for a file that is not a complete shard of this format.
    """
    try:
        about = json.loads(pq.read_metadata(path).metadata[KEY])
        if about["format"] != FORMAT:
            raise UserError(f"{path} is a shard of format {about['format']}, and this is format {FORMAT}: {REMEDY}")
    except PermissionError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        raise UserError(f"{path} is not a whole shard: {REMEDY}") from None
    return about


def check_patcher(path: Path, about: dict[str, Any], fingerprint: str) -> None:
    """Raises UserError unless this patcher scored the shard."""
    if about.get("patcher") != fingerprint:
        raise UserError(f"{path} was not scored by this patcher ({fingerprint[:12]}): {REMEDY}")


def finished(path: Path, **marks: str) -> bool:
    """True if the shard exists, is complete, and its metadata has the values in `marks`."""
    if not path.exists():
        return False
    try:
        about = read_about(path)
    except UserError:
        return False
    return all(about.get(name) == value for name, value in marks.items())


def remove_others(folder: Path, keep: Sequence[str]) -> None:
    """Remove old shards with names not in `keep`, and temporary files of interrupted writers."""
    for path in folder.glob("*.parquet"):
        if path.name not in keep:
            path.unlink(missing_ok=True)
    if rank_and_world()[1] == 1:  # other ranks may be writing
        sweep(folder)


def sample_documents(folder: Path, sample_bytes: int) -> list[bytes]:
    """Documents spread evenly over a folder of shards, `sample_bytes` in total (or all documents). Long documents are
    cut."""
    sizes_L = np.fromiter((len(data) for data in documents_in(folder)), dtype=np.int64)
    places, limit = documents_to_take(sizes_L, sample_bytes)
    chosen = set(places.tolist())
    return [data[:limit] for index, data in enumerate(documents_in(folder)) if index in chosen]


def documents_to_take(sizes_L: np.ndarray, sample_bytes: int) -> tuple[np.ndarray, int]:
    """Indices of the documents to take, given the sizes of all, and the length in bytes at which each is cut."""
    if sizes_L.sum() <= sample_bytes:
        return np.arange(len(sizes_L)), int(sizes_L.max(initial=1))
    cut = np.minimum(sizes_L, max(1, sample_bytes // SHARE)).sum()
    every = max(1, int(cut // sample_bytes))
    places = np.arange(0, len(sizes_L), every)
    taken = np.sort(sizes_L[places])
    # bytes left for this and the larger documents when all smaller ones are taken whole
    left = sample_bytes - np.concatenate([[0], taken.cumsum()[:-1]])
    limits = left // np.arange(len(taken), 0, -1)
    short = np.flatnonzero(limits < taken)  # documents for which the equal share is too short
    return places, max(1, int(limits[short[0]])) if len(short) else int(taken[-1])


def documents_in(folder: Path) -> Iterator[bytes]:
    """The documents of a folder of shards, in order."""
    for path in shard_paths(folder):
        with opened(path) as file:
            for batch in file.iter_batches(batch_size=16, columns=["data"]):
                yield from (data.as_py() for data in batch["data"])


def held_out(folder: Path, limit: int | None = None) -> list[Document]:
    """The held-out documents of a corpus, in order. A limit keeps the first `limit` bytes and may cut a document."""
    documents: list[Document] = []
    left = limit
    for path in shard_paths(folder / "val"):
        read_about(path)
        for table in row_groups(path):
            for row in table.to_pylist():
                if left is not None and left <= 0:
                    return documents
                data = row["data"][:left]
                documents.append(Document(row["id"], data, min(row["prompt"], len(data))))
                left = None if left is None else left - len(data)
    return documents
