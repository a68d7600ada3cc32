"""The network of a baseline: a transformer or a Mamba, its ids embedded alone, by the head, or with their n-grams."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..config import BaselineConfig, HashConfig
from ..model.encoder_cache import RecentIds
from ..model.hashing import HashEmbedding
from ..model.initial import Network
from ..model.rows import Rows
from ..model.transformer import Transformer
from .mamba import Mamba


def build(config: BaselineConfig) -> nn.Module:
    """The network of a baseline, with random weights."""
    network = (Transformer if config.stack else Mamba)(config.network, config.vocabulary)
    if config.tied:
        network.embed = HeadRows(network.head)
    return WithNgrams(network, config.hash) if config.hash else network


class HeadRows(nn.Module):
    """The rows of an output head as the embeddings of ids; it has no weights of its own."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self._head = (head,)  # in a tuple: as a submodule its weight would be saved twice

    @property
    def weight(self) -> Tensor:
        return self._head[0].weight

    def reset_parameters(self) -> None:
        """The head fills its weight itself."""

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)


class NgramCache:
    """The cache of a network, and the ids that the next n-grams reach back to."""

    def __init__(self, network: Any, reach: int, rows: int) -> None:
        self.network = network.cache(rows)
        self.ids = RecentIds(reach, rows, 0, network.embed.weight.device)

    def rows(self, numbers: Sequence[int] | None = None) -> Rows:
        """These rows, or all."""
        return self.network.rows(numbers)

    def clear(self, row: int) -> None:
        """Begin an empty text in a row."""
        self.network.clear(row)
        self.ids.clear(row)


class WithNgrams(Network):
    """A network whose ids are embedded together with the hashed n-grams that end at them, as the bytes of a BLT are."""

    def __init__(self, network: Any, config: HashConfig) -> None:
        super().__init__()
        self.network, self.hash = network, HashEmbedding(config, network.config.dim)

    def init_weights(self) -> None:
        """Fill all weights anew."""
        self.network.init_weights()
        self.hash.reset_parameters()

    def forward(
        self, ids_BN: Tensor, cache: NgramCache | None = None, rows: Rows | None = None, **options: bool
    ) -> Tensor:
        """Logits (B, N, V) in fp32; row t predicts id t+1. With a cache, the ids continue those of its rows."""
        if cache is None:
            return self.network(ids_BN, added_BND=self._ngrams(ids_BN, None), **options)
        rows = rows or cache.rows()
        added_BND = self._ngrams(ids_BN, cache.ids.extend(rows, ids_BN))
        return self.network(ids_BN, cache.network, rows, added_BND=added_BND, **options)

    def step(self, ids_R: Tensor, cache: NgramCache, rows: Rows | None = None, text: bool = False) -> Tensor:
        """Logits (R, V) in fp32 after the next id of some rows; `text`: none of them is a BOS."""
        rows, ids_R1 = rows or cache.rows(), ids_R[:, None]
        added_RD = self._ngrams(ids_R1, cache.ids.extend(rows, ids_R1))[:, 0]
        return self.network.step(ids_R, cache.network, rows, text, added_RD)

    def cache(self, rows: int = 1) -> NgramCache:
        """An empty cache, to read texts in pieces exactly."""
        return NgramCache(self.network, self.hash.reach, rows)

    def _ngrams(self, ids_BN: Tensor, recent_BM: Tensor | None) -> Tensor:
        return self.hash(ids_BN, recent_BM, self.network.embed.weight.dtype)
