"""FLOPs of a forward pass, computed from the shapes. A training step costs three times as much.

A multiplication and an addition are two FLOPs. Matrix products and attention products are counted. Attention counts the
visible keys only: with a causal window of W, the query at position i sees min(i, W) keys. Look-ups (embeddings, n-gram
tables), norms, activations, softmax, RoPE, pooling and masks count as zero, as in Pagnoni et al. 2024, section 4.5. The
products of cross-attention are counted too, although they are multiplications of gathered vectors and not matrix
products.
"""

from ..codec import VOCAB_SIZE
from ..config import BLTConfig, EntropyConfig, StackConfig

CONTEXT = 8192  # context in bytes for which FLOPs per byte are reported


def visible_keys(positions: float, window: int | None) -> float:
    """Mean number of keys that a query sees in a document of `positions` positions."""
    seen = min(positions, window or positions)
    return (seen * (seen + 1) / 2 + (positions - seen) * seen) / positions if positions else 0.0


def stack_flops(config: StackConfig, positions: float, keys: float | None = None) -> float:
    """FLOPs of a stack for `positions` positions; `keys` is the number of keys per query, by default the visible."""
    keys = visible_keys(positions, config.window) if keys is None else keys
    kv_dim = config.num_kv_heads * config.head_dim
    weights = config.dim * (2 * config.dim + 2 * kv_dim) + 3 * config.dim * config.hidden_dim
    return config.layers * positions * (2 * weights + 4 * keys * config.dim)


def entropy_flops(config: EntropyConfig, ids: float, keys: float | None = None) -> float:
    """FLOPs of the entropy model for `ids` ids. The saving of a newline reset is ignored, because it depends on the
    text."""
    return stack_flops(config, ids, keys) + 2 * ids * config.dim * VOCAB_SIZE


def blt_flops(config: BLTConfig, ids: float, patches: float, dense: bool = False) -> dict[str, float]:
    """FLOPs of a BLT for `ids` bytes and `patches` patches, by module. `dense` counts masked keys too, as a profiler
    does. The entry `products` (multiplications of cross-attention) is already included in `encoder` and `decoder`."""
    dim, wide = config.encoder.dim, config.slots * config.encoder.dim
    keys = (ids, patches) if dense else (None, None)
    readers = {"last": 1, "all": config.encoder.layers, "none": 0}[config.encoder_cross]
    reading = {"all": config.decoder.layers, "first": 1, "none": 0}[config.decoder_cross]
    products = 4 * ids * config.slots * dim
    # In the encoder, bytes are the keys and patches the queries; in the decoder it is the other way round.
    shares = [kv_heads / heads for heads, kv_heads in config.cross_shapes]
    read_bytes = 2 * 2 * dim * dim * ids * shares[0] + 2 * 2 * dim * wide * patches + products
    read_patch = 2 * 2 * dim * dim * ids + 2 * 2 * dim * wide * patches * shares[1] + products
    encoder = stack_flops(config.encoder, ids, keys[0]) + 2 * dim * wide * patches + readers * read_bytes
    latent = stack_flops(config.latent, patches, keys[1])
    if wide != config.latent.dim:
        latent += 2 * wide * config.latent.dim * patches
    decoder = stack_flops(config.decoder, ids, keys[0]) + reading * read_patch + 2 * dim * VOCAB_SIZE * ids
    decoder += 2 * config.latent.dim * wide * patches
    shown = (readers + reading) * products
    return {"encoder": encoder, "latent": latent, "decoder": decoder, "products": shown}


def flops_per_byte(
    config: BLTConfig, entropy: EntropyConfig | None, patch_bytes: float, context: float = CONTEXT
) -> dict[str, float]:
    """Forward FLOPs per byte by module, with the sum as `total`. `patch_bytes` is the mean patch size in bytes, and
    `context` is the length of a document in bytes."""
    parts = blt_flops(config, context, context / patch_bytes)
    del parts["products"]
    flops = {"entropy": entropy_flops(entropy, context) if entropy else 0.0} | parts
    flops = {name: value / context for name, value in flops.items()}
    return flops | {"total": sum(flops.values())}
