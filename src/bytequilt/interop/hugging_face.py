"""The layout of Hugging Face's Transformers: config.json of a BltForCausalLM with its patcher, and safetensors.

Missing fields have the defaults of transformers 5.23.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..codec import BOE, BOS, BPE_DELIMITER, EOS, VOCAB_SIZE
from ..config import BLTConfig, EntropyConfig, HashConfig, RuleConfig, StackConfig, UserError
from .byte_tokenizer import tokenizer_files
from .native import FORMAT, ModelConfig, ascending, read_object, read_tensors, write_tensors
from .stored import DTYPES

__all__ = ["export", "read_config", "read_tensors", "recognise", "write_tensors"]

FIELDS = [
    ("dim", "hidden_size"),
    ("layers", "num_hidden_layers"),
    ("heads", "num_attention_heads"),
    ("kv_heads", "num_key_value_heads"),
    ("ffn_dim", "intermediate_size"),
    ("norm_eps", "rms_norm_eps"),
]
"""Fields of a transformer stack: our name, Transformers' name."""
STACKS = {
    "encoder_config": {"dim": 1024, "layers": 1, "heads": 16, "rope_theta": 500_000.0},
    "global_config": {"dim": 2048, "layers": 25, "heads": 16, "ffn_dim": 5632, "rope_theta": 500_000.0},
    "decoder_config": {"dim": 1024, "layers": 9, "heads": 16, "ffn_dim": 2816, "rope_theta": 500_000.0},
    "patcher_config": {"dim": 768, "layers": 14, "heads": 12, "ffn_dim": 2048, "rope_theta": 10_000.0},
}
"""Defaults of Transformers' sub-configurations."""
FIXED = {"vocab_size": VOCAB_SIZE, "hidden_act": "silu", "tie_word_embeddings": False}
"""Fields for which only these values are supported."""
THRESHOLD, WINDOW = 1.335442066192627, 512


def recognise(folder: Path) -> bool:
    return read_object(folder / "config.json").get("model_type") == "blt"


def read_config(folder: Path) -> tuple[ModelConfig, list[str]]:
    """The configuration, and notes on behaviour that differs from Transformers'."""
    raw = read_object(folder / "config.json")
    subs = {name: raw.get(name) or {} for name in STACKS}
    for name, part in {"": raw, **subs}.items():
        for field, value in FIXED.items():
            if part.get(field, value) != value:
                raise UserError(f"{folder / 'config.json'}: {name} {field} must be {value}, not {part[field]}")
    return _config(raw, subs), _departures(raw, subs)


def _config(raw: dict[str, Any], subs: dict[str, dict[str, Any]]) -> ModelConfig:
    window = raw.get("local_attention_window_len", WINDOW)
    fields = {name: _stack(name, sub) for name, sub in subs.items()}
    slots = raw.get("cross_attn_k", 2)
    for name in ("encoder_config", "decoder_config"):
        if subs[name].get("cross_attn_k", 2) != slots:
            inner = subs[name].get("cross_attn_k", 2)
            raise UserError(f"cross_attn_k is {slots}, and {inner} in {name}; it must be the same everywhere")
    encoder, decoder = (StackConfig(**fields[f"{side}_config"], window=window) for side in ("encoder", "decoder"))
    blt = BLTConfig(
        encoder=encoder,
        latent=StackConfig(**fields["global_config"]),
        decoder=decoder,
        hash=HashConfig(
            sizes=ascending(raw.get("encoder_hash_byte_group_size") or (3, 4, 5, 6, 7, 8)),
            rows=raw.get("encoder_hash_byte_group_vocab", 500_002),
            functions=raw.get("encoder_hash_byte_group_nb_functions", 1),
        ),
        slots=slots,
        cross_heads=_one(encoder.heads, decoder.heads),
        cross_kv_heads=_one(encoder.num_kv_heads, decoder.num_kv_heads),
        encoder_cross="all" if subs["encoder_config"].get("cross_attn_all_layers", False) else "last",
        decoder_cross="all" if subs["decoder_config"].get("cross_attn_all_layers", True) else "first",
    )
    entropy = None
    if raw.get("patch_in_forward", True):
        seen = subs["patcher_config"].get("sliding_window", WINDOW)
        entropy = EntropyConfig(**fields["patcher_config"], window=seen)
    rule = RuleConfig(kind="byte")
    if _by_entropy(raw):
        threshold = raw.get("patching_threshold", THRESHOLD)
        rule = RuleConfig(kind="entropy", threshold=threshold, max_length=raw.get("max_patch_length"))
    return ModelConfig(format=FORMAT, blt=blt, entropy=entropy, patching=rule)


