"""The one transformer that all four networks are built of.

Shapes are named in suffixes, everywhere in the house: B rows, N bytes, P patches, k slots per patch, d local width,
D latent width (in this file the width of the stack), H query heads, G key heads, V vocabulary (260), S = B*N.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import StackConfig
from .attention import Spans, attend
from .cache import StackCache


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A projection without bias, initialised by a normal of deviation inputs**-0.5, cut at three deviations."""
    layer = nn.Linear(inputs, outputs, bias=False)
    init_normal(layer.weight, inputs)
    return layer


def init_normal(weight: Tensor, width: int) -> None:
    """Fill with a truncated normal of deviation width**-0.5."""
    std = width**-0.5
    nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std)


def rotation(positions_N: Tensor, head_dim: int, theta: float) -> Tensor:
    """Rotary factors (N, 1, head_dim / 2) complex64; angles are taken in fp64, for they must hold at any position."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions_N.device) / head_dim
    angles = torch.outer(positions_N.double(), theta**-exponent)
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)[:, None]


def rotate(x_BNHD: Tensor, rotation_N1C: Tensor) -> Tensor:
    """Turn neighbouring pairs (x0, x1) of every head together: RoPE in its interleaved form (Su et al. 2021)."""
    pairs = torch.view_as_complex(x_BNHD.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation_N1C).flatten(-2).to(x_BNHD.dtype)


class Attention(nn.Module):
    """Causal self-attention inside the spans given."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.num_kv_heads
        self.head_dim = config.head_dim
        self.qkv = linear(config.dim, (config.heads + 2 * config.num_kv_heads) * config.head_dim)
        self.out = linear(config.dim, config.dim)

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


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.gate_up = linear(config.dim, 2 * config.hidden_dim)
        self.down = linear(config.hidden_dim, config.dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        gate, up = self.gate_up(x_BND).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """Attention and feed-forward, each on the normalised stream and added to it."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.RMSNorm(config.dim, config.norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(
        self, x_BND: Tensor, spans: Spans, rotation_N1C: Tensor, cache: StackCache | None = None, layer: int = 0
    ) -> Tensor:
        x_BND = x_BND + self.attention(self.attention_norm(x_BND), spans, rotation_N1C, cache, layer)
        return x_BND + self.feed_forward(self.feed_forward_norm(x_BND))


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

    def spans(self, opens_BN: Tensor, cache: StackCache | None = None) -> Spans:
        """Which keys each position sees: contexts open where `opens_BN` says so."""
        return Spans.of(opens_BN, self.config.window) if cache is None else cache.spans(opens_BN)

    def forward(self, x_BND: Tensor, spans: Spans, cache: StackCache | None = None) -> Tensor:
        """With a cache, x continues the positions that the cache has seen."""
        rotation_N1C = self.rotation(x_BND.shape[1], cache, x_BND.device)
        for layer, block in enumerate(self.blocks):
            x_BND = block(x_BND, spans, rotation_N1C, cache, layer)
        if cache is not None:
            cache.advance(x_BND.shape[1])
        return x_BND
