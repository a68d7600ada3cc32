"""The one transformer that all four networks are built of.

Shapes are named in suffixes, everywhere: B rows, N bytes, P patches, k slots per patch, d local width,
D latent width (in this file the width of the stack), H query heads, G key heads, V vocabulary (260), S = B*N,
R rows that take a step of one position each. Every module has its parallel `forward` and its single `step`.
"""

import os
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import StackConfig
from .attention import Spans, attend
from .cache import StackCache, StackChunk, StackStep
from .initial import init_normal
from .rope import rotate, rotate_, rotation

if hasattr(os, "register_at_fork"):
    # A forked child has none of OpenMP's threads, and would wait for them for ever: it computes on one.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))

Begun = tuple[Spans, Tensor]
"""What the positions of a call see, and their rotary factors: made once for all layers."""


class Linear(nn.Linear):
    """A projection without bias, initialised by a normal of deviation inputs**-0.5, cut at three deviations."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        init_normal(self.weight, self.in_features)


def add_product(x_RD: Tensor, y_RE: Tensor, layer: nn.Linear, times: float = 1.0) -> Tensor:
    """`times * x + layer(y)` in one operation: a step's residual."""
    if layer.weight.dtype is torch.int8:
        return torch.add(layer(y_RE), x_RD, alpha=times)
    return torch.addmm(x_RD, y_RE, layer.weight.t(), beta=times)


def product(x_RD: Tensor, layer: nn.Linear) -> Tensor:
    """`layer(x)`, without what the call of a module costs beside a product of few rows."""
    return layer(x_RD) if layer.weight.dtype is torch.int8 else F.linear(x_RD, layer.weight)


def look_up(ids_R: Tensor, table: nn.Embedding) -> Tensor:
    """`table(ids)`, without the cost of calling a module."""
    return table(ids_R) if table.weight.dtype is torch.int8 else table.weight.index_select(0, ids_R)


