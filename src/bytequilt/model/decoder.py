"""The local decoder: from byte states and patch latents to the logits of the next byte."""

import torch
from torch import Tensor, nn

from ..codec import BOS, VOCAB_SIZE
from ..config import BLTConfig
from .cache import StackCache, StackChunk
from .cross import ByteReadsPatch
from .layers import AttentionInputs, Linear, RMSNorm, Stack, product
from .segments import flat
from .step import StackStep


class Decoder(nn.Module):
    """The local decoder: starts from the encoder's byte states, lets each byte attend to one patch, and predicts the
    next byte."""

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

    def cache(self, rows: int = 1, reserve: int = 0) -> StackCache:
        """An empty KV cache for the decoder's stack."""
        return self.stack.cache(rows, reserve)

    def patch_inputs(self, latent_BPD: Tensor) -> Tensor:
        """Convert latents (B, P, D) once per patch into keys and values for the bytes: (B, P, layers, k, 2, H,
        head_dim). Without cross-attention the result is one vector per patch, to be added to its bytes: (B, P, d)."""
        slots = self.project(latent_BPD).to(latent_BPD.dtype).unflatten(-1, (self.slots, -1))
        return torch.stack([cross.keys_values(slots) for cross in self.cross], 2) if self.cross else slots.sum(2)

    def forward(
        self,
        x_BNd: Tensor,
        patches_BP: Tensor,
        read_BN: Tensor,
        ids_BN: Tensor,
        chunk: StackChunk | None = None,
        inputs: AttentionInputs | None = None,
    ) -> Tensor:
        """Logits (B, N, V) in fp32. `x_BNd` are the encoder's byte states, `patches_BP` the result of `patch_inputs`,
        and `read_BN` is the patch that each byte attends to."""
        read_S = flat(read_BN, patches_BP.shape[1])
        if not self.cross:
            x_BNd = x_BNd + patches_BP.flatten(0, 1)[read_S].view_as(x_BNd)
        by_layer = patches_BP.unbind(2) if self.cross else ()
        spans, factors = inputs or self.stack.attention_inputs(ids_BN == BOS, chunk)
        for layer, block in enumerate(self.stack.blocks):
            if layer < len(self.cross):
                x_BNd = self.cross[layer](x_BNd, by_layer[layer], read_S)
            x_BNd = block(x_BNd, spans, factors, chunk, layer)
        return self.head(self.norm(x_BNd)).float()

    def step(self, x_Rd: Tensor, patch_R: Tensor, step: StackStep) -> Tensor:
        """Logits (R, V) in fp32 of the byte after the next position; `patch_R` is the result of `patch_inputs` for one
        patch per row."""
        if not self.cross:
            x_Rd = x_Rd + patch_R
        for layer, block in enumerate(self.stack.blocks):
            if layer < len(self.cross):
                x_Rd = self.cross[layer].step(x_Rd, patch_R[:, layer])
            x_Rd = block.step(x_Rd, step, layer)
        return product(self.norm.step(x_Rd), self.head).float()
