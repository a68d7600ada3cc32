"""The `Steps` of a session by the four compiled functions. They get the addresses of weights and the tensors of
caches, so nothing is copied."""

import numpy as np
import torch
from torch import Tensor, nn

from ..model.blt import BLT
from ..model.cache import StackCache
from ..model.cross import CrossAttention
from ..model.encoder_cache import EncoderCache
from ..model.entropy import EntropyModel
from ..model.hashing import HashEmbedding, powers
from ..model.layers import Block, RMSNorm, Stack
from ..model.ngram import NgramCache
from ..model.rope import TABLE, table
from ..model.rows import Rows
from ..patching.patcher import Patcher
from . import layers, networks
from .compiled import tell
from .products import BRAIN, PLAIN

NOWHERE = np.zeros(2, np.int64)
UNBOUNDED = 2**62
FEW = 32  # largest number of ids of one row that compiled steps read; PyTorch is faster for more


def weight(layer: nn.Module | None) -> np.ndarray:
    """The two numbers (2,) int64 that describe the weight of a layer (see products.py). A weight that is not stored row
    by row is first rearranged in place."""
    if layer is None or isinstance(layer, nn.Identity):
        return NOWHERE
    if not layer.weight.is_contiguous():
        layer.weight.data = layer.weight.data.contiguous()
    kind = {torch.float32: PLAIN, torch.bfloat16: BRAIN}.get(layer.weight.dtype)
    return np.array([layer.weight.data_ptr(), layer.scale.data_ptr() if kind is None else kind], np.int64)


def weights(*modules: nn.Module | None) -> np.ndarray:
    """The numbers of `weight` for several layers: (layers, 2)."""
    return np.stack([weight(layer) for layer in modules])


def block_weights(block: Block) -> np.ndarray:
    attention, forward = block.attention, block.feed_forward
    norms = block.attention_norm, block.feed_forward_norm
    return weights(norms[0], attention.qkv, attention.out, norms[1], forward.gate_up, forward.down)


def stack_of(stack: Stack) -> layers.Stack:
    config = stack.config
    window = UNBOUNDED if config.window is None else config.window
    blocks = np.stack([block_weights(block) for block in stack.blocks])
    return layers.Stack(blocks, config.heads, config.num_kv_heads, config.hidden_dim, window, config.norm_eps)


def cross_of(modules: nn.ModuleList) -> networks.Cross:
    if not len(modules):
        return networks.Cross(np.zeros((0, 5, 2), np.int64), 1, 1, 1.0, 1.0)
    first = modules[0]
    assert isinstance(first, CrossAttention)
    by_layer = np.stack([weights(m.query_norm, m.key_norm, m.query, m.key_value, m.out) for m in modules])
    return networks.Cross(by_layer, first.heads, first.kv_heads, float(first.residual), first.query_norm.eps)


def ends_of(embed: nn.Module | None, norm: RMSNorm | None, head: nn.Module | None) -> networks.Ends:
    return networks.Ends(weights(embed, norm, head), 1.0 if norm is None else norm.eps)


def hash_of(hash: HashEmbedding | None) -> networks.Hash:
    if hash is None:
        return networks.Hash(NOWHERE, np.zeros((1, 0), np.int64), 0)
    return networks.Hash(weight(hash), powers(hash.config, torch.device("cpu")).numpy(), hash.config.rows)


def ring_of(cache: StackCache) -> layers.Ring:
    """The current tensors of a cache (shared, not copied) and the rotary factors of its positions."""
    config, device = cache.config, torch.device("cpu")
    low = table(1, config.head_dim, config.rope_theta, device)
    far = max(cache.lengths) > TABLE
    high = table(TABLE, config.head_dim, config.rope_theta, device) if far else low
    tensors = (cache.kv, cache.position_R, cache.opened_RE, low, high)
    return layers.Ring(*(tensor.numpy() for tensor in tensors))


def begun(cache: StackCache, rows: Rows, opens_n: Tensor | None, count: int = 1) -> layers.Ring:
    """Prepare a cache for the next `count` positions of each row: make room, and add them to the host's lengths. The
    compiled function adds them to the cache's tensors."""
    cache.make_room(max(cache.lengths[row] for row in rows.numbers) + count)
    cache.count(rows, count, opens_n is None)
    return ring_of(cache)