def _by_entropy(raw: dict[str, Any]) -> bool:
    """True if Transformers would use entropy patches; with any other setting, every byte is a patch there."""
    known = raw.get("patching_mode", "entropy") == "entropy" and raw.get("patch_size", 4) is not None
    return known and raw.get("patch_in_forward", True)


def _departures(raw: dict[str, Any], subs: dict[str, dict[str, Any]]) -> list[str]:
    encoder, notes = subs["encoder_config"], []
    if encoder.get("cross_attn_all_layers", False) and encoder.get("num_hidden_layers", 1) > 1:
        notes.append("patches attend to every encoder layer in turn; Transformers keeps the last alone")
    if raw.get("max_patch_length") is not None and _by_entropy(raw):
        notes.append("the last byte uses the patch that it completes; with max_patch_length, Transformers forgets it")
    if (mode := raw.get("patching_mode", "entropy")) not in ("entropy", "byte"):
        notes.append(f"patching_mode '{mode}' means one patch per byte, as in Transformers")
    return notes


def _stack(name: str, sub: dict[str, Any]) -> dict[str, Any]:
    """The fields of a StackConfig from a sub-configuration."""
    fields = STACKS[name] | {ours: sub[theirs] for ours, theirs in FIELDS if sub.get(theirs) is not None}
    rope = sub.get("rope_parameters") or sub.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))  # `type` in older versions
    if kind != "default":
        raise UserError(f"{name}: rope_type must be default, not {kind}")
    theta = rope.get("rope_theta", sub.get("rope_theta"))
    if theta is not None:
        fields["rope_theta"] = theta
    return {"ffn_dim": int(8 * fields["dim"] / 3)} | fields


def _one(encoder: int, decoder: int) -> int | tuple[int, int]:
    return encoder if encoder == decoder else (encoder, decoder)


