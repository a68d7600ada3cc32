"""The local encoder: bytes in, patches out."""

from torch import Tensor, nn

from ..codec import BOS, VOCAB_SIZE
from ..config import BLTConfig
from .attention import Spans
from .cache import EncoderCache
from .cross import PatchReadsBytes
from .embedding import Embedding
from .hashing import HashEmbedding
from .layers import Linear, Stack
from .segments import Patches, segment_max


class Encoder(nn.Module):
    """Embeds bytes and their n-grams, runs a small windowed stack over them, and lets patches read the result."""

    def __init__(self, config: BLTConfig) -> None:
        super().__init__()
        dim, layers = config.encoder.dim, config.encoder.layers
        self.slots = config.slots
        self.embed = Embedding(VOCAB_SIZE, dim)
        self.hash = HashEmbedding(config.hash, dim) if config.hash.sizes else None
        self.stack = Stack(config.encoder)
        self.project = Linear(dim, config.slots * dim)
        self.reading = {"last": [layers - 1], "all": list(range(layers)), "none": [layers - 1]}[config.encoder_cross]
        count = 0 if config.encoder_cross == "none" else len(self.reading)
        self.cross = nn.ModuleList(PatchReadsBytes(config) for _ in range(count))

    def forward(self, ids_BN: Tensor, cache: EncoderCache | None = None, spans: Spans | None = None) -> list[Tensor]:
        """Byte states (B, N, d) after each layer that patches read from; the last of them goes on to the decoder."""
        x_BNd = self.embed(ids_BN)
        if self.hash is not None:
            x_BNd = x_BNd + self.hash(ids_BN, cache, x_BNd.dtype)
        spans = self.stack.spans(ids_BN == BOS, cache) if spans is None else spans
        rotation = self.stack.rotation(ids_BN.shape[1], cache, ids_BN.device)
        states = []
        for layer, block in enumerate(self.stack.blocks):
            x_BNd = block(x_BNd, spans, rotation, cache, layer)
            if layer in self.reading:
                states.append(x_BNd)
        if cache is not None:
            cache.advance(ids_BN.shape[1])
        return states

    def step(self, ids_R: Tensor, cache: EncoderCache) -> list[Tensor]:
        """Byte states (R, d) of the next id of each row, as in `forward`."""
        cache.begin([id == BOS for id in ids_R.tolist()])
        x_Rd = self.embed(ids_R)
        if self.hash is not None:
            x_Rd = x_Rd + self.hash.step(ids_R, cache, x_Rd.dtype)
        rotation = cache.rotation(x_Rd.device)
        states = []
        for layer, block in enumerate(self.stack.blocks):
            x_Rd = block.step(x_Rd, rotation, cache, layer)
            if layer in self.reading:
                states.append(x_Rd)
        cache.advance(1)
        return states

    def cache(self, reserve: int = 0) -> EncoderCache:
        """An empty cache of one row."""
        return EncoderCache(self.stack.config, self.hash.reach if self.hash else 0, reserve)

    def patch(self, states: list[Tensor], patches: Patches) -> Tensor:
        """What each patch makes of its bytes: (B, P, k*d). The first states are pooled, all are read in turn."""
        first = states[0].flatten(0, 1)
        pooled = segment_max(first, patches.flat_of_byte, len(states[0]) * patches.count)
        slots = self.project(pooled).to(first.dtype).view(len(states[0]), patches.count, self.slots, -1)
        for cross, bytes_BNd in zip(self.cross, states, strict=False):
            slots = cross(slots, bytes_BNd, patches)
        return slots.flatten(2)

    def step_patch(self, states: list[Tensor]) -> Tensor:
        """What one patch makes of its L bytes, whose states (L, d) are given after each layer that it reads: (k*d,)."""
        slots_kd = self.project(states[0].amax(0)).view(self.slots, -1)
        for cross, bytes_Ld in zip(self.cross, states, strict=False):
            slots_kd = cross.step(slots_kd, bytes_Ld)
        return slots_kd.flatten()