def lay_out(network: nn.Module) -> None:
    """Store the wide projections of a network column by column, where it is: one-row products read them faster so."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear) and layer.out_features > layer.in_features:
            layer.weight.data = layer.weight.data.t().contiguous().t()


class RMSNorm(nn.RMSNorm):
    """Root mean square normalisation (Zhang and Sennrich 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if torch.is_grad_enabled() else self.step(x)

    def step(self, x: Tensor) -> Tensor:
        """Without gradients it takes fewer operations: on a single position, their number is what a norm costs."""
        if x.dtype is not torch.float32:
            return super().forward(x)
        floor, scale = _scalars(x.shape[-1], self.eps, x.device)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x.mul(torch.div(scale, torch.hypot(norm, floor))).mul_(self.weight)


@lru_cache
def _scalars(width: int, eps: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """The least norm, and what norms are brought to: arithmetic with Python's numbers takes twice as long."""
    return torch.full((1,), (eps * width) ** 0.5, device=device), torch.full((1,), width**0.5, device=device)


class Attention(nn.Module):
    """Causal self-attention inside the spans given."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.num_kv_heads
        self.head_dim = config.head_dim
        self.qkv = Linear(config.dim, (config.heads + 2 * config.num_kv_heads) * config.head_dim)
        self.out = Linear(config.dim, config.dim)

    def forward(
        self, x_BND: Tensor, spans: Spans, factors_BN1C2: Tensor, chunk: StackChunk | None, layer: int
    ) -> Tensor:
        qkv = self.qkv(x_BND).unflatten(-1, (-1, self.head_dim))
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], 2)
        q, k = (rotate(x, factors_BN1C2).transpose(1, 2) for x in (q, k))
        v = v.transpose(1, 2)
        if chunk is not None:
            k, v = chunk.extend(layer, k, v)
        return self.out(attend(q, k, v, spans).transpose(1, 2).flatten(-2))

    def step(self, x_RD: Tensor, step: StackStep, layer: int) -> Tensor:
        """Attention output before the last projection: (R, H * head_dim)."""
        rows, keys = len(x_RD), self.kv_heads
        qkv = product(x_RD, self.qkv).view(rows, -1, 1, self.head_dim)
        rotate_(qkv.narrow(1, 0, self.heads + keys), step.factors_R11C)
        kv_R2G1D = qkv.narrow(1, self.heads, 2 * keys)
        return step.attend(layer, qkv.narrow(1, 0, self.heads), kv_R2G1D).view(rows, -1)


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.gate_up = Linear(config.dim, 2 * config.hidden_dim)
        self.down = Linear(config.hidden_dim, config.dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        return self.down(self.gated(self.gate_up(x_BND)))

    def step(self, x_RD: Tensor) -> Tensor:
        """The input of the last projection: (R, hidden width)."""
        return self.gated(product(x_RD, self.gate_up))

    def gated(self, gate_up: Tensor) -> Tensor:
        """The first half (..., hidden width) lets through the second."""
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate) * up


class Block(nn.Module):
    """Attention and feed-forward, each on the normalised stream and added to it."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.dim, config.norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(
        self, x_BND: Tensor, spans: Spans, factors_BN1C2: Tensor, chunk: StackChunk | None = None, layer: int = 0
    ) -> Tensor:
        x_BND = x_BND + self.attention(self.attention_norm(x_BND), spans, factors_BN1C2, chunk, layer)
        return x_BND + self.feed_forward(self.feed_forward_norm(x_BND))

    def step(self, x_RD: Tensor, step: StackStep, layer: int) -> Tensor:
        attention, feed_forward = self.attention, self.feed_forward
        x_RD = add_product(x_RD, attention.step(self.attention_norm.step(x_RD), step, layer), attention.out)
        return add_product(x_RD, feed_forward.step(self.feed_forward_norm.step(x_RD)), feed_forward.down)


class Stack(nn.Module):
    """Transformer blocks, one after another; no embedding, no final norm: (B, N, D) -> (B, N, D)."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))

    def cache(self, rows: int = 1, reserve: int = 0) -> StackCache:
        """An empty cache, where and in what type the states are."""
        weight = self.blocks[0].attention_norm.weight
        return StackCache(self.config, rows, reserve, weight.device, weight.dtype)

    def sees_as(self, other: "Stack") -> bool:
        """Whether masks and rotary factors made for the other stack serve this one."""
        fields = ("window", "head_dim", "rope_theta")
        return all(getattr(self.config, name) == getattr(other.config, name) for name in fields)

    def begin(
        self, opens_BN: Tensor, chunk: StackChunk | None = None, single: bool = False, fixed: bool = True
    ) -> Begun:
        """What each position sees and its rotary factors, in whole rows or in a chunk that a cache has begun.

        `single` and `fixed` as in `Spans`.
        """
        if chunk is not None:
            return chunk.spans, chunk.factors_BN1C2
        count = opens_BN.shape[1]
        positions = torch.arange(count, device=opens_BN.device)
        factors = rotation(positions, count, self.config.head_dim, self.config.rope_theta)
        return Spans.of(opens_BN, self.config.window, single, fixed), factors[:, None]

    def forward(
        self,
        x_BND: Tensor,
        opens_BN: Tensor,
        chunk: StackChunk | None = None,
        single: bool = False,
        fixed: bool = True,
    ) -> Tensor:
        """Contexts open where `opens_BN` says so. With a chunk, x continues what its cache has seen."""
        spans, factors_BN1C2 = self.begin(opens_BN, chunk, single, fixed)
        for layer, block in enumerate(self.blocks):
            x_BND = block(x_BND, spans, factors_BN1C2, chunk, layer)
        return x_BND

    def step(self, x_RD: Tensor, step: StackStep) -> Tensor:
        """One more position of some rows of a cache, which has begun it."""
        for layer, block in enumerate(self.blocks):
            x_RD = block.step(x_RD, step, layer)
        return x_RD
