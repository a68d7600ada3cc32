"""The models that bytequilt is measured against, built to be equal to ours."""

from typing import Any

from torch import Tensor, nn

from bytequilt.config import BLTConfig, EntropyConfig, HashConfig, StackConfig
from bytequilt.model.blt import BLT
from bytequilt.model.entropy import EntropyModel

LOCAL = {"heads": 4, "window": 512, "rope_theta": 500_000.0}
SMALL = BLTConfig(
    encoder=StackConfig(dim=256, layers=1, ffn_dim=704, **LOCAL),
    latent=StackConfig(dim=512, layers=8, heads=8, ffn_dim=1408, rope_theta=500_000.0),
    decoder=StackConfig(dim=256, layers=4, ffn_dim=704, **LOCAL),
    hash=HashConfig(rows=4001),
    slots=2,
    cross_heads=4,
)
"""37.7 M parameters; 41 M with the entropy model."""
SMALL_ENTROPY = EntropyConfig(dim=256, layers=4, heads=4, ffn_dim=704)


def hugging_face(config: BLTConfig, entropy: EntropyConfig | None = None) -> Any:
    """Hugging Face's BltForCausalLM of the same shape, with scaled-dot-product attention.

    Without an entropy model it takes its patches from outside. It needs `use_cache=False` in every call: transformers
    up to 5.23 fail otherwise. Raises ValueError for what it has no equal of.
    """
    from transformers import BltConfig, BltForCausalLM

    if (config.encoder_cross, config.decoder_cross, config.cross_residual) != ("last", "all", 2.0):
        raise ValueError("Hugging Face reads the last encoder layer and every decoder layer, with the residual doubled")
    if config.encoder.window != config.decoder.window:
        raise ValueError("Hugging Face has one window for encoder and decoder")
    cross = {"cross_attn_k": config.slots, "hidden_size_global": config.latent.dim}
    theirs = BltConfig(
        encoder_config=_stack(config.encoder) | cross | {"cross_attn_all_layers": False},
        global_config=_stack(config.latent),
        decoder_config=_stack(config.decoder) | cross | {"cross_attn_all_layers": True},
        patcher_config=_stack(entropy or SMALL_ENTROPY) | {"sliding_window": (entropy or SMALL_ENTROPY).window},
        patch_in_forward=entropy is not None,
        local_attention_window_len=config.encoder.window,
        cross_attn_k=config.slots,
        encoder_hash_byte_group_size=list(config.hash.sizes),
        encoder_hash_byte_group_vocab=config.hash.rows,
        encoder_hash_byte_group_nb_functions=config.hash.functions,
        attn_implementation="sdpa",
    )
    return BltForCausalLM(theirs)


def llama(layers: int, dim: int, heads: int, ffn_dim: int, vocabulary: int) -> Any:
    """Hugging Face's LlamaForCausalLM of that shape, with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    stack = StackConfig(layers=layers, dim=dim, heads=heads, ffn_dim=ffn_dim)
    return LlamaForCausalLM(LlamaConfig(**_stack(stack), vocab_size=vocabulary, attn_implementation="sdpa"))


def copy_weights(ours: BLT, theirs: nn.Module, entropy: EntropyModel | None = None) -> None:
    """Gives their model our weights, those of the entropy model where it is given. Raises where one does not fit."""
    state = to_hugging_face(ours, entropy)
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    if unexpected or any(entropy or not name.startswith("model.patcher.") for name in missing):
        raise ValueError(f"weights without a counterpart: {missing + unexpected}")


def to_hugging_face(ours: BLT, entropy: EntropyModel | None = None) -> dict[str, Tensor]:
    """Our weights under their names, fused projections cut into theirs."""
    weights = dict(ours.state_dict())
    stacks = {"encoder": ours.config.encoder, "global": ours.config.latent, "decoder": ours.config.decoder}
    if entropy is not None:
        weights |= {f"entropy.{name}": weight for name, weight in entropy.state_dict().items()}
        stacks["patcher"] = entropy.config
    state: dict[str, Tensor] = {}
    for name, weight in weights.items():
        for before, after in _NAMES:
            name = name.replace(before, after)
        for fused, parts in _FUSED.items():
            if f"{fused}.weight" in name:
                sizes = _rows(stacks, name, len(weight), parts)
                state |= {name.replace(fused, p): w for p, w in zip(parts, weight.split(sizes), strict=True)}
                break
        else:
            state[name] = weight
    return state


_NAMES = (
    ("encoder.hash.", "model.encoder_hash_tok_embedding."),
    ("encoder.embed.", "model.local_encoder.embed_tokens."),
    ("encoder.project.", "model.local_encoder.patch_embedding_projection."),
    ("encoder.stack.blocks.", "model.local_encoder.layers."),
    ("encoder.cross.", "model.local_encoder.cross_attn_layers."),
    ("latent.project.", "model.global_transformer.token_embedding_projection."),
    ("latent.stack.blocks.", "model.global_transformer.layers."),
    ("decoder.project.", "model.local_decoder.patch_embedding_projection."),
    ("decoder.stack.blocks.", "model.local_decoder.layers."),
    ("decoder.cross.", "model.local_decoder.cross_attn_layers."),
    ("decoder.norm.", "model.local_decoder.norm."),
    ("decoder.head.", "lm_head."),
    ("entropy.embed.", "model.patcher.embed_tokens."),
    ("entropy.stack.blocks.", "model.patcher.layers."),
    ("entropy.norm.", "model.patcher.norm."),
    ("entropy.head.", "model.patcher.lm_head."),
    (".attention_norm.", ".input_layernorm."),
    (".feed_forward_norm.", ".post_attention_layernorm."),
    (".attention.out.", ".self_attn.o_proj."),
    (".attention.", ".self_attn."),
    (".feed_forward.down.", ".mlp.down_proj."),
    (".feed_forward.", ".mlp."),
    (".query.", ".q_proj."),
    (".out.", ".o_proj."),
    (".query_norm.", ".q_norm."),
    (".key_norm.", ".k_norm."),
)
_FUSED = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "gate_up": ("gate_proj", "up_proj"),
    "key_value": ("k_proj", "v_proj"),
}


def _rows(stacks: dict[str, StackConfig], name: str, rows: int, parts: tuple[str, ...]) -> list[int]:
    """Rows of each part of a fused projection; queries may have more heads than keys."""
    if len(parts) == 2:
        return [rows // 2] * 2
    stack = next(stack for part, stack in stacks.items() if part in name)
    return [stack.dim, (rows - stack.dim) // 2, (rows - stack.dim) // 2]


def _stack(config: StackConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.num_kv_heads,
        "intermediate_size": config.hidden_dim,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
    }
