"""A transformer over ids, from embedding to logits: the entropy model is one, and so are the baselines."""

from torch import Tensor

from ..codec import BOS, VOCAB_SIZE
from ..config import StackConfig
from .cache import StackCache
from .embedding import Embedding
from .initial import Network
from .layers import Linear, RMSNorm, Stack


class Transformer(Network):
    """Predicts the next id; documents in a row, and rows in a batch, do not see each other."""

    opening: tuple[int, ...] = (BOS,)
    """Ids at which the attention context opens anew."""

    def __init__(self, config: StackConfig, vocabulary: int = VOCAB_SIZE) -> None:
        super().__init__()
        self.config = config
        self.embed = Embedding(vocabulary, config.dim)
        self.stack = Stack(config)
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.head = Linear(config.dim, vocabulary)

    def forward(self, ids_BN: Tensor, cache: StackCache | None = None, single: bool = False) -> Tensor:
        """Logits (B, N, V) in fp32; row t predicts id t+1. With a cache, the ids continue those it has seen.

        `single` says that each row holds one document, from its first id: masks are saved.
        """
        opens_BN = ids_BN == self.opening[0]
        for id in self.opening[1:]:
            opens_BN = opens_BN | (ids_BN == id)
        spans = self.stack.spans(opens_BN, cache, single and self.opening == (BOS,))
        x_BND = self.stack(self.embed(ids_BN), spans, cache)
        return self.head(self.norm(x_BND)).float()

    def step(self, ids_R: Tensor, cache: StackCache) -> Tensor:
        """Logits (R, V) in fp32 after the next id of each row."""
        cache.begin([id in self.opening for id in ids_R.tolist()])
        return self.head(self.norm(self.stack.step(self.embed(ids_R), cache))).float()

    def cache(self, reserve: int = 0) -> StackCache:
        """An empty cache of one row, to read a text in pieces exactly."""
        return StackCache(self.config, reserve)