def export(config: ModelConfig, dtypes: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """The JSON files of a directory by name, and the changes made because Transformers cannot express the model
    exactly.

    If weights have several types, Transformers is told to load all of them in fp32, because entropies decide
    boundaries. Raises UserError if the model cannot be expressed at all.
    """
    blt = config.blt
    if blt is None:
        raise UserError("Transformers has no layout for an entropy model alone")
    if config.ngram is not None:
        raise UserError("Transformers' layout has no place for an n-gram table")
    _check(blt)
    patching, changes = _patching(config)
    changes = _changes(blt, config.entropy) + changes
    cross = {"cross_attn_k": blt.slots, "hidden_size_global": blt.latent.dim, "vocab_size": VOCAB_SIZE}
    raw = {
        "architectures": ["BltForCausalLM"],
        "model_type": "blt",
        "vocab_size": VOCAB_SIZE,
        "cross_attn_k": blt.slots,
        "local_attention_window_len": blt.encoder.window,
        "encoder_hash_byte_group_size": list(blt.hash.sizes),
        "encoder_hash_byte_group_vocab": blt.hash.rows,
        "encoder_hash_byte_group_nb_functions": blt.hash.functions,
        **patching,
        "encoder_config": _sub(blt.encoder) | cross | {"cross_attn_all_layers": blt.encoder_cross == "all"},
        "global_config": _sub(blt.latent),
        "decoder_config": _sub(blt.decoder) | cross | {"cross_attn_all_layers": blt.decoder_cross == "all"},
        "tie_word_embeddings": False,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "dtype": str(DTYPES[next(iter(dtypes))] if len(dtypes) == 1 else DTYPES["F32"]).removeprefix("torch."),
        "use_cache": False,  # Transformers raises errors or gives wrong results with its cache
    }
    if config.entropy is not None:
        raw["patcher_config"] = _sub(config.entropy) | {
            "sliding_window": config.entropy.window,
            "vocab_size": VOCAB_SIZE,
        }
    generation = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": BOE, "use_cache": False}
    generation["suppress_tokens"] = [BOE, BOS, BPE_DELIMITER]  # ids that never occur in a text
    return {"config.json": raw, "generation_config.json": generation} | tokenizer_files(), changes


def _check(blt: BLTConfig) -> None:
    """Raise UserError for a BLT that Transformers cannot represent."""
    own = tuple((stack.heads, stack.num_kv_heads) for stack in (blt.encoder, blt.decoder))
    if blt.cross_shapes != own:
        raise UserError(
            "in Transformers cross-attention has the heads of its stack: (heads, num_kv_heads) must be "
            f"{own}, not {blt.cross_shapes}, in encoder and decoder"
        )
    if "none" in (blt.encoder_cross, blt.decoder_cross):
        raise UserError("Transformers has no BLT without cross-attention")
    if not blt.hash.sizes:
        raise UserError("Transformers has no BLT without n-gram embeddings")
    ascending(blt.hash.sizes)


def _changes(blt: BLTConfig, entropy: EntropyConfig | None) -> list[str]:
    changes = []
    if blt.cross_residual != 2:
        changes.append(f"Transformers uses a cross-attention residual of 2, not {blt.cross_residual:g}")
    if blt.encoder_cross == "all" and blt.encoder.layers > 1:
        changes.append("in Transformers, patches read only the last encoder layer, not every layer")
    if blt.decoder.window != blt.encoder.window:
        windows = f"{blt.encoder.window}, not {blt.decoder.window}"
        changes.append(f"in Transformers, the decoder's window is that of the encoder: {windows}")
    if blt.latent.window is not None:
        changes.append(f"in Transformers, the latent transformer sees all patches, not {blt.latent.window}")
    if entropy is not None and entropy.newline_reset:
        changes.append("in Transformers, the entropy model's context does not restart at newlines")
    return changes


def _patching(config: ModelConfig) -> tuple[dict[str, Any], list[str]]:
    """The patching fields of Transformers' configuration, and the changes made."""
    rule = config.patching
    inside = {"patch_in_forward": config.entropy is not None}
    if rule is None or rule.kind not in ("entropy", "combined"):
        kind = rule.kind if rule else "byte"
        changed = [f"there is one patch per byte there, not patching by {kind}"] if kind != "byte" else []
        return inside | {"patching_mode": "byte"}, changed
    changed = (
        ["in Transformers, patches start at the threshold alone, and the rise is ignored"]
        if rule.kind == "combined"
        else []
    )
    changed += [f"Transformers has no `{name}` of patches" for name in rule.own_options]
    if rule.max_length is not None:
        changed.append("with max_length, Transformers forgets the patch that the last byte completes")
    threshold = {"patching_threshold": rule.threshold, "max_patch_length": rule.max_length}
    return inside | {"patching_mode": "entropy", "patch_size": 4} | threshold, changed


def _sub(stack: StackConfig) -> dict[str, Any]:
    explicit = stack.model_copy(update={"kv_heads": stack.num_kv_heads, "ffn_dim": stack.hidden_dim})
    fields = {theirs: getattr(explicit, ours) for ours, theirs in FIELDS}
    return fields | {"rope_parameters": {"rope_type": "default", "rope_theta": stack.rope_theta}}
