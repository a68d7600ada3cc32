"""The transformer layers that the entropy model, the local encoder and decoder, and the latent transformer are built
of.

Suffixes of variable names give the shape, everywhere: B rows, N bytes, P patches, k slots per patch, d local width, D
latent width (in this file the width of the stack), H query heads, G key heads, V vocabulary (260), S = B*N, R rows in a
step of one position each. Every module has a parallel `forward` over many positions and a `step` for one position.
"""

import os
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import StackConfig
from .attention import Spans, attend
from .cache import StackCache, StackChunk
from .initial import init_normal
from .rope import rotate, rotate_, rotation
from .step import StackStep

if hasattr(os, "register_at_fork"):
    # A forked child has none of OpenMP's threads and would wait for them without end, so it uses one thread.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))

AttentionInputs = tuple[Spans, Tensor]
"""Spans and rotary factors of the positions of one call, computed once for all layers."""


class Linear(nn.Linear):
    """A linear layer without bias. Its weights are drawn from a normal distribution of standard deviation inputs**-0.5,
    truncated at three standard deviations."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        init_normal(self.weight, self.in_features)


def add_product(x_RD: Tensor, y_RE: Tensor, layer: nn.Linear, times: float = 1.0) -> Tensor:
    """`times * x + layer(y)` in one operation: the residual addition of a step."""
    if layer.weight.dtype is torch.int8:
        return torch.add(layer(y_RE), x_RD, alpha=times)
    return torch.addmm(x_RD, y_RE, layer.weight.t(), beta=times)


def product(x_RD: Tensor, layer: nn.Linear) -> Tensor:
    """`layer(x)` without the overhead of a module call, which matters for few rows."""
    return layer(x_RD) if layer.weight.dtype is torch.int8 else F.linear(x_RD, layer.weight)


def look_up(ids_R: Tensor, table: nn.Embedding) -> Tensor:
    """`table(ids)` without the overhead of a module call."""
    return table(ids_R) if table.weight.dtype is torch.int8 else table.weight.index_select(0, ids_R)


def lay_out(network: nn.Module) -> None:
    """Store weights with more outputs than inputs in column order, in place: products with one row are then faster."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear) and layer.out_features > layer.in_features:
            layer.weight.data = layer.weight.data.t().contiguous().t()


class RMSNorm(nn.RMSNorm):
    """Root mean square normalisation (Zhang and Sennrich 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if torch.is_grad_enabled() else self.step(x)

    def step(self, x: Tensor) -> Tensor:
        """The norm in fewer operations, without gradients: for a single position, the number of operations decides the
        time."""
        if x.dtype is not torch.float32:
            return super().forward(x)
        floor, scale = _scalars(x.shape[-1], self.eps, x.device)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x.mul(torch.div(scale, torch.hypot(norm, floor))).mul_(self.weight)


@cache
def _scalars(width: int, eps: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """The square roots of eps * width and of width for `RMSNorm.step`. Python numbers would take twice as long."""
    return torch.full((1,), (eps * width) ** 0.5, device=device), torch.full((1,), width**0.5, device=device)


class Attention(nn.Module):
    """Causal multi-head self-attention, limited to the given spans."""

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
        """Attention output before the output projection: (R, H * head_dim)."""
        rows, keys = len(x_RD), self.kv_heads
        qkv = product(x_RD, self.qkv).view(rows, -1, 1, self.head_dim)
        rotate_(qkv.narrow(1, 0, self.heads + keys), step.factors_R11C)
        kv_R2G1D = qkv.narrow(1, self.heads, 2 * keys)
        return step.attend(layer, qkv.narrow(1, 0, self.heads), kv_R2G1D).view(rows, -1)


class FeedForward(nn.Module):
    """The SwiGLU feed-forward layer."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.gate_up = Linear(config.dim, 2 * config.hidden_dim)
        self.down = Linear(config.hidden_dim, config.dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        return self.down(self.gated(self.gate_up(x_BND)))

    def step(self, x_RD: Tensor) -> Tensor:
        """The input of the down projection: (R, hidden width)."""
        return self.gated(product(x_RD, self.gate_up))

    def gated(self, gate_up: Tensor) -> Tensor:
        """SwiGLU: SiLU of the first half, times the second half: (..., 2 * hidden width) -> (..., hidden width)."""
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate) * up


class Block(nn.Module):
    """A pre-norm transformer block: attention and feed-forward, each with a residual connection."""

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
    """A sequence of transformer blocks, without embedding and without final norm: (B, N, D) -> (B, N, D)."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))

    def cache(self, rows: int = 1, reserve: int = 0) -> StackCache:
        """An empty KV cache on the device and in the data type of the weights."""
        weight = self.blocks[0].attention_norm.weight
        return StackCache(self.config, rows, reserve, weight.device, weight.dtype)

    def same_attention(self, other: "Stack") -> bool:
        """True if spans and rotary factors computed for the other stack are also valid for this one."""
        fields = ("window", "head_dim", "rope_theta")
        return all(getattr(self.config, name) == getattr(other.config, name) for name in fields)

    def attention_inputs(
        self, opens_BN: Tensor, chunk: StackChunk | None = None, single: bool = False, fixed: bool = True
    ) -> AttentionInputs:
        """Spans and rotary factors: of the cached rows' `chunk` if one is given, otherwise of whole rows. `single` and
        `fixed` are those of `Spans`."""
        if chunk is not None:
            return chunk.spans, chunk.factors_BN1C2
        count = opens_BN.shape[1]
        positions = torch.arange(count, device=opens_BN.device)
        factors = rotation(positions, count, self.config.head_dim, self.config.rope_theta)
        return Spans.of(opens_BN, self.config.window, single, fixed), factors[:, None]

    def forward(
        self, x_BND: Tensor, opens_BN: Tensor, chunk: StackChunk | None = None, single: bool = False, fixed: bool = True
    ) -> Tensor:
        """Hidden states after all blocks. A new attention context starts where `opens_BN` is True. With a `chunk`, the
        positions continue the rows of its cache."""
        spans, factors_BN1C2 = self.attention_inputs(opens_BN, chunk, single, fixed)
        for layer, block in enumerate(self.blocks):
            x_BND = block(x_BND, spans, factors_BN1C2, chunk, layer)
        return x_BND

    def step(self, x_RD: Tensor, step: StackStep) -> Tensor:
        """Hidden states (R, D) of the next position of each row; `step` was started by the cache."""
        for layer, block in enumerate(self.blocks):
            x_RD = block.step(x_RD, step, layer)
        return x_RD
