"""What a model is: its parameters, its FLOPs per byte, its configuration."""

from pathlib import Path
from typing import Any

import torch

from .config import BLTConfig, EntropyConfig, UserError, load_recipe
from .lm import model_folder, read_config
from .model.blt import BLT
from .model.entropy import EntropyModel
from .model.flops import flops_per_byte

PATCH_BYTES = 4.5  # assumed where neither the model nor the recipe says what its threshold aims at


def describe(name: str) -> dict[str, Any]:
    """Parameters by module, forward FLOPs per byte, and configuration of a model directory, hub id or recipe."""
    blt, entropy, config, patch_bytes = _find(name)
    counted = parameters(blt, entropy)
    flops = {} if blt is None else flops_per_byte(blt, entropy, patch_bytes)
    return {"parameters": counted, "flops_per_byte": flops, "mean_patch_bytes": patch_bytes, "config": config}


def parameters(blt: BLTConfig | None, entropy: EntropyConfig | None) -> dict[str, int]:
    """Parameters by module, counted on the meta device; `total` is without the entropy model."""
    with torch.device("meta"):
        network = BLT(blt) if blt else None
        patcher = EntropyModel(entropy) if entropy else None
    counted = {"total": _count(network), "entropy": _count(patcher)}
    if network is not None:
        tables = _count(network.encoder.hash)
        counted |= {
            "encoder": _count(network.encoder) - tables,
            "latent": _count(network.latent),
            "decoder": _count(network.decoder),
            "hash": tables,
        }
    return counted


def _count(network: torch.nn.Module | None) -> int:
    return sum(weight.numel() for weight in network.parameters()) if network is not None else 0


def _find(name: str) -> tuple[BLTConfig | None, EntropyConfig | None, dict[str, Any], float]:
    if not name.endswith(".toml"):
        try:
            found = read_config(model_folder(name))
            return found.blt, found.entropy, found.model_dump(mode="json", exclude_none=True), found.patch_bytes or PATCH_BYTES
        except UserError as error:
            if Path(name).exists() or "/" in name:
                raise
            missing = error
    try:
        recipe = load_recipe(name)
    except UserError as error:
        raise (error if name.endswith(".toml") else UserError(f"{missing}; nor a recipe: {error}")) from None
    target = recipe.patching.target_bytes or recipe.patching.stride or PATCH_BYTES
    return recipe.model, recipe.entropy, recipe.model_dump(mode="json", exclude_none=True), target
