"""The embedding table. An optimizer that updates only the rows in use may replace the look-up during training
(`gather`)."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from .initial import init_normal

Gather = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Row numbers -> (a smaller table that contains these rows, the index of each requested row in that table)."""


class Embedding(nn.Embedding):
    """Embedding vectors of ids: (...) -> (..., d)."""

    gather: Gather | None = None
    """Set during training by an optimizer that updates only the rows in use; otherwise None."""

    def reset_parameters(self) -> None:
        init_normal(self.weight, self.embedding_dim)

    def forward(self, input: Tensor) -> Tensor:
        weight, places = (self.weight, input) if self.gather is None else self.gather(input)
        return F.embedding(places, weight)
