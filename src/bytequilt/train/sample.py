"""Evenly spread samples of a corpus, limited in bytes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..data.shards import opened, shard_paths

SHARE = 16
"""A document may fill at most 1 / SHARE of a sample, unless there are too few others."""


def sample_documents(folder: Path, sample_bytes: int) -> list[bytes]:
    """Documents spread evenly over a folder of shards, `sample_bytes` in total (or all documents). Long documents are
    cut."""
    sizes_L = np.fromiter((len(data) for data in documents_in(folder)), dtype=np.int64)
    places, limit = documents_to_take(sizes_L, sample_bytes)
    chosen = set(places.tolist())
    return [data[:limit] for place, data in enumerate(documents_in(folder)) if place in chosen]


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
