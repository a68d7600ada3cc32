"""AdamW for single rows of a table; the steps that a row has missed are applied later, in closed form.

While a row gets no gradient, its first moment shrinks by b1 per step and its second by b2. So step j moves a row that
was last updated at step s by `lr(j) * c(j) * q^(j-s) * m / sqrt(v)`, with q = b1 / sqrt(b2) and the bias correction
c(j) = sqrt(1 - b2^j) / (1 - b1^j). The sum of these moves over j depends only on s. It is stored for every s and called
the drift.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

CHUNK = 1 << 16  # rows per chunk when a whole table is caught up; it limits temporary memory
FIRST_STEPS = 1024  # initial capacity of the drift in steps; it doubles when full
NEGLIGIBLE = 1e-12  # moves below this fraction of the first one are ignored


@dataclass
class Moments:
    """AdamW's state of a table (R, d). The moments of a row are those of its last update."""

    m_RD: Tensor
    v_RD: Tensor
    last_R: Tensor
    """int32: the step at which each row was last updated."""
    drift_S: Tensor
    """Drift of a row that was last updated at step s, in units of m / sqrt(v)."""

    @classmethod
    def of(cls, weight: Tensor) -> "Moments":
        """The state before the first step."""
        last_R = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
        return cls(torch.zeros_like(weight), torch.zeros_like(weight), last_R, weight.new_zeros(FIRST_STEPS))


@dataclass(frozen=True)
class Step:
    """The numbers of one AdamW step; steps count from 1."""

    number: int
    lr: float
    betas: tuple[float, float]
    eps: float

    @property
    def correction(self) -> float:
        """AdamW's bias correction of m / sqrt(v)."""
        return (1 - self.betas[1] ** self.number) ** 0.5 / (1 - self.betas[0] ** self.number)


def caught_up(weight_RD: Tensor, moments: Moments, rows_U: Tensor | slice, eps: float) -> Tensor:
    """The values (U, d) that dense AdamW would have given these rows by now. The table is not modified."""
    m_UD, v_UD, last_U = (select(x, rows_U) for x in (moments.m_RD, moments.v_RD, moments.last_R))
    far_U1 = -moments.drift_S.index_select(0, last_U)[:, None]
    return select(weight_RD, rows_U).addcdiv(m_UD * far_U1, v_UD.sqrt().add_(eps))


def update_(
    weight_RD: Tensor, moments: Moments, rows_U: Tensor | slice, values_UD: Tensor, grads_UD: Tensor, step: Step
) -> None:
    """One AdamW step for some rows. `values_UD` are their caught-up values; a row may occur twice with equal values."""
    b1, b2 = step.betas
    gap_U1 = (step.number - 1 - select(moments.last_R, rows_U))[:, None]
    m_UD = select(moments.m_RD, rows_U).mul_(torch.pow(b1, gap_U1)).lerp_(grads_UD, 1 - b1)
    v_UD = select(moments.v_RD, rows_U).mul_(torch.pow(b2, gap_U1)).mul_(b2).addcmul_(grads_UD, grads_UD, value=1 - b2)
    width = (1 - b2**step.number) ** 0.5  # as in torch.optim.AdamW, eps is added after the bias correction of v
    values_UD = values_UD.addcdiv(m_UD, v_UD.sqrt().add_(step.eps * width), value=-step.lr * step.correction)
    write_(weight_RD, rows_U, values_UD)
    write_(moments.m_RD, rows_U, m_UD)
    write_(moments.v_RD, rows_U, v_UD)
    write_(moments.last_R, rows_U, torch.full_like(gap_U1[:, 0], step.number))


def catch_up_(weight_RD: Tensor, moments: Moments, step: Step) -> None:
    """Apply all missed steps to every row of a table, chunk by chunk."""
    for begin in range(0, len(weight_RD), CHUNK):
        rows = slice(begin, begin + CHUNK)
        weight_RD[rows] = caught_up(weight_RD, moments, rows, step.eps)
        gap_U1 = (step.number - moments.last_R[rows])[:, None]
        moments.m_RD[rows] *= torch.pow(step.betas[0], gap_U1)
        moments.v_RD[rows] *= torch.pow(step.betas[1], gap_U1)
        moments.last_R[rows] = step.number


def next_drift(drift_S: Tensor, step: Step) -> Tensor:
    """The drift after one more step. The tensor is modified in place if its capacity is sufficient."""
    if step.number >= len(drift_S):
        drift_S = torch.cat([drift_S, torch.zeros_like(drift_S)])
    powers_K = _powers(step.betas[0] / step.betas[1] ** 0.5, len(drift_S), drift_S.device)
    count = min(step.number, len(powers_K))
    drift_S[step.number - count : step.number].add_(powers_K[-count:], alpha=step.lr * step.correction)
    return drift_S


@lru_cache
def _powers(q: float, most: int, device: torch.device) -> Tensor:
    """The powers ..., q^3, q^2, q, without those that are negligible."""
    powers, power = [], q
    while len(powers) < most and power > NEGLIGIBLE:
        powers.append(power)
        power *= q
    return torch.tensor(powers[::-1], device=device)


def select(x_RD: Tensor, rows_U: Tensor | slice) -> Tensor:
    """A copy of some rows; index_select is much faster than indexing."""
    return x_RD[rows_U].clone() if isinstance(rows_U, slice) else x_RD.index_select(0, rows_U)


def write_(x_RD: Tensor, rows_U: Tensor | slice, values_UD: Tensor) -> None:
    """Write rows in place. index_copy_ on a CPU handles numbers one by one, so here four floats are copied as one
    complex number."""
    if isinstance(rows_U, slice) or x_RD.ndim == 1 or x_RD.shape[1] % 4 or x_RD.device.type != "cpu":
        x_RD[rows_U] = values_UD
    else:
        x_RD.view(torch.complex128).index_copy_(0, rows_U, values_UD.view(torch.complex128))
