"""The entropy model: a small byte transformer. The entropy of its predictions decides where patches start."""

import torch
from torch import Tensor

from ..codec import BOS, NEWLINE
from ..config import EntropyConfig
from .cache import StackCache
from .rows import Rows
from .transformer import Transformer


class EntropyModel(Transformer):
    """A next-byte transformer that returns the entropy of its predictions."""

    config: EntropyConfig

    def __init__(self, config: EntropyConfig) -> None:
        super().__init__(config)
        if config.newline_reset:
            self.opening = (BOS, NEWLINE)

    def nats(
        self, ids_BN: Tensor, cache: StackCache | None = None, rows: Rows | None = None, single: bool = False
    ) -> Tensor:
        """Entropy in nats of the next byte after each id: (B, N) fp32. Arguments as in `Transformer.forward`."""
        return entropy(self(ids_BN, cache, rows, single))

    def nats_step(self, ids_R: Tensor, cache: StackCache, rows: Rows | None = None, text: bool = False) -> Tensor:
        """Entropy in nats (R,) after the next id of each row of a cache; `text` promises that no id is a BOS."""
        return entropy(self.step(ids_R, cache, rows, text))


def entropy(logits_BNV: Tensor) -> Tensor:
    """Entropy in nats of the distribution given by each row of logits: (B, N, V) -> (B, N) fp32."""
    return torch.special.entr(logits_BNV.float().softmax(-1)).sum(-1)
