"""int8 weights with one fp32 scale per row; activations stay fp32.

Only weights are quantised, so the result of one row of a batch does not depend on the other rows.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import UserError
from .hashing import HashEmbedding


def quantise(network: nn.Module) -> None:
    """Replace the linear layers and embedding tables of a network by int8 versions, in place; norms keep their type."""
    for module in list(network.modules()):
        if isinstance(module, HashEmbedding):
            eight, module.scale = split(module.weight)
            module.weight = nn.Parameter(eight, requires_grad=False)
        for name, child in module.named_children():
            if isinstance(child, nn.Linear | nn.Embedding):
                setattr(module, name, (Int8Linear if isinstance(child, nn.Linear) else Int8Table)(child.weight))


class Int8(nn.Module):
    """A weight as int8 (rows, columns) with an fp32 scale for each row (rows,)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        eight, scale = split(weight)
        self.weight = nn.Parameter(eight, requires_grad=False)
        self.register_buffer("scale", scale)


class Int8Linear(Int8):
    """A linear layer with int8 weights."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype)) * self.scale


class Int8Table(Int8):
    """An embedding table with int8 weights: ids (...) -> (..., d) fp32."""

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight).float() * self.scale[ids][..., None]


def split(weight: Tensor, name: str = "a weight") -> tuple[Tensor, Tensor]:
    """Quantise a weight (rows, columns): int8 values of the same shape and fp32 scales (rows,), one per row.

    The largest magnitude of each row becomes 127, so quantising a dequantised weight gives the same values again.
    Raises UserError if a number is not finite; `name` is the weight's name in that message.
    """
    if weight.is_meta:
        return torch.empty_like(weight, dtype=torch.int8), weight.new_empty(len(weight), dtype=torch.float32)
    rows = weight.detach().float()
    scale = rows.abs().amax(1).clamp(min=1e-30) / 127
    if not scale.isfinite().all():
        raise UserError(f"{name} has numbers that are not finite, which eight bits cannot hold")
    return (rows / scale[:, None]).round().to(torch.int8), scale


def joined(eight: Tensor, scale: Tensor) -> Tensor:
    """Dequantise: the fp32 weight (rows, columns) from int8 values and the scale of each row."""
    return eight * scale[:, None]
