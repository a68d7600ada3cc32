"""Weights as whole numbers of eight bits, with a scale for each row; activations stay fp32.

A product has one scale for each output, so that what a row of a batch gives does not depend on its neighbours.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import UserError
from .hashing import HashEmbedding


def quantise(network: nn.Module) -> None:
    """Replace the projections and tables of a network by such, where it is; norms stay as they are."""
    for module in list(network.modules()):
        if isinstance(module, HashEmbedding):
            eight, module.scale = split(module.weight)
            module.weight = nn.Parameter(eight, requires_grad=False)
        for name, child in module.named_children():
            if isinstance(child, nn.Linear | nn.Embedding):
                setattr(module, name, (Int8Linear if isinstance(child, nn.Linear) else Int8Table)(child.weight))


class Int8(nn.Module):
    """A weight (rows, columns) int8, and the scales (rows,) fp32 of its rows."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        eight, scale = split(weight)
        self.weight = nn.Parameter(eight, requires_grad=False)
        self.register_buffer("scale", scale)


class Int8Linear(Int8):
    """A projection."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype)) * self.scale


class Int8Table(Int8):
    """The vectors of ids: (...) -> (..., d)."""

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight).float() * self.scale[ids][..., None]


def split(weight: Tensor, name: str = "a weight") -> tuple[Tensor, Tensor]:
    """Whole numbers (rows, columns) int8 and scales (rows,) fp32 whose products are nearest to a weight.

    The largest number of a row is 127, so what was split once and joined gives the same numbers again.
    Raises UserError where a number is not finite.
    """
    if weight.is_meta:
        return torch.empty_like(weight, dtype=torch.int8), weight.new_empty(len(weight), dtype=torch.float32)
    rows = weight.detach().float()
    scale = rows.abs().amax(1).clamp(min=1e-30) / 127
    if not scale.isfinite().all():
        raise UserError(f"{name} has numbers that are not finite, which eight bits cannot hold")
    return (rows / scale[:, None]).round().to(torch.int8), scale


def joined(eight: Tensor, scale: Tensor) -> Tensor:
    """The weight (rows, columns) fp32 that whole numbers and the scales of their rows stand for."""
    return eight * scale[:, None]
