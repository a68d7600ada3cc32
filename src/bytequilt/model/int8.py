"""Weights as whole numbers of eight bits, with a scale for each row; activations stay fp32.

A product has one scale for each output, so that what a row of a batch gives does not depend on its neighbours.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .hashing import HashEmbedding


def quantise(network: nn.Module) -> None:
    """Replace the projections and tables of a network by such, where it is; norms stay as they are."""
    for module in list(network.modules()):
        if isinstance(module, HashEmbedding):
            module.weight, module.scale = _split(module.weight)
        for name, child in module.named_children():
            if isinstance(child, nn.Linear | nn.Embedding):
                setattr(module, name, (Int8Linear if isinstance(child, nn.Linear) else Int8Table)(child.weight))


class Int8(nn.Module):
    """A weight (rows, columns) int8, and the scales (rows,) fp32 of its rows."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight, scale = _split(weight)
        self.register_buffer("scale", scale)


class Int8Linear(Int8):
    """A projection."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype)) * self.scale


class Int8Table(Int8):
    """The vectors of ids: (...) -> (..., d)."""

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight).float() * self.scale[ids][..., None]


def _split(weight: Tensor) -> tuple[nn.Parameter, Tensor]:
    """The nearest whole numbers to a weight divided by the scales of its rows, the largest of which is 127."""
    rows = weight.detach().float()
    scale = rows.abs().amax(1).clamp(min=1e-30) / 127
    return nn.Parameter((rows / scale[:, None]).round().to(torch.int8), requires_grad=False), scale
