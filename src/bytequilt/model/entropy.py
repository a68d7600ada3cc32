"""The entropy model: a small byte transformer whose uncertainty decides where patches start."""

import torch
from torch import Tensor, nn

from ..codec import BOS, NEWLINE, VOCAB_SIZE
from ..config import EntropyConfig
from .cache import StackCache
from .layers import RMSNorm, Stack, init_normal, linear


class EntropyModel(nn.Module):
    """Next-byte transformer over ids; documents in a row, and rows in a batch, do not see each other."""

    def __init__(self, config: EntropyConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(VOCAB_SIZE, config.dim)
        init_normal(self.embed.weight, config.dim)
        self.stack = Stack(config)
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.head = linear(config.dim, VOCAB_SIZE)

    def forward(self, ids_BN: Tensor, cache: StackCache | None = None) -> Tensor:
        """Logits (B, N, V) in fp32; row t predicts byte t+1. With a cache, the ids continue those it has seen."""
        opens_BN = ids_BN == BOS
        if self.config.newline_reset:
            opens_BN = opens_BN | (ids_BN == NEWLINE)
        x_BND = self.stack(self.embed(ids_BN), self.stack.spans(opens_BN, cache), cache)
        return self.head(self.norm(x_BND)).float()

    def step(self, ids_R: Tensor, cache: StackCache) -> Tensor:
        """Logits (R, V) in fp32 after the next id of each row."""
        opening = (BOS, NEWLINE) if self.config.newline_reset else (BOS,)
        cache.begin([id in opening for id in ids_R.tolist()])
        return self.head(self.norm(self.stack.step(self.embed(ids_R), cache))).float()

    def nats(self, ids_BN: Tensor, cache: StackCache | None = None) -> Tensor:
        """Entropy in nats of the byte after each id: (B, N) fp32."""
        return entropy(self(ids_BN, cache))

    def nats_step(self, ids_R: Tensor, cache: StackCache) -> list[float]:
        """The same after the next id of each row."""
        return entropy(self.step(ids_R, cache)).tolist()

    def cache(self, reserve: int = 0) -> StackCache:
        """An empty cache of one row, to score a text in pieces exactly."""
        return StackCache(self.config, reserve)


def entropy(logits_BNV: Tensor) -> Tensor:
    """Entropy in nats of each distribution: (B, N, V) -> (B, N) fp32."""
    return torch.special.entr(logits_BNV.float().softmax(-1)).sum(-1)
