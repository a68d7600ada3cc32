"""Rotary position embeddings (Su et al. 2021), interleaved: channels 2i and 2i+1 of a head form a pair and are rotated
together.

Rotary factors are real: a (cosine, sine) pair for each pair of channels, (..., head_dim / 2, 2).
"""

from functools import cache, lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

TABLE = 8192  # positions per table, 2 MB at a head size of 64; factors of larger positions combine two tables


def rotation(positions: Tensor, end: int, head_dim: int, theta: float) -> Tensor:
    """Rotary factors (..., head_dim / 2, 2) of the positions (...) int64; all positions are less than `end`."""
    if end <= TABLE:
        return F.embedding(positions, table(1, head_dim, theta, positions.device)).unflatten(-1, (-1, 2))
    low = table(1, head_dim, theta, positions.device)[positions % TABLE].unflatten(-1, (-1, 2))
    high = table(TABLE, head_dim, theta, positions.device)[positions // TABLE].unflatten(-1, (-1, 2))
    return turned_pairs(low, high)  # a rotation by the sum of both


@lru_cache(maxsize=64)
def turns(head_dim: int, theta: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Factors of the first TABLE positions in the form that `rotate_` takes: (TABLE, 1, 1, 1, ...). Indexing by a
    Python integer gives a view."""
    with torch.inference_mode(False):
        return turning(table(1, head_dim, theta, device).view(TABLE, 1, 1, 1, -1, 2), dtype)


@cache  # never dropped: recorded steps read it
def table(stride: int, head_dim: int, theta: float, device: torch.device) -> Tensor:
    """Factors of positions 0, stride, 2 * stride, ...: (TABLE, head_dim). Angles are fp64, which large positions need,
    so the CPU computes them."""
    with torch.inference_mode(False):  # training uses the same tables
        positions = torch.arange(0, stride * TABLE, stride, dtype=torch.float64, device="cpu")
        exponent = torch.arange(0, head_dim, 2, dtype=torch.float64, device="cpu") / head_dim
        angles = torch.outer(positions, theta**-exponent)
        return torch.stack([angles.cos(), angles.sin()], -1).flatten(1).float().to(device)


def rotate(x: Tensor, factors: Tensor) -> Tensor:
    """Rotate each pair of channels of x (..., head_dim) by the factors of its position."""
    pairs = x.float().unflatten(-1, (-1, 2))
    # complex numbers take a third of the operations; torch.compile does not support them
    if has_complex(x) and not torch.compiler.is_compiling():
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(factors))
    else:
        turned = turned_pairs(pairs, factors)
    return turned.flatten(-2).to(x.dtype)


def has_complex(x: Tensor) -> bool:
    """True if the device of x multiplies complex numbers fast."""
    return x.is_cpu or x.is_cuda


def turned_pairs(pairs: Tensor, factors: Tensor) -> Tensor:
    """Rotate pairs (..., 2) by factors (..., 2) in real arithmetic."""
    (a, b), (cos, sin) = pairs.unbind(-1), factors.unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1)


def turning(factors: Tensor, dtype: torch.dtype) -> Tensor:
    """The factors in the form that `rotate_` takes for this data type: complex numbers where those are faster."""
    return torch.view_as_complex(factors) if has_complex(factors) and dtype is torch.float32 else factors


def rotate_(x: Tensor, factors: Tensor) -> None:
    """Rotate x in place, without gradients; `factors` come from `turning`. Used for steps of one position."""
    if factors.is_complex():
        x.view(torch.complex64).mul_(factors)
    else:
        x.copy_(rotate(x, factors))