class CompiledSteps:
    """The compiled steps of a BLT and its entropy model on the CPU, in fp32 or int8; see `TorchSteps`."""

    few, all_rows = True, False

    def __init__(self, model: BLT, patcher: Patcher) -> None:
        tell()
        self.model, self.patcher = model, patcher
        encoder, latent, decoder = model.encoder, model.latent, model.decoder
        self.slots = encoder.slots
        self.encoder = ends_of(encoder.embed, None, None), hash_of(encoder.hash), stack_of(encoder.stack)
        self.writes, self.reads = cross_of(encoder.cross), cross_of(decoder.cross)
        self.joins, self.latent = weights(encoder.project, latent.project, decoder.project), stack_of(latent.stack)
        self.decoder = ends_of(None, decoder.norm, decoder.head), stack_of(decoder.stack)
        scorer = patcher.model
        self.scorer = None
        if isinstance(scorer, EntropyModel):
            self.scorer = ends_of(scorer.embed, scorer.norm, scorer.head), stack_of(scorer.stack)

    def nats(self, ids_n: Tensor, cache: StackCache | NgramCache | None, rows: Rows, text: bool) -> Tensor | None:
        """As `Patcher.nats_step`, to which an n-gram table is left."""
        scorer = self.patcher.model
        if self.scorer is None or not isinstance(cache, StackCache) or not isinstance(scorer, EntropyModel):
            return self.patcher.nats_step(ids_n, cache, rows, text)
        opens_n = scorer.opens_step(ids_n, text)
        ends, stack = self.scorer
        ring = begun(cache, rows, opens_n)
        nats_n = networks.entropies(ids_n.numpy(), rows.index.numpy(), flags(opens_n, rows), ends, stack, ring)
        return torch.from_numpy(nats_n)

    def nats_feed(
        self, ids_N: Tensor, cache: StackCache | NgramCache | None, rows: Rows, single: bool
    ) -> Tensor | None:
        """As `Patcher.nats_feed`, which is used unless there are 2 to FEW ids."""
        scorer = self.patcher.model
        few = 1 < len(ids_N) <= FEW and isinstance(cache, StackCache)
        if not few or self.scorer is None or not isinstance(scorer, EntropyModel):
            return self.patcher.nats_feed(ids_N, cache, rows, single)
        opens_N, (ends, stack) = scorer.opens(ids_N), self.scorer
        ring = begun(cache, rows, opens_N, len(ids_N))
        at_N = np.full(len(ids_N), rows.first)
        return torch.from_numpy(networks.entropies(ids_N.numpy(), at_N, opens_N.numpy(), ends, stack, ring))

    def encode(self, ids_n: Tensor, cache: EncoderCache, rows: Rows, opens_n: Tensor | None) -> Tensor:
        ends, hashed, stack = self.encoder
        ring = begun(cache.stack, rows, opens_n)
        recent, states = cache.ids.ids_RK.numpy(), cache.states.data_SRLd.numpy()
        x_nd = networks.encoder_step(
            ids_n.numpy(), rows.index.numpy(), flags(opens_n, rows), ends, hashed, stack, ring, recent, states
        )
        return torch.from_numpy(x_nd)

    def patch(
        self, bytes: EncoderCache, latents: StackCache, rows: Rows, lengths: list[int], opens_n: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ends_n = np.array([bytes.stack.lengths[row] for row in rows.numbers])
        ring, states = begun(latents, rows, opens_n), bytes.states.data_SRLd.numpy()
        latent_nD, read_nX = networks.patch_step(
            rows.index.numpy(), flags(opens_n, rows), np.array(lengths), ends_n, states,
            self.writes, self.reads, self.joins, self.slots, self.latent, ring,
        )  # fmt: skip
        return torch.from_numpy(latent_nD), torch.from_numpy(read_nX)

    def decode(self, x_nd: Tensor, patch_R: Tensor, cache: StackCache, rows: Rows, opens_n: Tensor | None) -> Tensor:
        ends, stack = self.decoder
        ring, patch_nX = begun(cache, rows, opens_n), rows.take(patch_R).view(rows.count, -1).numpy()
        logits_nV = networks.decoder_step(
            x_nd.numpy(), rows.index.numpy(), flags(opens_n, rows), patch_nX, self.slots, self.reads, ends, stack, ring
        )
        return torch.from_numpy(logits_nV)

    def patches(
        self, bytes: EncoderCache, latents: StackCache, rows: Rows, ends: list[int], lengths: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Latents (n, D) of the next n patches of one row, and the decoder's inputs from them (n, X).

        A patch has `lengths` bytes and ends before position `ends`. No document may start in the patches.
        """
        ring, states = begun(latents, rows, None, len(ends)), bytes.states.data_SRLd.numpy()
        at_n = np.full(len(ends), rows.first)
        latent_nD, read_nX = networks.patch_step(
            at_n, np.zeros(len(ends), np.bool_), np.array(lengths), np.array(ends), states,
            self.writes, self.reads, self.joins, self.slots, self.latent, ring,
        )  # fmt: skip
        return torch.from_numpy(latent_nD), torch.from_numpy(read_nX)

    def decode_bytes(self, x_nd: Tensor, read_nX: Tensor, cache: StackCache, rows: Rows) -> Tensor:
        """Logits (n, V) of the next n bytes of one row. Byte i reads the patch input `read_nX[i]`. `x_nd` may be
        overwritten."""
        (ends, stack), count = self.decoder, len(x_nd)
        ring, opens_n = begun(cache, rows, None, count), np.zeros(count, np.bool_)
        x_nd, at_n = x_nd.contiguous().numpy(), np.full(count, rows.first)
        logits_nV = networks.decoder_step(
            x_nd, at_n, opens_n, read_nX.contiguous().numpy(), self.slots, self.reads, ends, stack, ring
        )
        return torch.from_numpy(logits_nV)


def flags(opens_n: Tensor | None, rows: Rows) -> np.ndarray:
    return np.zeros(rows.count, np.bool_) if opens_n is None else opens_n.numpy()
