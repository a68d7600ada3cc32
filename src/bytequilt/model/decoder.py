"""The local decoder: patches in, bytes out."""

from torch import Tensor, nn

from ..codec import BOS, VOCAB_SIZE
from ..config import BLTConfig
from .cache import StackCache
from .cross import ByteReadsPatch
from .layers import Stack, linear
from .segments import flat


class Decoder(nn.Module):
    """Takes the encoder's byte states on, lets bytes read their patch, and predicts the next byte."""

    def __init__(self, config: BLTConfig) -> None:
        super().__init__()
        dim, width = config.decoder.dim, config.latent.dim
        self.slots = config.slots
        plain = width == dim and config.slots == 1
        self.project = nn.Identity() if plain else linear(width, config.slots * dim)
        self.stack = Stack(config.decoder)
        count = {"all": config.decoder.layers, "first": 1, "none": 0}[config.decoder_cross]
        self.cross = nn.ModuleList(ByteReadsPatch(config) for _ in range(count))
        self.norm = nn.RMSNorm(dim, config.decoder.norm_eps)
        self.head = linear(dim, VOCAB_SIZE)

    def forward(
        self, x_BNd: Tensor, latent_BPD: Tensor, read_BN: Tensor, ids_BN: Tensor, cache: StackCache | None = None
    ) -> Tensor:
        """Byte states (B, N, d), latents (B, P, D), and which of them each byte reads -> logits (B, N, V) in fp32."""
        read_S = flat(read_BN, latent_BPD.shape[1])
        slots = self.project(latent_BPD).to(x_BNd.dtype).unflatten(-1, (self.slots, -1))
        if not self.cross:
            x_BNd = x_BNd + slots.sum(2).flatten(0, 1)[read_S].view_as(x_BNd)
        spans = self.stack.spans(ids_BN == BOS, cache)
        rotation = self.stack.rotation(ids_BN.shape[1], cache, ids_BN.device)
        for layer, block in enumerate(self.stack.blocks):
            if layer < len(self.cross):
                x_BNd = self.cross[layer](x_BNd, slots, read_S)
            x_BNd = block(x_BNd, spans, rotation, cache, layer)
        if cache is not None:
            cache.advance(ids_BN.shape[1])
        return self.head(self.norm(x_BNd)).float()
