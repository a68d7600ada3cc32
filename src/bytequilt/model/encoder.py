"""The local encoder: bytes in, patches out."""

import torch
from torch import Tensor, nn

from ..codec import BOS, VOCAB_SIZE
from ..config import BLTConfig
from .cross import PatchReadsBytes
from .embedding import Embedding
from .encoder_cache import EncoderCache
from .hashing import HashEmbedding
from .layers import Begun, Linear, Stack, look_up
from .rows import Rows
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

    def forward(
        self,
        ids_BN: Tensor,
        cache: EncoderCache | None = None,
        rows: Rows | None = None,
        single: bool = False,
        begun: Begun | None = None,
    ) -> list[Tensor]:
        """Byte states (B, N, d) after each layer that patches read from; the last of them goes on to the decoder.

        With a cache, the ids continue its rows; `single`: the host knows that no id is a BOS but a row's first of all.
        """
        x_BNd, opens_BN, chunk = self.embed(ids_BN), ids_BN == BOS, None
        if cache is not None:
            rows = rows or cache.stack.rows()
            chunk = cache.stack.chunk(rows, opens_BN, single)
        if self.hash is not None:
            recent = None if cache is None or rows is None else cache.ids.extend(rows, ids_BN)
            x_BNd = x_BNd + self.hash(ids_BN, recent, x_BNd.dtype)
        spans, factors = begun or self.stack.begin(opens_BN, chunk)
        states = []
        for layer, block in enumerate(self.stack.blocks):
            x_BNd = block(x_BNd, spans, factors, chunk, layer)
            if layer in self.reading:
                states.append(x_BNd)
        return states

    def step(self, ids_R: Tensor, cache: EncoderCache, rows: Rows, opens_R: Tensor | None) -> list[Tensor]:
        """Byte states (R, d) of the next id of some rows, as in `forward`; the cache keeps them for the open patch.

        `opens_R` says which ids are a BOS, None that none is.
        """
        step = cache.stack.step(rows, opens_R)
        x_Rd = look_up(ids_R, self.embed)
        if self.hash is not None:
            recent_RN = cache.ids.extend(rows, ids_R[:, None])
            x_Rd = x_Rd + self.hash.step(recent_RN, None if step.single else step.since_R, x_Rd.dtype)
        states = []
        for layer, block in enumerate(self.stack.blocks):
            x_Rd = block.step(x_Rd, step, layer)
            if layer in self.reading:
                states.append(x_Rd)
        cache.states.push(step.positions, states)
        return states

    def cache(self, rows: int = 1, reserve: int = 0) -> EncoderCache:
        """An empty cache, where and in what type the states are."""
        weight, reach = self.stack.blocks[0].attention_norm.weight, self.hash.reach if self.hash else 0
        return EncoderCache(self.stack.config, len(self.reading), reach, rows, reserve, weight.device, weight.dtype)

    def patch(self, states: list[Tensor], patches: Patches) -> Tensor:
        """Patch inputs (B, P, k*d): max-pool the first states, then cross-attend to each of `states` in turn."""
        first = states[0].flatten(0, 1)
        pooled = segment_max(first, patches.flat_of_byte, len(states[0]) * patches.count)
        slots = self.project(pooled).to(first.dtype).view(len(states[0]), patches.count, self.slots, -1)
        for cross, bytes_BNd in zip(self.cross, states, strict=False):
            slots = cross(slots, bytes_BNd, patches)
        return slots.flatten(2)

    def step_patch(self, states: list[Tensor], absent_RL: Tensor | None) -> Tensor:
        """What one patch of each row makes of its bytes: (R, k*d).

        The states (R, L, d) after each layer that it reads end with its newest byte; where patches are shorter than L,
        `absent_RL` says which are not theirs.
        """
        first = states[0] if absent_RL is None else states[0].masked_fill(absent_RL[..., None], -torch.inf)
        slots_Rkd = self.project(first.amax(1)).unflatten(-1, (self.slots, -1))
        for cross, bytes_RLd in zip(self.cross, states, strict=False):
            slots_Rkd = cross.step(slots_Rkd, bytes_RLd, absent_RL)
        return slots_Rkd.flatten(1)
