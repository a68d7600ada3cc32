"""Cross-attention between bytes and patches: exact, without masks, with a cost linear in the number of bytes.

In the encoder, a patch attends to its own bytes: a softmax over segments. In the decoder, a byte attends to the k slots
of one patch: a softmax over k gathered vectors.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from ..config import BLTConfig, StackConfig
from .layers import Linear, RMSNorm, add_product, product
from .segments import Patches, segment_softmax


class CrossAttention(nn.Module):
    """Base class of both directions: projections, norms and the scaled residual."""

    def __init__(self, stack: StackConfig, heads: int, kv_heads: int, residual: float) -> None:
        super().__init__()
        dim = stack.dim
        self.heads, self.kv_heads, self.residual = heads, kv_heads, residual
        self.query_norm = RMSNorm(dim, stack.norm_eps)
        self.key_norm = RMSNorm(dim, stack.norm_eps)
        self.query = Linear(dim, dim)
        self.key_value = Linear(dim, 2 * dim // heads * kv_heads)
        self.out = Linear(dim, dim)

    def queries(self, x: Tensor) -> Tensor:
        """Queries (..., H, head_dim) of the attending vectors (..., d), divided by the square root of head_dim."""
        q = self.query(self.query_norm(x)).unflatten(-1, (self.heads, -1))
        return q * q.shape[-1] ** -0.5

    def keys_values(self, x: Tensor) -> Tensor:
        """Keys and values (..., 2, H, head_dim) of the attended vectors (..., d); shared key heads are repeated."""
        kv = self.key_value(self.key_norm(x)).unflatten(-1, (2, self.kv_heads, -1))
        return kv if self.kv_heads == self.heads else kv.repeat_interleave(self.heads // self.kv_heads, -2)


class PatchReadsBytes(CrossAttention):
    """Encoder direction: the k slots of each patch attend to the bytes of that patch: -> (B, P, k, d). An empty patch
    attends to nothing: its attention output is zero."""

    def __init__(self, config: BLTConfig) -> None:
        super().__init__(config.encoder, *config.cross_shapes[0], config.cross_residual)

    def forward(self, slots_BPkd: Tensor, bytes_BNd: Tensor, patches: Patches) -> Tensor:
        rows, segment_S = len(bytes_BNd) * patches.count, patches.flat_of_byte
        q = self.queries(slots_BPkd).float().flatten(0, 1).index_select(0, segment_S)  # (S, k, H, head_dim), fp32
        k, v = self.keys_values(bytes_BNd).flatten(0, 1).unbind(1)  # (S, H, head_dim)
        scores = (q * k.float()[:, None]).sum(-1)
        weights = segment_softmax(scores.flatten(1), segment_S, rows).view_as(scores)
        values = (weights[..., None] * v[:, None]).flatten(1)  # (S, k * d); index_add sums them in fp32
        pooled = values.new_zeros(rows, values.shape[1]).index_add(0, segment_S, values)
        return self.residual * slots_BPkd + self.out(pooled.to(v.dtype).view(slots_BPkd.shape))

    def step(self, slots_Rkd: Tensor, bytes_RLd: Tensor, absent_RL: Tensor | None) -> Tensor:
        """The k slots of one patch per row attend to its L bytes: -> (R, k, d). Bytes where `absent_RL` is True are
        padding and are ignored."""
        rows, slots, dim = slots_Rkd.shape
        q = product(self.query_norm.step(slots_Rkd), self.query).view(rows, slots, self.heads, -1).transpose(1, 2)
        k, v = self.keys_values(bytes_RLd).transpose(1, 3).unbind(2)  # (R, H, L, head_dim)
        mask = None if absent_RL is None else ~absent_RL[:, None, None]
        values = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(-1, dim)
        return add_product(slots_Rkd.reshape(-1, dim), values, self.out, self.residual).view(slots_Rkd.shape)


class ByteReadsPatch(CrossAttention):
    """Decoder direction: each byte attends to the k slots of one patch: -> (B, N, d)."""

    def __init__(self, config: BLTConfig) -> None:
        super().__init__(config.decoder, *config.cross_shapes[1], config.cross_residual)

    def forward(self, bytes_BNd: Tensor, patches_BPk2Hd: Tensor, read_S: Tensor) -> Tensor:
        """Attend from bytes (B, N, d) to patches: -> (B, N, d). `read_S` gives for each of the B*N bytes the number of
        its patch, counted through the whole batch."""
        q = self.queries(bytes_BNd).flatten(0, 1)  # (S, H, head_dim)
        # Gathered in fp32: the backward pass sums the gradients of all bytes of a patch, on CUDA by atomic additions.
        k, v = patches_BPk2Hd.float().flatten(0, 1).index_select(0, read_S).unbind(2)  # (S, k, H, head_dim)
        weights = (q[:, None].float() * k).sum(-1).softmax(1)  # (S, k, H)
        values = (weights[..., None] * v).sum(1).to(patches_BPk2Hd.dtype)
        return self.residual * bytes_BNd + self.out(values.flatten(1).view(bytes_BNd.shape))

    def step(self, bytes_Rd: Tensor, patches_Rk2Hd: Tensor) -> Tensor:
        """One byte per row attends to the k slots of its patch, given as keys and values: -> (R, d)."""
        q = product(self.query_norm.step(bytes_Rd), self.query).view(len(bytes_Rd), self.heads, 1, -1)
        k, v = patches_Rk2Hd.transpose(1, 3).unbind(2)  # (R, H, k, head_dim)
        values = F.scaled_dot_product_attention(q, k, v).flatten(1)
        return add_product(bytes_Rd, values, self.out, self.residual)
