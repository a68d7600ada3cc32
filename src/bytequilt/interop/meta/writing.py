"""Write a model in Meta's hub layout, or report why that is impossible."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from ...codec import VOCAB_SIZE
from ...config import BLTConfig, EntropyConfig, RuleConfig, StackConfig, UserError, one_line
from ..native import ModelConfig, ascending
from ..native import write_tensors as write_inside
from ..stored import Stored, load_tensors
from .reading import ENTROPY, FIXED, WINDOW, check, hidden

WRITTEN = ["vocab_size", "eos_id", "cross_attn_encoder", "cross_attn_decoder", "cross_attn_init_by_pooling"]
WRITTEN += ["downsampling_by_pooling"]
"""Arguments of one value that are written, since the defaults of Meta's code are others."""


def export(config: ModelConfig, dtypes: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """The JSON files of a hub directory by name, and the changes made because Meta's layout cannot express the model
    exactly. Raises UserError if the model cannot be expressed at all."""
    blt, entropy = config.blt, config.entropy
    if blt is None or config.patching is None:
        raise UserError("Meta's layout of the hub is for a BLT, not for an entropy model alone")
    _exportable(blt)
    if config.ngram is not None:
        raise UserError("Meta's layout has no place for an n-gram table")
    files: dict[str, Any] = {"config.json": {"args": _arguments(blt, config.patching)}}
    changes = (
        [f"the cross-attention residual of Meta is 2, not {blt.cross_residual:g}"] if blt.cross_residual != 2 else []
    )
    if entropy is not None:
        files[f"{ENTROPY}/params.json"] = {"entropy_model": _spelled(entropy)}
        if entropy.newline_reset:
            changes.append("in Meta's code, the entropy model's context does not restart at newlines")
        if entropy.window is None:
            changes.append(f"in Meta's code, the entropy model sees {WINDOW} bytes, not all")
    return files, changes


def _arguments(blt: BLTConfig, rule: RuleConfig) -> dict[str, Any]:
    """The arguments of a BLT under Meta's names."""
    args: dict[str, Any] = {name: FIXED[name][0] for name in WRITTEN}
    for part, stack in (("global", blt.latent), ("local_encoder", blt.encoder), ("local_decoder", blt.decoder)):
        args |= {f"dim_{part}": stack.dim, f"n_layers_{part}": stack.layers, f"n_heads_{part}": stack.heads}
    return args | {
        "n_kv_heads_global": blt.latent.kv_heads,
        "n_kv_heads": blt.encoder.kv_heads,
        "cross_attn_k": blt.slots,
        "cross_attn_nheads": blt.cross_shapes[0][0],
        "cross_attn_all_layers_encoder": blt.encoder_cross == "all",
        "cross_attn_all_layers_decoder": blt.decoder_cross == "all",
        "encoder_hash_byte_group_size": list(blt.hash.sizes) or None,
        "encoder_hash_byte_group_vocab": blt.hash.rows,
        "encoder_hash_byte_group_nb_functions": blt.hash.functions,
        "local_attention_window_len": blt.encoder.window,
        "use_local_encoder_transformer": True,
        "attn_bias_type": "block_causal",
        "multiple_of": _multiple([blt.encoder, blt.latent, blt.decoder]),
        "norm_eps": blt.encoder.norm_eps,
        "rope_theta": blt.encoder.rope_theta,
        **_patching(rule),
    }


def _exportable(blt: BLTConfig) -> None:
    """Raise UserError for a BLT that Meta's layout cannot represent."""
    check(blt)
    ascending(blt.hash.sizes)
    stacks = [blt.encoder, blt.latent, blt.decoder]
    for field in ("rope_theta", "norm_eps"):
        if len({getattr(stack, field) for stack in stacks}) > 1:
            raise UserError(f"Meta's layout has one {field} for all stacks")
    if blt.decoder.window != blt.encoder.window or blt.latent.window is not None:
        raise UserError("Meta's layout has one window, of encoder and decoder")
    (heads, kv_heads), decoder = blt.cross_shapes
    if (heads, kv_heads) != decoder or heads != kv_heads or any(s.num_kv_heads != s.heads for s in stacks[::2]):
        raise UserError(
            "Meta's layout shares key heads (num_kv_heads below heads) in the latent transformer alone, "
            "and cross-attention needs the same number of heads everywhere"
        )
    if blt.encoder_cross == "none" or blt.decoder_cross == "none":
        raise UserError("Meta's layout cannot hold a BLT without cross-attention: its code builds another one")


def _multiple(stacks: list[StackConfig]) -> int:
    """The value of `multiple_of` with which Meta's formula gives these hidden widths."""
    for multiple in sorted(range(1, 257), key=lambda m: (m & (m - 1) != 0, -m)):
        if all(hidden(stack.dim, {"multiple_of": multiple}) == stack.hidden_dim for stack in stacks):
            return multiple
    widths = ", ".join(f"{stack.hidden_dim} of {stack.dim}" for stack in stacks)
    raise UserError(f"Meta's formula for the hidden width of feed-forward networks does not give {widths}")


def _spelled(entropy: EntropyConfig) -> dict[str, Any]:
    return {
        "dim": entropy.dim,
        "n_layers": entropy.layers,
        "n_heads": entropy.heads,
        "n_kv_heads": entropy.kv_heads,
        "multiple_of": _multiple([entropy]),
        "sliding_window": entropy.window,
        "rope_theta": entropy.rope_theta,
        "norm_eps": entropy.norm_eps,
        "vocab_size": VOCAB_SIZE,
    }


def _patching(rule: RuleConfig) -> dict[str, Any]:
    """The patching arguments of a rule. Raises UserError for a rule that Meta's code does not have."""
    if rule.kind in ("budget", "words") or rule.own_options:
        names = ", ".join([f"kind '{rule.kind}'", *(f"`{name}`" for name in rule.own_options)])
        raise UserError(f"Meta's layout has no place for patching of {names}")
    mode = {"space": "space", "fixed": "static", "byte": "byte"}.get(rule.kind, "entropy")
    return {
        "patching_mode": mode,
        "patch_size": rule.stride,
        "patching_threshold": rule.rise if rule.kind == "monotonic" else rule.threshold,
        "patching_threshold_add": rule.rise if rule.kind == "combined" else None,
        "monotonicity": rule.kind == "monotonic",
        "max_patch_length": rule.max_length,
    }


def write_tensors(folder: Path, tensors: dict[str, Stored], advance: Callable[[int], None]) -> None:
    """Write the BLT as safetensors and the entropy model as a .pth file."""
    apart = {name.removeprefix(f"{ENTROPY}/"): tensors[name] for name in tensors if name.startswith(f"{ENTROPY}/")}
    inside = {name: stored for name, stored in tensors.items() if not name.startswith(f"{ENTROPY}/")}
    write_inside(folder, inside, advance)
    if apart:
        path = folder / ENTROPY / "consolidated.pth"
        try:
            torch.save({"model": load_tensors(apart)}, path)
        except RuntimeError as error:  # torch raises this when the disk is full
            raise UserError(f"{path} cannot be written: {one_line(error)}") from None
        advance(sum(stored.size for stored in apart.values()))
