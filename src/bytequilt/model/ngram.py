"""An entropy model as look-up tables: the mean entropy that a transformer gave after each n-gram.

Pagnoni et al. 2024, section 3.1, mention that an entropy model with a short context can be a look-up table.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..codec import VOCAB_SIZE
from ..config import HashConfig, NgramConfig
from .encoder_cache import RecentIds as NgramCache
from .hashing import hashes
from .rows import Rows

FEWEST = 4  # an n-gram needs at least this many occurrences for its mean to be used


class NgramEntropy(nn.Module):
    """Replaces a transformer entropy model: returns the mean entropy after the longest known n-gram."""

    def __init__(self, config: NgramConfig) -> None:
        super().__init__()
        self.config = config
        self.hash = HashConfig(sizes=tuple(sorted(config.sizes)), rows=config.rows)
        self.register_buffer("single", torch.zeros(VOCAB_SIZE))
        """Mean nats after each single id."""
        self.register_buffer("tables", torch.full((len(config.sizes), config.rows), -1.0))
        """Mean nats after the n-grams of each length, shortest first; -1 where too few were counted."""

    @property
    def reach(self) -> int:
        return self.hash.sizes[-1] - 1

    def cache(self, rows: int = 1, reserve: int = 0) -> NgramCache:
        """An empty cache of recent ids; the newest `reserve` ids of a row can be removed."""
        return NgramCache(self.reach, rows, reserve, self.single.device)

    def nats(
        self, ids_BN: Tensor, cache: NgramCache | None = None, rows: Rows | None = None, single: bool = False
    ) -> Tensor:
        """Entropy in nats of the byte after each id: (B, N) fp32. With a cache, the ids continue its rows."""
        if cache is None:
            return self._look_up(ids_BN)
        return self._look_up(cache.extend(rows or cache.rows(), ids_BN))[:, -ids_BN.shape[1] :]

    def nats_step(self, ids_R: Tensor, cache: NgramCache, rows: Rows | None = None, text: bool = False) -> Tensor:
        """Entropy in nats (R,) after the next id of each row of a cache."""
        return self.nats(ids_R[:, None], cache, rows)[:, 0]

    def learn(self, pieces: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Fill the tables with the mean entropies of a corpus. Each piece is a pair: ids (n,) of consecutive documents,
        each starting with BOS, and the entropies (n,) in nats after them."""
        # number of occurrences, and sum of nats
        sums = [torch.zeros(2, *table.shape) for table in (self.tables, self.single)]
        for ids_n, nats_n in pieces:
            weighed = torch.stack([torch.ones_like(nats_n), nats_n])
            sums[1].index_add_(1, ids_n, weighed)
            for table, rows_n in enumerate(hashes(self.hash, ids_n[None])[0].unbind(-1)):
                sums[0][:, table].index_add_(1, rows_n, weighed)
        count, total = sums[0]
        self.tables.copy_(torch.where(count >= FEWEST, total / count, -1.0))
        self.single.copy_(sums[1][1] / sums[1][0].clamp(min=1))

    def _look_up(self, ids_BN: Tensor) -> Tensor:
        nats_BN = self.single[ids_BN]
        for table, rows_BN in zip(self.tables, hashes(self.hash, ids_BN).unbind(-1), strict=True):
            known_BN = table[rows_BN]
            nats_BN = torch.where(known_BN >= 0, known_BN, nats_BN)
        return nats_BN
