"""Networks of baselines: a transformer or a Mamba, optionally with tied embeddings or with hashed n-grams.

Their FLOPs are counted by the conventions of model/flops.py.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..config import BaselineConfig, HashConfig, StackConfig, UserError
from ..model.encoder_cache import RecentIds
from ..model.flops import CONTEXT, stack_flops
from ..model.hashing import HashEmbedding
from ..model.initial import Network
from ..model.rows import Rows
from ..model.transformer import Transformer
from .mamba import Mamba, mamba_flops

TOLERANCE = 0.02
"""Largest relative difference of FLOPs between two models that count as equal."""


def build(config: BaselineConfig) -> nn.Module:
    """The network of a baseline, with random weights."""
    network = (Transformer if config.stack else Mamba)(config.network, config.vocabulary)
    if config.tied:
        network.embed = HeadRows(network.head)
    return WithNgrams(network, config.hash) if config.hash else network


class HeadRows(nn.Module):
    """An embedding that shares the weight of an output head (tied embeddings)."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self._head = (head,)  # in a tuple, so that the head is not registered as a submodule and saved twice

    @property
    def weight(self) -> Tensor:
        return self._head[0].weight

    def reset_parameters(self) -> None:
        """Does nothing: the head initialises the shared weight."""

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)


class NgramCache:
    """The cache of a network, and the recent ids for n-grams."""

    def __init__(self, network: Any, reach: int, rows: int) -> None:
        self.network = network.cache(rows)
        self.ids = RecentIds(reach, rows, 0, network.embed.weight.device)

    def rows(self, numbers: Sequence[int] | None = None) -> Rows:
        return self.network.rows(numbers)

    def clear(self, row: int) -> None:
        self.network.clear(row)
        self.ids.clear(row)


class WithNgrams(Network):
    """A network with the embeddings of hashed n-grams added to those of the ids, as in a BLT."""

    def __init__(self, network: Any, config: HashConfig) -> None:
        super().__init__()
        self.network, self.hash = network, HashEmbedding(config, network.config.dim)

    def init_weights(self) -> None:
        """Initialise all weights again."""
        self.network.init_weights()
        self.hash.reset_parameters()

    def forward(
        self, ids_BN: Tensor, cache: NgramCache | None = None, rows: Rows | None = None, **options: bool
    ) -> Tensor:
        """Logits (B, N, V) in fp32; the logits at t predict id t+1. With a cache, the ids continue its rows."""
        if cache is None:
            return self.network(ids_BN, added_BND=self._ngrams(ids_BN, None), **options)
        rows = rows or cache.rows()
        added_BND = self._ngrams(ids_BN, cache.ids.extend(rows, ids_BN))
        return self.network(ids_BN, cache.network, rows, added_BND=added_BND, **options)

    def step(self, ids_R: Tensor, cache: NgramCache, rows: Rows | None = None, text: bool = False) -> Tensor:
        """Logits (R, V) in fp32 after the next id of each row; `text` promises that no id is a BOS."""
        rows, ids_R1 = rows or cache.rows(), ids_R[:, None]
        added_RD = self._ngrams(ids_R1, cache.ids.extend(rows, ids_R1))[:, 0]
        return self.network.step(ids_R, cache.network, rows, text, added_RD)

    def cache(self, rows: int = 1) -> NgramCache:
        """An empty cache for reading a text in pieces."""
        return NgramCache(self.network, self.hash.reach, rows)

    def _ngrams(self, ids_BN: Tensor, recent_BM: Tensor | None) -> Tensor:
        return self.hash(ids_BN, recent_BM, self.network.embed.weight.dtype)


def baseline_flops(config: BaselineConfig, context: float = CONTEXT) -> dict[str, float]:
    """Forward FLOPs per byte in documents of `context` bytes: `body`, `head` and `total`. The embedding is a look-up
    and costs nothing. The output head is listed separately, because it grows with the vocabulary."""
    tokens = context / config.token_bytes
    if config.stack is not None:
        body = stack_flops(config.stack, tokens) / context
    else:
        body = mamba_flops(config.mamba) / config.token_bytes
    head = 2 * config.network.dim * config.vocabulary / config.token_bytes
    return {"body": body, "head": head, "total": body + head}


def equal_stack(flops: float, like: StackConfig, vocabulary: int, token_bytes: float, context: float) -> StackConfig:
    """A transformer over tokens with `flops` FLOPs per byte; among all such shapes, the one with dim / layers closest
    to `like`. Raises UserError if there is none, for example because the output head alone costs more."""
    near = []
    for layers in range(1, 8 * like.layers + 1):
        for dim in range(2 * like.heads, 4 * like.dim, 2 * like.heads):
            size = {"dim": dim, "layers": layers, "ffn_dim": 8 * round(dim * like.hidden_dim / like.dim / 8)}
            stack = like.model_copy(update=size)
            config = BaselineConfig.model_construct(stack=stack, vocabulary=vocabulary, token_bytes=token_bytes)
            if abs(baseline_flops(config, context)["total"] / flops - 1) <= TOLERANCE:
                near.append(stack)
    if not near:
        raise UserError(f"no transformer over {vocabulary:,} tokens has {flops:.3g} FLOPs per byte, as this model has")
    return min(near, key=lambda stack: abs(stack.dim / stack.layers - like.dim / like.layers))
