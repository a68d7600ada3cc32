"""The one transformer that all four networks are built of.

Shapes are named in suffixes, everywhere in the house: B rows, N bytes, P patches, k slots per patch, d local width,
D latent width (in this file the width of the stack), H query heads, G key heads, V vocabulary (260), S = B*N,
R rows that take a step of one position each. Every module has its parallel `forward` and its single `step`.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import StackConfig
from .attention import Spans, attend
from .cache import Gathered, StackCache
from .initial import init_normal
from .rope import rotate, rotate_, rotation


class Linear(nn.Linear):
    """A projection without bias, initialised by a normal of deviation inputs**-0.5, cut at three deviations."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        init_normal(self.weight, self.in_features)


def add_product(x_RD: Tensor, y_RE: Tensor, layer: nn.Linear, times: float = 1.0) -> Tensor:
    """`times * x + layer(y)` in one operation: a step's residual."""
    return torch.addmm(x_RD, y_RE, layer.weight.t(), beta=times)


def lay_out(network: nn.Module) -> None:
    """Store the wide projections of a network column by column, where it is: one-row products read them faster so."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear) and layer.out_features > layer.in_features:
            layer.weight.data = layer.weight.data.t().contiguous().t()


class RMSNorm(nn.RMSNorm):
    """Root mean square normalisation (Zhang and Sennrich 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        """Without gradients it takes fewer operations: on a single position, their number is what a norm costs."""
        if torch.is_grad_enabled() or x.dtype is not torch.float32:
            return super().forward(x)
        norm, width = torch.linalg.vector_norm(x, dim=-1, keepdim=True), x.shape[-1]
        floor, scale = _scalar((self.eps * width) ** 0.5, x.device), _scalar(width**0.5, x.device)
        return x.mul(torch.div(scale, torch.hypot(norm, floor))).mul_(self.weight)


@lru_cache
def _scalar(value: float, device: torch.device) -> Tensor:
    """A number as a tensor: arithmetic with Python's numbers takes twice as long."""
    return torch.full((1,), value, device=device)


class Attention(nn.Module):
    """Causal self-attention inside the spans given."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.num_kv_heads
        self.head_dim = config.head_dim
        self.qkv = Linear(config.dim, (config.heads + 2 * config.num_kv_heads) * config.head_dim)
        self.out = Linear(config.dim, config.dim)

    def forward(
        self, x_BND: Tensor, spans: Spans, rotation_N1C: Tensor, cache: StackCache | None, layer: int
    ) -> Tensor:
        qkv = self.qkv(x_BND).unflatten(-1, (-1, self.head_dim))
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], 2)
        q, k = (rotate(x, rotation_N1C).transpose(1, 2) for x in (q, k))
        v = v.transpose(1, 2)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        return self.out(attend(q, k, v, spans).transpose(1, 2).flatten(-2))

    def step(self, x_RD: Tensor, rotation_R11C: Tensor, cache: StackCache | Gathered, layer: int) -> Tensor:
        """What attention reads (R, H * head_dim), before the last projection."""
        rows, keys = len(x_RD), self.kv_heads
        qkv = self.qkv(x_RD).view(rows, -1, 1, self.head_dim)
        rotate_(qkv.narrow(1, 0, self.heads + keys), rotation_R11C)
        kv = qkv.narrow(1, self.heads, 2 * keys).view(rows, 2, keys, 1, self.head_dim).transpose(0, 1)
        return cache.attend(layer, qkv.narrow(1, 0, self.heads), kv).view(rows, -1)


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.gate_up = Linear(config.dim, 2 * config.hidden_dim)
        self.down = Linear(config.hidden_dim, config.dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        return self.down(self.hidden(x_BND))

    def hidden(self, x_BND: Tensor) -> Tensor:
        """What the last projection takes: (..., hidden width)."""
        gate, up = self.gate_up(x_BND).chunk(2, -1)
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
        self, x_BND: Tensor, spans: Spans, rotation_N1C: Tensor, cache: StackCache | None = None, layer: int = 0
    ) -> Tensor:
        x_BND = x_BND + self.attention(self.attention_norm(x_BND), spans, rotation_N1C, cache, layer)
        return x_BND + self.feed_forward(self.feed_forward_norm(x_BND))

    def step(self, x_RD: Tensor, rotation_R11C: Tensor, cache: StackCache | Gathered, layer: int) -> Tensor:
        read = self.attention.step(self.attention_norm(x_RD), rotation_R11C, cache, layer)
        x_RD = add_product(x_RD, read, self.attention.out)
        return add_product(x_RD, self.feed_forward.hidden(self.feed_forward_norm(x_RD)), self.feed_forward.down)


class Stack(nn.Module):
    """Transformer blocks, one after another; no embedding, no final norm: (B, N, D) -> (B, N, D)."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))

    def rotation(self, queries: int, cache: StackCache | None, device: torch.device) -> Tensor:
        """Rotary factors of the next positions of a row."""
        begin = cache.position if cache is not None else 0
        positions = torch.arange(begin, begin + queries, device=device)
        return rotation(positions, self.config.head_dim, self.config.rope_theta)

    def spans(
        self, opens_BN: Tensor, cache: StackCache | None = None, single: bool = False, fixed: bool = True
    ) -> Spans:
        """Which keys each position sees: contexts open where `opens_BN` says so. For the rest see `Spans`."""
        return cache.spans(opens_BN) if cache is not None else Spans.of(opens_BN, self.config.window, single, fixed)

    def forward(self, x_BND: Tensor, spans: Spans, cache: StackCache | None = None) -> Tensor:
        """With a cache, x continues the positions that the cache has seen."""
        rotation_N1C = self.rotation(x_BND.shape[1], cache, x_BND.device)
        for layer, block in enumerate(self.blocks):
            x_BND = block(x_BND, spans, rotation_N1C, cache, layer)
        if cache is not None:
            cache.advance(x_BND.shape[1])
        return x_BND

    def step(self, x_RD: Tensor, cache: StackCache | Gathered) -> Tensor:
        """One more position of each row of a cache, which has begun it."""
        rotation_R11C = cache.rotation(x_RD.device)
        for layer, block in enumerate(self.blocks):
            x_RD = block.step(x_RD, rotation_R11C, cache, layer)
        cache.advance(1)
        return x_RD
