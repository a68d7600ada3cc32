"""A sample of a corpus: so many bytes of it, evenly spread."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..data.shards import opened, shard_paths

SHARE = 16
"""No document is more than this part of a sample, where there are others."""


def sample_documents(folder: Path, sample_bytes: int) -> list[bytes]:
    """Documents spread evenly over a folder of shards, cut where they are long: so many bytes, or all there are."""
    sizes_L = np.fromiter((len(data) for data in _documents(folder)), dtype=np.int64)
    places, limit = places_of(sizes_L, sample_bytes)
    chosen = set(places.tolist())
    return [data[:limit] for place, data in enumerate(_documents(folder)) if place in chosen]


def places_of(sizes_L: np.ndarray, sample_bytes: int) -> tuple[np.ndarray, int]:
    """Which documents of these sizes to take, and at how many bytes to cut them."""
    if sizes_L.sum() <= sample_bytes:
        return np.arange(len(sizes_L)), int(sizes_L.max(initial=1))
    cut = np.minimum(sizes_L, max(1, sample_bytes // SHARE)).sum()
    every = max(1, int(cut // sample_bytes))
    places = np.arange(0, len(sizes_L), every)
    taken = np.sort(sizes_L[places])
    left = sample_bytes - np.concatenate([[0], taken.cumsum()[:-1]])  # for the larger ones, the smaller ones whole
    limits = left // np.arange(len(taken), 0, -1)
    short = np.flatnonzero(limits < taken)  # the first document for which there is not enough
    return places, max(1, int(limits[short[0]])) if len(short) else int(taken[-1])


def _documents(folder: Path) -> Iterator[bytes]:
    for path in shard_paths(folder):
        with opened(path) as file:
            for batch in file.iter_batches(batch_size=16, columns=["data"]):
                yield from (data.as_py() for data in batch["data"])
