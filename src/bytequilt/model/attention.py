"""Causal self-attention, limited to a document and a window. The fastest method is chosen by device and shape.

Every mask has one form: query i attends to the keys `first[i] <= j <= i`. A window, the start of a document and a
newline reset only raise `first`. No N x N mask is ever built, and no value is copied from the device to the host.
"""

from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 256  # queries per block where there is no window
NARROW = 32  # largest head size for which bf16 matrix products in blocks (`paired`) are the fastest attention on a CPU
FLEX_HEAD = 16  # smallest head size that flex attention supports on CUDA


@dataclass
class Spans:
    """The keys that each query may attend to: query i sees keys `first_BN[:, i]` to its own position.

    The keys are [cached | new], and positions count from the first cached key. The N queries belong to the N new keys.
    All layers of a stack share one object: a mask is built at its first use and then kept.
    """

    first_BN: Tensor
    """First visible key of each query; shape (1, N) where all rows are equal."""
    keys: int
    """Total number of keys: the N new keys and the cached keys before them."""
    window: int | None = None
    single: bool = False
    """True if the caller knows that each row is one document which starts at position 0."""
    fixed: bool = True
    """True if training repeats this shape at every step, so that compiling a kernel is worth its time."""
    _biases: dict[torch.dtype, list[Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, opens_BN: Tensor, window: int | None = None, single: bool = False, fixed: bool = True) -> "Spans":
        """Spans of whole rows without a cache. A new attention context starts at position 0 and wherever `opens_BN` is
        True. `single` promises that contexts start at position 0 only. Fewer masks are then needed."""
        opens_BN = torch.zeros_like(opens_BN[:1]) if single else opens_BN
        spans = cls.after(opens_BN, torch.zeros_like(opens_BN[:, 0], dtype=torch.long), 0, window)
        spans.single, spans.fixed = single, fixed
        return spans

    @classmethod
    def after(cls, opens_BN: Tensor, context_B: Tensor, cached: int, window: int | None = None) -> "Spans":
        """Spans of N queries that follow `cached` keys. `context_B` is the key position at which the context of each
        row started; it is negative if that key is no longer cached."""
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
        """True if plain causal attention is enough: each query sees all keys up to its own."""
        return self.single and self.queries == self.keys and (self.window is None or self.queries <= self.window)

    @cached_property
    def blocks(self) -> list[tuple[int, int, int, int]]:
        """Blocks of queries with the range of keys that any of them may see: (query from, to, key from, to), ends
        excluded."""
        cached, window = self.keys - self.queries, self.window
        size = BLOCK if window is None else 64 if window <= 128 else 128  # the fastest block sizes on the CPUs measured
        edges = [(a, min(a + size, self.queries)) for a in range(0, self.queries, size)]
        reach = self.keys if window is None else window - 1
        return [(a, b, max(0, cached + a - reach), cached + b) for a, b in edges]

    def visible(self, block: tuple[int, int, int, int]) -> Tensor:
        """The mask of one block, True where a key is visible: (B or 1, 1, queries, keys) bool."""
        a, b, low, high = block
        first = self.first_BN[:, None, a:b, None]
        key = torch.arange(low, high, device=first.device)
        query = torch.arange(a, b, device=first.device)[:, None] + (self.keys - self.queries)
        return (key >= first) & (key <= query)

    def biases(self, dtype: torch.dtype) -> list[Tensor]:
        """The masks of all blocks as additive biases: 0 where a key is visible, minus infinity elsewhere."""
        if dtype not in self._biases:
            minus = torch.tensor(-torch.inf, dtype=dtype, device=self.first_BN.device)
            self._biases[dtype] = [torch.where(self.visible(b), minus.new_zeros(()), minus) for b in self.blocks]
        return self._biases[dtype]

    @cached_property
    def pair_bias(self) -> Tensor:
        """The additive mask for `paired`: each block of `window` queries against the `window` keys before it and its
        own: (B, 1, n, W, 2W), bf16."""
        size, count = self.window or 0, -(-self.queries // (self.window or 1))
        position = torch.arange(count * size, device=self.first_BN.device).view(count, size, 1)
        position = position + (self.keys - self.queries)
        key = position.view(count, 1, size)
        # keys before the first cached one get negative positions, which are never visible
        key = torch.cat([key - size, key], -1)
        first = F.pad(self.first_BN, (0, count * size - self.queries)).view(len(self.first_BN), 1, count, size, 1)
        seen = (key >= first) & (key <= position)
        return torch.where(seen, 0.0, -torch.inf).bfloat16()

    @cached_property
    def flex(self) -> Any:
        """The block mask for PyTorch's flex attention."""
        first_BN, cached, shared = self.first_BN, self.keys - self.queries, len(self.first_BN) == 1

        def sees(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
            return (kv >= first_BN[0 if shared else b, q]) & (kv <= q + cached)

        rows = None if shared else len(first_BN)
        return _compiled("create_block_mask")(sees, rows, None, self.queries, self.keys, first_BN.device)


def attend(q_BHND: Tensor, k_BGMD: Tensor, v_BGMD: Tensor, spans: Spans) -> Tensor:
    """Softmax attention of queries (B, H, N, D) over the keys in their spans: (B, H, N, D). Keys and values have G
    heads (B, G, M, D); each of them serves H / G query heads."""
    attend_by = choose_attention(q_BHND.device.type, q_BHND.dtype, q_BHND.shape[-1], torch.is_grad_enabled(), spans)
    return attend_by(q_BHND, k_BGMD, v_BGMD, spans).to(q_BHND.dtype)


def choose_attention(device: str, dtype: torch.dtype, head_dim: int, training: bool, spans: Spans) -> Any:
    """Choose one of the five attention functions below by device, data type, head size and spans."""
    # PyTorch's attention in bf16 takes twice as long as in fp32 there
    slow = device == "cpu" and dtype is torch.bfloat16
    if spans.causal:
        return in_fp32 if slow else causal
    if slow and head_dim <= NARROW and spans.window is not None and spans.queries == spans.keys:
        return paired
    if device == "cuda" and training and spans.fixed and head_dim >= FLEX_HEAD and spans.queries == spans.keys:
        return flex
    if device == "cuda" and spans.window is not None and spans.queries > spans.window:
        return paired  # a few large products instead of one small attention for each block
    return in_fp32 if slow else blocked


def causal(q_BHND: Tensor, k_BGMD: Tensor, v_BGMD: Tensor, spans: Spans) -> Tensor:
    """Causal attention without a mask, for rows of one document that fits into the window."""
    gqa = q_BHND.shape[1] != k_BGMD.shape[1]
    return F.scaled_dot_product_attention(q_BHND, k_BGMD, v_BGMD, is_causal=True, enable_gqa=gqa)


def blocked(q_BHND: Tensor, k_BGMD: Tensor, v_BGMD: Tensor, spans: Spans) -> Tensor:
    """Attention in blocks of queries; each block reads only the keys that it may see."""
    gqa = q_BHND.shape[1] != k_BGMD.shape[1]
    query_ranges, key_ranges = [block[:2] for block in spans.blocks], [block[2:] for block in spans.blocks]
    pieces = Pieces.apply(q_BHND, *query_ranges), Pieces.apply(k_BGMD, *key_ranges), Pieces.apply(v_BGMD, *key_ranges)
    out = [
        F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=gqa)
        for q, k, v, bias in zip(*pieces, spans.biases(q_BHND.dtype), strict=True)
    ]
    return torch.cat(out, 2)


def in_fp32(q_BHND: Tensor, k_BGMD: Tensor, v_BGMD: Tensor, spans: Spans) -> Tensor:
    """Like `causal` or `blocked`, but computed in fp32."""
    with torch.autocast(q_BHND.device.type, enabled=False):
        attend_by = causal if spans.causal else blocked
        return attend_by(q_BHND.float(), k_BGMD.float(), v_BGMD.float(), spans)


def paired(q_BHND: Tensor, k_BGMD: Tensor, v_BGMD: Tensor, spans: Spans) -> Tensor:
    """Attention by plain matrix products, in blocks of `window` queries. Each block reads its own keys and the `window`
    keys before them."""
    heads, length, size = q_BHND.shape[1], q_BHND.shape[2], spans.window or 0
    before, after = size - (spans.keys - spans.queries), -length % size
    q = F.pad(q_BHND, (0, 0, 0, after)).unflatten(2, (-1, size))
    k, v = (F.pad(x, (0, 0, before, after)).unflatten(2, (-1, size)) for x in (k_BGMD, v_BGMD))
    k, v = (x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1) for x in (k, v))
    k, v = (torch.cat([x[:, :, :-1], x[:, :, 1:]], 3) for x in (k, v))  # [previous block | own block]
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    # autocast would convert the softmax to fp32; the kernel already computes in fp32 inside
    with torch.autocast(q.device.type, enabled=False):
        weights = (scores + spans.pair_bias.to(scores.dtype)).softmax(-1)
    return (weights @ v).flatten(2, 3)[:, :, :length]


def flex(q_BHND: Tensor, k_BGMD: Tensor, v_BGMD: Tensor, spans: Spans) -> Tensor:
    """PyTorch's flex attention, compiled once for the shape that training repeats at every step."""
    gqa = q_BHND.shape[1] != k_BGMD.shape[1]
    return _compiled("flex_attention")(q_BHND, k_BGMD, v_BGMD, block_mask=spans.flex, enable_gqa=gqa)


@cache
def _compiled(name: str) -> Any:
    """A function of torch's flex attention: compiled on CUDA; elsewhere not, which is slow but needs no compiler."""
    from torch.nn.attention import flex_attention

    function = getattr(flex_attention, name)
    return torch.compile(function, dynamic=False) if torch.cuda.is_available() else function


class Pieces(torch.autograd.Function):
    """Slices of positions, which may overlap: (B, H, M, D) -> a tuple of (B, H, m, D).

    PyTorch allocates a gradient of full length M for every slice, so the cost would grow with the square of M. Here the
    gradients of all slices are added into one tensor.
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
