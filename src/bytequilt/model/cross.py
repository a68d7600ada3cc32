"""Cross-attention between bytes and patches: exact, without masks, linear in bytes.

A patch reads its own bytes, and a byte the k slots of one patch. The first is a softmax over segments, the second one
over k gathered vectors.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from ..config import BLTConfig, StackConfig
from .layers import Linear, RMSNorm, add_product, product
from .segments import Patches, segment_softmax


class CrossAttention(nn.Module):
    """What both directions share: projections, norms and the scaled residual."""

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
        """Scaled queries (..., H, head_dim) of the vectors (..., d) that read."""
        q = self.query(self.query_norm(x)).unflatten(-1, (self.heads, -1))
        return q * q.shape[-1] ** -0.5

    def keys_values(self, x: Tensor) -> Tensor:
        """Keys and values (..., 2, H, head_dim) of the vectors (..., d) that are read, shared heads repeated."""
        kv = self.key_value(self.key_norm(x)).unflatten(-1, (2, self.kv_heads, -1))
        return kv if self.kv_heads == self.heads else kv.repeat_interleave(self.heads // self.kv_heads, -2)


class PatchReadsBytes(CrossAttention):
    """The k slots of each patch read the bytes of that patch: -> (B, P, k, d). Empty patches read zeros."""

    def __init__(self, config: BLTConfig) -> None:
        super().__init__(config.encoder, *config.cross_shapes[0], config.cross_residual)

    def forward(self, slots_BPkd: Tensor, bytes_BNd: Tensor, patches: Patches) -> Tensor:
        rows, segment_S = len(bytes_BNd) * patches.count, patches.flat_of_byte
        q = self.queries(slots_BPkd).float().flatten(0, 1).index_select(0, segment_S)  # (S, k, H, head_dim), fp32
        k, v = self.keys_values(bytes_BNd).flatten(0, 1).unbind(1)  # (S, H, head_dim)
        scores = (q * k.float()[:, None]).sum(-1)
        weights = segment_softmax(scores.flatten(1), segment_S, rows).view_as(scores)
        values = (weights[..., None] * v[:, None]).flatten(1)  # (S, k * d), and summed in fp32
        pooled = values.new_zeros(rows, values.shape[1]).index_add(0, segment_S, values)
        return self.residual * slots_BPkd + self.out(pooled.to(v.dtype).view(slots_BPkd.shape))

    def step(self, slots_Rkd: Tensor, bytes_RLd: Tensor, absent_RL: Tensor | None) -> Tensor:
        """The slots of one patch of each row read its L bytes, except where `absent_RL` is true: -> (R, k, d)."""
        rows, slots, dim = slots_Rkd.shape
        q = product(self.query_norm.step(slots_Rkd), self.query).view(rows, slots, self.heads, -1).transpose(1, 2)
        k, v = self.keys_values(bytes_RLd).transpose(1, 3).unbind(2)  # (R, H, L, head_dim)
        mask = None if absent_RL is None else ~absent_RL[:, None, None]
        values = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(-1, dim)
        return add_product(slots_Rkd.reshape(-1, dim), values, self.out, self.residual).view(slots_Rkd.shape)


class ByteReadsPatch(CrossAttention):
    """Each byte reads the k slots of its patch: -> (B, N, d)."""

    def __init__(self, config: BLTConfig) -> None:
        super().__init__(config.decoder, *config.cross_shapes[1], config.cross_residual)

    def read(self, slots_BPkd: Tensor) -> Tensor:
        """Keys and values of patches (B, P, k, 2, H, head_dim), made once a patch and read by many bytes."""
        return self.keys_values(slots_BPkd)

    def forward(self, bytes_BNd: Tensor, patches_BPk2Hd: Tensor, read_S: Tensor) -> Tensor:
        """`read_S` counts patches through the whole batch, one for each of the B*N bytes."""
        q = self.queries(bytes_BNd).flatten(0, 1)  # (S, H, head_dim)
        # Gathered in fp32: the backward pass sums what the bytes of a patch say of it, on CUDA by atomic additions.
        k, v = patches_BPk2Hd.float().flatten(0, 1).index_select(0, read_S).unbind(2)  # (S, k, H, head_dim)
        weights = (q[:, None].float() * k).sum(-1).softmax(1)  # (S, k, H)
        values = (weights[..., None] * v).sum(1).to(patches_BPk2Hd.dtype)
        return self.residual * bytes_BNd + self.out(values.flatten(1).view(bytes_BNd.shape))

    def step(self, bytes_Rd: Tensor, patches_Rk2Hd: Tensor) -> Tensor:
        """Cross-attention of one byte of each row to the k slots of its patch, keys and values: -> (R, d)."""
        q = product(self.query_norm.step(bytes_Rd), self.query).view(len(bytes_Rd), self.heads, 1, -1)
        k, v = patches_Rk2Hd.transpose(1, 3).unbind(2)  # (R, H, k, head_dim)
        values = F.scaled_dot_product_attention(q, k, v).flatten(1)
        return add_product(bytes_Rd, values, self.out, self.residual)
