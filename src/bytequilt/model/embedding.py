"""Embedding tables. An optimizer of touched rows may replace the look-up while it trains a table (`gather`)."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from .initial import init_normal

Gather = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Row numbers -> a smaller table that has these rows, and the number of each row in it."""


class Embedding(nn.Embedding):
    """Embedding vectors of ids: (...) -> (..., d)."""

    gather: Gather | None = None
    """Set by an optimizer of touched rows while it trains this table."""

    def reset_parameters(self) -> None:
        init_normal(self.weight, self.embedding_dim)

    def forward(self, input: Tensor) -> Tensor:
        weight, places = (self.weight, input) if self.gather is None else self.gather(input)
        return F.embedding(places, weight)
