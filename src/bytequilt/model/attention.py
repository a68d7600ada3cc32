"""Causal self-attention inside documents and windows, by whichever way is the fastest for a device and a shape.

Every mask has one form: query i sees the keys `first[i] <= j <= i`. A window, a document and a newline reset only raise
`first`. Nothing here ever builds an N x N mask, and nothing reads the device.
"""

from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 256  # queries per block where there is no window
NARROW = 32  # head size up to which bf16 products of blocks beat PyTorch's attention on a CPU, in bf16 or fp32
FLEX_HEAD = 16  # smallest head size that flex attention takes on CUDA


@dataclass
class Spans:
    """Which keys each query sees. Positions count from the first key at hand; the queries are its last N.

    Made once for all layers of a stack: masks are made when they are first asked for, and kept.
    """

    first_BN: Tensor
    """(1, N) where all rows see the same."""
    keys: int
    """Number of keys at hand: N, and those that a cache holds before them."""
    window: int | None = None
    single: bool = False
    """Whether each row is known to hold one document, from its first position."""
    fixed: bool = True
    """Whether training meets this shape again and again, so that a kernel may be compiled for it."""
    _biases: dict[torch.dtype, list[Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, opens_BN: Tensor, window: int | None = None, single: bool = False, fixed: bool = True) -> "Spans":
        """Spans of whole rows: a context opens where `opens_BN` says so, and at position 0.

        With `single`, it opens nowhere else, which saves masks.
        """
        opens_BN = torch.zeros_like(opens_BN[:1]) if single else opens_BN
        spans = cls.after(opens_BN, torch.zeros_like(opens_BN[:, 0], dtype=torch.long), 0, window)
        spans.single, spans.fixed = single, fixed
        return spans

    @classmethod
    def after(cls, opens_BN: Tensor, context_B: Tensor, cached: int, window: int | None = None) -> "Spans":
        """Spans of queries behind `held` cached keys; their context opened at key `context_B`, maybe negative."""
        position = torch.arange(cached, cached + opens_BN.shape[1], device=opens_BN.device)
        first = torch.where(opens_BN, position, context_B[:, None]).cummax(1).values
        if window is not None:
            first = first.maximum(position - (window - 1))
        return cls(first.clamp(min=0), cached + opens_BN.shape[1], window)

    @property
    def queries(self) -> int:
        return self.first_BN.shape[1]

    @property
    def causal(self) -> bool:
        """Whether queries are known to see all keys before them, and there are no others."""
        return self.single and self.queries == self.keys and (self.window is None or self.queries <= self.window)

    @cached_property
    def blocks(self) -> list[tuple[int, int, int, int]]:
        """Query ranges and the key ranges they can see at most: (query from, to, key from, to)."""
        cached, window = self.keys - self.queries, self.window
        size = BLOCK if window is None else 64 if window <= 128 else 128  # the fastest on the CPUs tried
        edges = [(a, min(a + size, self.queries)) for a in range(0, self.queries, size)]
        reach = self.keys if window is None else window - 1
        return [(a, b, max(0, cached + a - reach), cached + b) for a, b in edges]

    def visible(self, block: tuple[int, int, int, int]) -> Tensor:
        """The mask of one block: (B or 1, 1, queries, keys) bool."""
        a, b, low, high = block
        first = self.first_BN[:, None, a:b, None]
        key = torch.arange(low, high, device=first.device)
        query = torch.arange(a, b, device=first.device)[:, None] + (self.keys - self.queries)
        return (key >= first) & (key <= query)

    def biases(self, dtype: torch.dtype) -> list[Tensor]:
        """The masks of all blocks as 0 or minus infinity."""
        if dtype not in self._biases:
            minus = torch.tensor(-torch.inf, dtype=dtype, device=self.first_BN.device)
            self._biases[dtype] = [torch.where(self.visible(b), minus.new_zeros(()), minus) for b in self.blocks]
        return self._biases[dtype]

    @cached_property
    def pair_bias(self) -> Tensor:
        """The mask of blocks of `window` positions and the ones before them: (B, 1, n, W, 2W), in bf16."""
        size, count = self.window or 0, -(-self.queries // (self.window or 1))
        position = torch.arange(count * size, device=self.first_BN.device).view(count, size, 1)
        key = position.view(count, 1, size)
        key = torch.cat([key - size, key], -1)  # the block before the first has negative positions
        first = F.pad(self.first_BN, (0, count * size - self.queries)).view(len(self.first_BN), 1, count, size, 1)
        seen = (key >= first) & (key <= position)
        return torch.where(seen, 0.0, -torch.inf).bfloat16()

    @cached_property
    def flex(self) -> Any:
        """The block mask of flex attention."""
        first_BN, cached, shared = self.first_BN, self.keys - self.queries, len(self.first_BN) == 1

        def sees(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
            return (kv >= first_BN[0 if shared else b, q]) & (kv <= q + cached)

        rows = None if shared else len(first_BN)
        return _compiled("create_block_mask")(sees, rows, None, self.queries, self.keys, first_BN.device)


def attend(q_BHND: Tensor, k_BGMD: Tensor, v_BGMD: Tensor, spans: Spans) -> Tensor:
    """Softmax attention of queries to the keys in their spans: (B, H, N, D). G key heads serve H = g*G query heads."""
    way = way_of(q_BHND.device.type, q_BHND.dtype, q_BHND.shape[-1], torch.is_grad_enabled(), spans)
    return way(q_BHND, k_BGMD, v_BGMD, spans).to(q_BHND.dtype)


def way_of(device: str, dtype: torch.dtype, head_dim: int, training: bool, spans: Spans) -> Any:
    """How to attend: see the ways below."""
    slow = device == "cpu" and dtype is torch.bfloat16  # PyTorch's attention there is twice as slow as in fp32
    if spans.causal:
        return wide if slow else causal
    if slow and head_dim <= NARROW and spans.window is not None and spans.queries == spans.keys:
        return paired
    if device == "cuda" and training and spans.fixed and head_dim >= FLEX_HEAD and spans.queries == spans.keys:
        return flex
    return wide if slow else blocked


def causal(q_BHND: Tensor, k_BGMD: Tensor, v_BGMD: Tensor, spans: Spans) -> Tensor:
    """One document, and all of it inside the window: no mask."""
    gqa = q_BHND.shape[1] != k_BGMD.shape[1]
    return F.scaled_dot_product_attention(q_BHND, k_BGMD, v_BGMD, is_causal=True, enable_gqa=gqa)


def blocked(q_BHND: Tensor, k_BGMD: Tensor, v_BGMD: Tensor, spans: Spans) -> Tensor:
    """Blocks of queries, each with the keys that it can see."""
    gqa = q_BHND.shape[1] != k_BGMD.shape[1]
    asked, seen = [block[:2] for block in spans.blocks], [block[2:] for block in spans.blocks]
    pieces = Pieces.apply(q_BHND, *asked), Pieces.apply(k_BGMD, *seen), Pieces.apply(v_BGMD, *seen)
    out = [
        F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=gqa)
        for q, k, v, bias in zip(*pieces, spans.biases(q_BHND.dtype), strict=True)
    ]
    return torch.cat(out, 2)


def wide(q_BHND: Tensor, k_BGMD: Tensor, v_BGMD: Tensor, spans: Spans) -> Tensor:
    """Like `blocked`, in fp32."""
    with torch.autocast(q_BHND.device.type, enabled=False):
        way = causal if spans.causal else blocked
        return way(q_BHND.float(), k_BGMD.float(), v_BGMD.float(), spans)


def paired(q_BHND: Tensor, k_BGMD: Tensor, v_BGMD: Tensor, spans: Spans) -> Tensor:
    """Blocks as long as the window, each with its own keys and those of the block before: plain matrix products."""
    heads, length, size = q_BHND.shape[1], q_BHND.shape[2], spans.window or 0
    q, k, v = (F.pad(x, (0, 0, 0, -length % size)).unflatten(2, (-1, size)) for x in (q_BHND, k_BGMD, v_BGMD))
    k, v = (x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1) for x in (k, v))
    k, v = (torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0))[:, :, :-1], x], 3) for x in (k, v))  # [previous | own]
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    with torch.autocast(q.device.type, enabled=False):  # whose softmax would go through fp32; inside, it is fp32 anyway
        weights = (scores + spans.pair_bias.to(scores.dtype)).softmax(-1)
    return (weights @ v).flatten(2, 3)[:, :, :length]


def flex(q_BHND: Tensor, k_BGMD: Tensor, v_BGMD: Tensor, spans: Spans) -> Tensor:
    """Flex attention, compiled for a shape that training meets at every step."""
    gqa = q_BHND.shape[1] != k_BGMD.shape[1]
    return _compiled("flex_attention")(q_BHND, k_BGMD, v_BGMD, block_mask=spans.flex, enable_gqa=gqa)


@cache
def _compiled(name: str) -> Any:
    """A function of flex attention; without CUDA as it is, which is slow, and needs no compiler."""
    from torch.nn.attention import flex_attention

    function = getattr(flex_attention, name)
    return torch.compile(function, dynamic=False) if torch.cuda.is_available() else function


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
