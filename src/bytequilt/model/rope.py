"""Rotary positions (Su et al. 2021) in their interleaved form: neighbouring pairs of a head turn together."""

from functools import lru_cache

import torch
from torch import Tensor

TABLE = 1024  # positions of one table of factors


def rotation(positions_N: Tensor, head_dim: int, theta: float) -> Tensor:
    """Rotary factors (N, 1, head_dim / 2) complex64; angles are taken in fp64, for they must hold at any position."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions_N.device) / head_dim
    angles = torch.outer(positions_N.double(), theta**-exponent)
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)[:, None]


def rotation_at(position: int, head_dim: int, theta: float, device: torch.device) -> Tensor:
    """Rotary factors (1, head_dim / 2) of one position, out of tables: a step asks for them at every byte."""
    return _table(position // TABLE, head_dim, theta, device)[position % TABLE]


@lru_cache(maxsize=64)
def _table(number: int, head_dim: int, theta: float, device: torch.device) -> Tensor:
    return rotation(torch.arange(number * TABLE, (number + 1) * TABLE, device=device), head_dim, theta)


def rotate(x_BNHD: Tensor, rotation_N1C: Tensor) -> Tensor:
    """Turn neighbouring pairs (x0, x1) of every head by the factors of their position."""
    pairs = torch.view_as_complex(x_BNHD.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation_N1C).flatten(-2).to(x_BNHD.dtype)


def rotate_(x_RH1D: Tensor, rotation_R11C: Tensor) -> None:
    """Like `rotate`, in place and without gradients: a step of one position a row."""
    if x_RH1D.dtype is torch.float32:
        x_RH1D.view(torch.complex64).mul_(rotation_R11C)
    else:
        x_RH1D.copy_(rotate(x_RH1D, rotation_R11C))
