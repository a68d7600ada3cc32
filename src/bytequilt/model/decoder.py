"""The local decoder: patches in, bytes out."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..codec import BOS, VOCAB_SIZE
from ..config import BLTConfig
from .attention import Spans
from .cache import StackCache
from .cross import ByteReadsPatch
from .layers import Linear, RMSNorm, Stack
from .segments import flat


class Decoder(nn.Module):
    """Takes the encoder's byte states on, lets bytes read their patch, and predicts the next byte."""

    def __init__(self, config: BLTConfig) -> None:
        super().__init__()
        dim, width = config.decoder.dim, config.latent.dim
        self.slots = config.slots
        self.project = Linear(width, config.slots * dim)
        self.stack = Stack(config.decoder)
        count = {"all": config.decoder.layers, "first": 1, "none": 0}[config.decoder_cross]
        self.cross = nn.ModuleList(ByteReadsPatch(config) for _ in range(count))
        self.norm = RMSNorm(dim, config.decoder.norm_eps)
        self.head = Linear(dim, VOCAB_SIZE)

    @property
    def patch_axis(self) -> int:
        """The axis of what `read` makes that counts patches; the rows are one before."""
        return 2 if self.cross else 1

    def cache(self, reserve: int = 0) -> StackCache:
        """An empty cache of one row."""
        return StackCache(self.stack.config, reserve)

    def read(self, latent_BPD: Tensor) -> Tensor:
        """What bytes read of latents (B, P, D), made once a patch: keys and values (layers, B, P, k, 2, H, head_dim).

        Without cross-attention it is the patch itself, which is added to its bytes: (B, P, d).
        """
        slots = self.project(latent_BPD).to(latent_BPD.dtype).unflatten(-1, (self.slots, -1))
        return torch.stack([cross.read(slots) for cross in self.cross]) if self.cross else slots.sum(2)

    def forward(
        self,
        x_BNd: Tensor,
        reads: Tensor,
        read_BN: Tensor,
        ids_BN: Tensor,
        cache: StackCache | None = None,
        spans: Spans | None = None,
    ) -> Tensor:
        """Byte states (B, N, d), what `read` made of P patches, and which each byte reads -> logits (B, N, V), fp32."""
        read_S = flat(read_BN, reads.shape[self.patch_axis])
        if not self.cross:
            x_BNd = x_BNd + reads.flatten(0, 1)[read_S].view_as(x_BNd)
        spans = self.stack.spans(ids_BN == BOS, cache) if spans is None else spans
        rotation = self.stack.rotation(ids_BN.shape[1], cache, ids_BN.device)
        for layer, block in enumerate(self.stack.blocks):
            if layer < len(self.cross):
                x_BNd = self.cross[layer](x_BNd, reads[layer], read_S)
            x_BNd = block(x_BNd, spans, rotation, cache, layer)
        if cache is not None:
            cache.advance(ids_BN.shape[1])
        return self.head(self.norm(x_BNd)).float()

    def step(self, x_Rd: Tensor, reads: Tensor, opens: Sequence[bool], cache: StackCache) -> Tensor:
        """The next byte of each row, whose patch is the only one in `reads` (P = 1): logits (R, V) in fp32."""
        cache.begin(opens)
        rotation = cache.rotation(x_Rd.device)
        if not self.cross:
            x_Rd = x_Rd + reads[:, 0]
        for layer, block in enumerate(self.stack.blocks):
            if layer < len(self.cross):
                x_Rd = self.cross[layer].step(x_Rd, reads[layer, :, 0])
            x_Rd = block.step(x_Rd, rotation, cache, layer)
        cache.advance(1)
        return self.head(self.norm(x_Rd)).float()
