"""Entropies by look-up: what the entropy model says after an n-gram, in the mean.

Pagnoni et al. 2024, section 3.1, mention that an entropy model that sees little context can be a look-up table.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from ..codec import BOS, VOCAB_SIZE
from ..config import HashConfig, NgramConfig
from .hashing import PRIMES, hashes, wrapped

FEWEST = 4  # times that an n-gram must have come for its mean to count


class NgramCache:
    """The ids that the next n-grams reach back to, of each row."""

    def __init__(self, reach: int, reserve: int = 0) -> None:
        self.keep = reach + reserve
        self.rows: list[list[int]] = [[]]

    def push(self, row: int, id: int) -> list[int]:
        """The ids of a row with a new one."""
        ids = self.rows[row]
        ids.append(id)
        if len(ids) > 2 * self.keep + 64:
            del ids[: -self.keep - 1]
        return ids

    def crop(self, ids: int) -> None:
        del self.rows[0][len(self.rows[0]) - ids :]

    def trim(self) -> None:
        self.rows = [ids[len(ids) - min(len(ids), self.keep) :] for ids in self.rows]

    def join(self, other: "NgramCache") -> None:
        self.rows += other.rows

    def select(self, rows: list[int]) -> None:
        self.rows = [self.rows[row] for row in rows]


class NgramEntropy(nn.Module):
    """Takes the place of an entropy model: the mean entropy after the longest n-gram that is known."""

    def __init__(self, config: NgramConfig) -> None:
        super().__init__()
        self.config = config
        self.hash = HashConfig(sizes=tuple(sorted(config.sizes)), rows=config.rows)
        self.register_buffer("single", torch.zeros(VOCAB_SIZE))
        """Nats after each id, whatever came before."""
        self.register_buffer("tables", torch.full((len(config.sizes), config.rows), -1.0))
        """Nats after the n-grams of each length, shortest first; -1 where none is known."""

    @property
    def reach(self) -> int:
        return self.hash.sizes[-1] - 1

    def cache(self, reserve: int = 0) -> NgramCache:
        """An empty cache of one row."""
        return NgramCache(self.reach, reserve)

    def nats(self, ids_BN: Tensor, cache: NgramCache | None = None) -> Tensor:
        """Entropy of the byte after each id: (B, N) fp32. With a cache, ids of one row continue those it has seen."""
        if cache is None:
            return self._look_up(ids_BN)
        before = cache.rows[0][-self.reach :]
        seen_BN = torch.cat([torch.tensor([before], dtype=torch.long, device=ids_BN.device), ids_BN], 1)
        cache.rows[0] = (cache.rows[0] + ids_BN[0].tolist())[-cache.keep - ids_BN.shape[1] :]
        return self._look_up(seen_BN)[:, len(before) :]

    def nats_step(self, ids_R: Tensor, cache: NgramCache) -> list[float]:
        """The same after the next id of each row, in plain arithmetic: making tensors would take longer."""
        single, tables = self.single.cpu().numpy(), self.tables.cpu().numpy()
        return [self._of(cache.push(row, id), single, tables) for row, id in enumerate(ids_R.tolist())]

    def learn(self, pieces: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Fill the tables with means over a corpus.

        Each piece is ids (n,) of documents one after another, BOS first, and the entropies (n,) after them.
        """
        sums = [torch.zeros(2, *table.shape) for table in (self.tables, self.single)]  # how often, and nats in all
        for ids_n, nats_n in pieces:
            weighed = torch.stack([torch.ones_like(nats_n), nats_n])
            sums[1].index_add_(1, ids_n, weighed)
            for table, rows_n in enumerate(hashes(self.hash, ids_n[None])[0].unbind(-1)):
                sums[0][:, table].index_add_(1, rows_n, weighed)
        count, total = sums[0]
        self.tables.copy_(torch.where(count >= FEWEST, total / count, -1.0))
        self.single.copy_(sums[1][1] / sums[1][0].clamp(min=1))

    def _look_up(self, ids_BN: Tensor) -> Tensor:
        found_BN = self.single[ids_BN]
        for table, rows_BN in zip(self.tables, hashes(self.hash, ids_BN).unbind(-1), strict=True):
            known_BN = table[rows_BN]
            found_BN = torch.where(known_BN >= 0, known_BN, found_BN)
        return found_BN

    def _of(self, ids: list[int], single: np.ndarray, tables: np.ndarray) -> float:
        """Entropy after the last of these ids: `hashes` and `_look_up` for one n-gram after the other."""
        polynomial, found, table, inside = ids[-1], single[ids[-1]], 0, True
        for size in range(2, self.reach + 2):
            inside = inside and size <= len(ids) and ids[1 - size] != BOS
            polynomial = wrapped((ids[-size] if inside else 0) + PRIMES[0] * polynomial)
            if size in self.hash.sizes:
                known = tables[table, polynomial % self.hash.rows]
                found, table = known if known >= 0 else found, table + 1
        return float(found)
