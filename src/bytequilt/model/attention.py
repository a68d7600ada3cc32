"""Causal self-attention inside documents and windows: blocks of scaled-dot-product attention, flex attention on CUDA.

Every mask in the house has one form: query i sees the keys `first[i] <= j <= i`. A window, a document and a newline
reset only raise `first`. Nothing here ever builds an N x N mask.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 256  # queries per block at most: the fastest of 128 to 512 on the CPUs tried


@dataclass(frozen=True)
class Spans:
    """Which keys each query sees. Positions count from the first key at hand; the queries are its last N."""

    first_BN: Tensor
    keys: int
    """Number of keys at hand: N, and those that a cache holds before them."""
    window: int | None = None

    @classmethod
    def of(cls, opens_BN: Tensor, window: int | None = None) -> "Spans":
        """Spans of whole rows: a context opens where `opens_BN` says so, and at position 0."""
        return cls.after(opens_BN, torch.zeros_like(opens_BN[:, 0], dtype=torch.long), 0, window)

    @classmethod
    def after(cls, opens_BN: Tensor, context_B: Tensor, held: int, window: int | None = None) -> "Spans":
        """Spans of queries behind `held` cached keys; their context opened at key `context_B`, maybe negative."""
        position = torch.arange(held, held + opens_BN.shape[1], device=opens_BN.device)
        first = torch.where(opens_BN, position, context_B[:, None]).cummax(1).values
        if window is not None:
            first = first.maximum(position - (window - 1))
        return cls(first.clamp(min=0), held + opens_BN.shape[1], window)

    @property
    def queries(self) -> int:
        return self.first_BN.shape[1]

    @cached_property
    def blocks(self) -> list[tuple[int, int, int, int]]:
        """Query ranges and the key ranges they can see at most: (query from, to, key from, to)."""
        held = self.keys - self.queries
        size = BLOCK if self.window is None else min(BLOCK, max(64, self.window))  # of window + size keys, window count
        edges = [(a, min(a + size, self.queries)) for a in range(0, self.queries, size)]
        reach = self.keys if self.window is None else self.window - 1
        return [(a, b, max(0, held + a - reach), held + b) for a, b in edges]

    @cached_property
    def same_everywhere(self) -> bool:
        """Whether all rows have the same mask. Asked on the CPU only, where it costs no synchronisation."""
        return len(self.first_BN) == 1 or bool((self.first_BN == self.first_BN[:1]).all())

    @cached_property
    def plainly_causal(self) -> bool:
        """Whether queries see all keys before them, and there are no others. Asked on the CPU only."""
        return self.queries == self.keys and not bool(self.first_BN.any())

    def visible(self, block: tuple[int, int, int, int]) -> Tensor:
        """The mask of one block: (B or 1, 1, queries, keys) bool."""
        a, b, low, high = block
        first = (self.first_BN[:1] if self.same_everywhere else self.first_BN)[:, None, a:b, None]
        key = torch.arange(low, high, device=first.device)
        query = torch.arange(a, b, device=first.device)[:, None] + (self.keys - self.queries)
        return (key >= first) & (key <= query)

    def biases(self, dtype: torch.dtype) -> list[Tensor]:
        """The masks of all blocks as 0 or minus infinity, made once for all layers of a stack."""
        if dtype not in self._biases:
            minus = torch.tensor(-torch.inf, dtype=dtype, device=self.first_BN.device)
            self._biases[dtype] = [torch.where(self.visible(b), minus.new_zeros(()), minus) for b in self.blocks]
        return self._biases[dtype]

    @cached_property
    def _biases(self) -> dict[torch.dtype, list[Tensor]]:
        return {}


def attend(q_BHND: Tensor, k_BGMD: Tensor, v_BGMD: Tensor, spans: Spans) -> Tensor:
    """Softmax attention of queries to the keys in their spans: (B, H, N, D). G key heads serve H = g*G query heads."""
    gqa = q_BHND.shape[1] != k_BGMD.shape[1]
    if q_BHND.is_cuda:
        return _flex(q_BHND, k_BGMD, v_BGMD, spans, gqa)
    if spans.plainly_causal and (spans.window is None or spans.queries <= spans.window):
        return F.scaled_dot_product_attention(q_BHND, k_BGMD, v_BGMD, is_causal=True, enable_gqa=gqa)
    asked, seen = [block[:2] for block in spans.blocks], [block[2:] for block in spans.blocks]
    pieces = Pieces.apply(q_BHND, *asked), Pieces.apply(k_BGMD, *seen), Pieces.apply(v_BGMD, *seen)
    out = [
        F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=gqa)
        for q, k, v, bias in zip(*pieces, spans.biases(q_BHND.dtype), strict=True)
    ]
    return torch.cat(out, 2)


class Pieces(torch.autograd.Function):
    """Ranges of positions, which may overlap: (B, H, M, D) -> (B, H, m, D) of each.

    The gradient of a slice is as long as what it was cut from; here all of them add up in one tensor, or the cost of a
    row would grow as its square.
    """

    @staticmethod
    def forward(ctx: Any, x_BHMD: Tensor, *ranges: tuple[int, int]) -> tuple[Tensor, ...]:
        ctx.shape, ctx.ranges = x_BHMD.shape, ranges
        return tuple(x_BHMD[:, :, begin:end] for begin, end in ranges)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        whole = grads[0].new_zeros(ctx.shape)
        for (begin, end), grad in zip(ctx.ranges, grads, strict=True):
            whole[:, :, begin:end] += grad
        return whole, *(None for _ in grads)


def _flex(q_BHND: Tensor, k_BGMD: Tensor, v_BGMD: Tensor, spans: Spans, gqa: bool) -> Tensor:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    first_BN, held = spans.first_BN, spans.keys - spans.queries

    def sees(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return (kv >= first_BN[b, q]) & (kv <= q + held)

    if "flex" not in spans.__dict__:  # one block mask for all layers
        mask = create_block_mask(sees, len(first_BN), None, spans.queries, spans.keys, first_BN.device)
        spans.__dict__["flex"] = mask
    kernel = torch.compile(flex_attention) if q_BHND.is_cuda else flex_attention
    return kernel(q_BHND, k_BGMD, v_BGMD, block_mask=spans.__dict__["flex"], enable_gqa=gqa)
