"""What a model is: its parameters, its FLOPs per byte, its configuration."""

from pathlib import Path
from typing import Any

import torch

from .baselines.baseline import build
from .baselines.config import BaselineConfig
from .baselines.flops import baseline_flops
from .config import BLTConfig, EntropyConfig, PatchingConfig, Recipe, RuleConfig, UserError, load_recipe
from .interop import Directory, ModelConfig
from .model.blt import BLT
from .model.entropy import EntropyModel
from .model.flops import flops_per_byte

PATCH_BYTES = 4.5  # assumed where neither the model nor the recipe says what its threshold aims at


def describe(name: str) -> dict[str, Any]:
    """Parameters by module, forward FLOPs per byte, and configuration of a model directory, hub id or recipe."""
    config = _find(name)
    shown = config.model_dump(mode="json", exclude_none=True)
    if isinstance(config, ModelConfig) and config.baseline:
        return _baseline(config.baseline) | {"config": shown}
    blt, entropy, patch_bytes = _parts(config)
    counted = parameters(blt, entropy)
    flops = {} if blt is None else flops_per_byte(blt, entropy, patch_bytes)
    return {"parameters": counted, "flops_per_byte": flops, "mean_patch_bytes": patch_bytes, "config": shown}


def parameters(blt: BLTConfig | None, entropy: EntropyConfig | None) -> dict[str, int]:
    """Parameters by module, counted on the meta device; `total` is without the entropy model."""
    with torch.device("meta"):
        network = BLT(blt) if blt else None
        patcher = EntropyModel(entropy) if entropy else None
    counted = {"total": _count(network), "entropy": _count(patcher)}
    if network is None:
        return counted | dict.fromkeys(("encoder", "latent", "decoder", "hash"), 0)
    tables = _count(network.encoder.hash)
    return counted | {
        "encoder": _count(network.encoder) - tables,
        "latent": _count(network.latent),
        "decoder": _count(network.decoder),
        "hash": tables,
    }


def _count(network: torch.nn.Module | None) -> int:
    return sum(weight.numel() for weight in network.parameters()) if network is not None else 0


def _baseline(config: BaselineConfig) -> dict[str, Any]:
    """Parameters and FLOPs of a baseline, its vocabulary apart."""
    with torch.device("meta"):
        network = build(config)
    counted = {"embedding": _count(network.embed), "head": _count(network.head)}
    total = _count(network)
    counted = {"total": total, "body": total - sum(counted.values())} | counted
    return {"parameters": counted, "flops_per_byte": baseline_flops(config), "mean_token_bytes": config.token_bytes}


def _find(name: str) -> ModelConfig | Recipe:
    """What a name stands for: a model, or else a recipe."""
    missing: UserError | None = None
    if not name.endswith(".toml"):
        try:
            return Directory.find(name).config
        except UserError as error:
            if Path(name).exists() or "/" in name:
                raise
            missing = error
    try:
        recipe = load_recipe(name)
    except UserError as error:
        raise (UserError(f"{missing}; nor a recipe: {error}") if missing else error) from None
    if not isinstance(recipe, Recipe):
        raise UserError(f"recipe {name} has the shape of the model that it goes on with: bytequilt info MODEL")
    return recipe


def _parts(found: ModelConfig | Recipe) -> tuple[BLTConfig | None, EntropyConfig | None, float]:
    """The BLT, its entropy model and its mean patch."""
    if isinstance(found, ModelConfig):
        return found.blt, found.entropy, found.patch_bytes or _patch_bytes(found.patching)
    entropy = found.entropy
    if found.entropy_init is not None and found.patching.needs_entropy:
        entropy = Directory.find(found.entropy_init).config.entropy
    return found.model, entropy, found.patching.target_bytes or _patch_bytes(found.patching)


def _patch_bytes(patching: RuleConfig | PatchingConfig | None) -> float:
    """Mean bytes per patch where only the rule can tell: that of a fixed stride, or else an assumption."""
    fixed = {"fixed": patching.stride, "byte": 1}.get(patching.kind) if patching else None
    return float(fixed or PATCH_BYTES)
