"""The local encoder: from byte ids to byte states and patch inputs."""

import torch
from torch import Tensor, nn

from ..codec import BOS, VOCAB_SIZE
from ..config import BLTConfig
from .cross import PatchReadsBytes
from .embedding import Embedding
from .encoder_cache import EncoderCache
from .hashing import HashEmbedding
from .layers import AttentionInputs, Linear, Stack, look_up
from .rows import Rows
from .segments import Patches, segment_max


class Encoder(nn.Module):
    """The local encoder: embeds bytes and their n-grams, runs a small windowed transformer, and lets patches attend to
    its states."""

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
        inputs: AttentionInputs | None = None,
    ) -> list[Tensor]:
        """Byte states (B, N, d) of each layer that patches attend to; the last entry also goes to the decoder. With a
        cache, the ids continue the cached rows. `single` promises that the only BOS of a row is its first id."""
        x_BNd, opens_BN, chunk = self.embed(ids_BN), ids_BN == BOS, None
        if cache is not None:
            rows = rows or cache.stack.rows()
            chunk = cache.stack.chunk(rows, opens_BN, single)
        if self.hash is not None:
            recent = None if cache is None or rows is None else cache.ids.extend(rows, ids_BN)
            x_BNd = x_BNd + self.hash(ids_BN, recent, x_BNd.dtype)
        spans, factors = inputs or self.stack.attention_inputs(opens_BN, chunk)
        states = []
        for layer, block in enumerate(self.stack.blocks):
            x_BNd = block(x_BNd, spans, factors, chunk, layer)
            if layer in self.reading:
                states.append(x_BNd)
        return states

    def step(self, ids_R: Tensor, cache: EncoderCache, rows: Rows, opens_R: Tensor | None) -> list[Tensor]:
        """Byte states (R, d) of the next id of each row, one entry per layer as in `forward`. The cache keeps them for
        the open patch. `opens_R` is True where the id is a BOS; None means that no id is."""
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
        """An empty cache on the device and in the data type of the weights."""
        weight, reach = self.stack.blocks[0].attention_norm.weight, self.hash.reach if self.hash else 0
        return EncoderCache(self.stack.config, len(self.reading), reach, rows, reserve, weight.device, weight.dtype)

    def patch(self, states: list[Tensor], patches: Patches) -> Tensor:
        """Patch inputs (B, P, k*d) from the byte states. The states of the first layer in `states` are max-pooled per
        patch; the result then attends to each of `states` in turn."""
        first = states[0].flatten(0, 1)
        pooled = segment_max(first, patches.flat_of_byte, len(states[0]) * patches.count)
        slots = self.project(pooled).to(first.dtype).view(len(states[0]), patches.count, self.slots, -1)
        for cross, bytes_BNd in zip(self.cross, states, strict=False):
            slots = cross(slots, bytes_BNd, patches)
        return slots.flatten(2)

    def step_patch(self, states: list[Tensor], absent_RL: Tensor | None) -> Tensor:
        """Patch inputs (R, k*d) of one finished patch per row.

        `states` are the byte states (R, L, d) of each layer, ending with the newest byte of the patch. Where a patch is
        shorter than L, `absent_RL` is True for the bytes before it.
        """
        first = states[0] if absent_RL is None else states[0].masked_fill(absent_RL[..., None], -torch.inf)
        slots_Rkd = self.project(first.amax(1)).unflatten(-1, (self.slots, -1))
        for cross, bytes_RLd in zip(self.cross, states, strict=False):
            slots_Rkd = cross.step(slots_Rkd, bytes_RLd, absent_RL)
        return slots_Rkd.flatten(1)
