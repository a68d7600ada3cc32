"""Endless shuffled random access to the documents of shards, without the whole corpus in memory."""

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .shards import opened, pa

WINDOW = 16
"""Number of row groups (about 1 MB of text each) in one window. Documents are shuffled within a window."""


class Index:
    """The row groups of all shards, with the numbers of their documents, and the source of each document."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.groups: list[tuple[Path, int]] = []
        sizes, sources = [], []
        for path in paths:
            with opened(path) as file:
                for group in range(file.num_row_groups):
                    self.groups.append((path, group))
                    sizes.append(file.metadata.row_group(group).num_rows)
                sources.append(file.read(["source"])["source"].to_numpy())
        self.source_M = np.concatenate(sources)
        self.begin_G = np.concatenate([[0], np.cumsum(sizes)])

    def rows(self, documents: np.ndarray) -> list[np.ndarray]:
        """For each row group, the row numbers in it of the given documents. `documents` are sorted numbers, counted
        through all shards."""
        bounds = np.searchsorted(documents, self.begin_G)
        return [documents[a:b] - first for a, b, first in zip(bounds, bounds[1:], self.begin_G, strict=False)]


class Order:
    """A random access source for grain: entry i is document i of an endless sequence of shuffled epochs.

    First the row groups are shuffled, then the documents within each window of WINDOW row groups. A shuffle over all
    documents would read a whole row group (1 MB of text, 4 MB of entropies) for every document. This shuffle reads
    each row group once per epoch and keeps at most two windows in memory: 32 MB of text and 128 MB of entropies. With
    several ranks, every rank reads every row group.
    """

    def __init__(
        self,
        places: Index,
        documents: np.ndarray,
        columns: Sequence[str],
        seed: tuple[int, ...],
        make: Callable[..., Any],
    ) -> None:
        self.seed, self.columns, self.make = seed, list(columns), make
        rows = places.rows(documents)
        self.groups = [group for group, inside in zip(places.groups, rows, strict=True) if len(inside)]
        self.rows = [inside for inside in rows if len(inside)]
        self.size = len(documents)
        self._table = lru_cache(2 * WINDOW)(self._read)
        self._epoch = lru_cache(2)(self._shuffle_groups)
        self._window = lru_cache(4)(self._shuffle_window)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> Any:
        """The result of `make` for this document. `make` gets the columns as keyword arguments."""
        epoch, place = divmod(index, self.size)
        _, ends = self._epoch(epoch)
        window = int(np.searchsorted(ends, place, side="right"))
        group, row = self._window(epoch, window)[place - (ends[window - 1] if window else 0)]
        table = self._table(group)
        return self.make(**{name: table[name][row] for name in self.columns})

    def _shuffle_groups(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The shuffled row groups of an epoch, and the number of documents up to the end of each window."""
        order = np.random.default_rng((*self.seed, epoch)).permutation(len(self.groups))
        total = np.cumsum([len(self.rows[group]) for group in order])
        return order, np.append(total[WINDOW - 1 : -1 : WINDOW], total[-1])

    def _shuffle_window(self, epoch: int, window: int) -> list[tuple[int, int]]:
        order, _ = self._epoch(epoch)
        inside = order[window * WINDOW : (window + 1) * WINDOW]
        pairs = np.concatenate([np.stack([np.full(len(self.rows[g]), g), self.rows[g]], 1) for g in inside])
        return np.random.default_rng((*self.seed, epoch, 1 + window)).permutation(pairs).tolist()

    def _read(self, group: int) -> pa.Table:
        path, number = self.groups[group]
        with opened(path) as file:  # opened for each read: threads cannot share an open file
            return file.read_row_group(number, columns=self.columns)
