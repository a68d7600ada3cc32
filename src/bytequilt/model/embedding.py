"""Tables of vectors, looked up by row. An optimizer may put itself between a table and its readers."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from .initial import init_normal

Gather = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Rows to read -> the vectors to read from, and where in them the rows are."""


class Embedding(nn.Embedding):
    """The vectors of ids: (...) -> (..., d)."""

    gather: Gather | None = None
    """Set by an optimizer of touched rows while it trains this table."""

    def reset_parameters(self) -> None:
        init_normal(self.weight, self.embedding_dim)

    def forward(self, input: Tensor) -> Tensor:
        weight, places = (self.weight, input) if self.gather is None else self.gather(input)
        return F.embedding(places, weight)
