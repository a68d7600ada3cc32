"""Rotary positions (Su et al. 2021) in their interleaved form: neighbouring pairs of a head turn together.

Factors are real: a (cosine, sine) pair for each pair of channels, (..., head_dim / 2, 2).
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

TABLE = 8192  # positions of a table: 2 MB at a head size of 64; what lies beyond is composed of two tables


def rotation(positions: Tensor, end: int, head_dim: int, theta: float) -> Tensor:
    """Rotary factors (..., head_dim / 2, 2) of positions (...) int64, all of them below `end`."""
    if end <= TABLE:
        return F.embedding(positions, _table(1, head_dim, theta, positions.device)).unflatten(-1, (-1, 2))
    low = _table(1, head_dim, theta, positions.device)[positions % TABLE].unflatten(-1, (-1, 2))
    high = _table(TABLE, head_dim, theta, positions.device)[positions // TABLE].unflatten(-1, (-1, 2))
    (a, b), (c, d) = low.unbind(-1), high.unbind(-1)
    return torch.stack([a * c - b * d, a * d + b * c], -1)


@lru_cache(maxsize=64)
def turns(head_dim: int, theta: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Factors (TABLE, 1, 1, 1, ...) as `rotate_` takes them: of a position that the host knows, a view."""
    with torch.inference_mode(False):
        return turning(_table(1, head_dim, theta, device).view(TABLE, 1, 1, 1, -1, 2), dtype)


@lru_cache(maxsize=64)
def _table(stride: int, head_dim: int, theta: float, device: torch.device) -> Tensor:
    """Factors of every `stride`-th position: angles in fp64, for they must hold anywhere, and so on the CPU."""
    with torch.inference_mode(False):  # training uses the same tables
        positions = torch.arange(0, stride * TABLE, stride, dtype=torch.float64, device="cpu")
        exponent = torch.arange(0, head_dim, 2, dtype=torch.float64, device="cpu") / head_dim
        angles = torch.outer(positions, theta**-exponent)
        return torch.stack([angles.cos(), angles.sin()], -1).flatten(1).float().to(device)


def rotate(x: Tensor, factors: Tensor) -> Tensor:
    """Turn neighbouring pairs of channels of x (..., head_dim) by the factors of their position."""
    pairs = x.float().unflatten(-1, (-1, 2))
    if x.is_cpu and not torch.compiler.is_compiling():  # a third of the time there; compilers know no complex numbers
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(factors))
    else:
        turned = turned_pairs(pairs, factors)
    return turned.flatten(-2).to(x.dtype)


def turned_pairs(pairs: Tensor, factors: Tensor) -> Tensor:
    """The rotation in real numbers: pairs (..., 2) by factors (..., 2)."""
    (a, b), (cos, sin) = pairs.unbind(-1), factors.unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1)


def turning(factors: Tensor, dtype: torch.dtype) -> Tensor:
    """The factors as `rotate_` takes them, for what is of this type: complex numbers where those are faster."""
    return torch.view_as_complex(factors) if factors.is_cpu and dtype is torch.float32 else factors


def rotate_(x: Tensor, factors: Tensor) -> None:
    """Like `rotate`, in place and without gradients, by factors of `turning`: a step of one position a row."""
    if factors.is_complex():
        x.view(torch.complex64).mul_(factors)
    else:
        x.copy_(rotate(x, factors))
