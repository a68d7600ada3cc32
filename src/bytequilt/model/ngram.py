"""Entropies by look-up: what the entropy model says after an n-gram, in the mean.

Pagnoni et al. 2024, section 3.1, mention that an entropy model that sees little context can be a look-up table.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..codec import VOCAB_SIZE
from ..config import HashConfig, NgramConfig
from .encoder_cache import RecentIds as NgramCache
from .hashing import hashes
from .rows import Rows

FEWEST = 4  # times that an n-gram must have come for its mean to count


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

    def cache(self, rows: int = 1, reserve: int = 0) -> NgramCache:
        """An empty cache; up to `reserve` ids can be taken back."""
        return NgramCache(self.reach, rows, reserve, self.single.device)

    def nats(
        self, ids_BN: Tensor, cache: NgramCache | None = None, rows: Rows | None = None, single: bool = False
    ) -> Tensor:
        """Entropy of the byte after each id: (B, N) fp32. With a cache, the ids continue those of its rows."""
        if cache is None:
            return self._look_up(ids_BN)
        return self._look_up(cache.extend(rows or cache.rows(), ids_BN))[:, -ids_BN.shape[1] :]

    def nats_step(self, ids_R: Tensor, cache: NgramCache, rows: Rows | None = None, text: bool = False) -> Tensor:
        """Entropy in nats (R,) after the next id of some rows of a cache."""
        return self.nats(ids_R[:, None], cache, rows)[:, 0]

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
        nats_BN = self.single[ids_BN]
        for table, rows_BN in zip(self.tables, hashes(self.hash, ids_BN).unbind(-1), strict=True):
            known_BN = table[rows_BN]
            nats_BN = torch.where(known_BN >= 0, known_BN, nats_BN)
        return nats_BN
