"""The size of a model or recipe: its parameters, its FLOPs per byte, its configuration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from .baselines.baseline import build
from .baselines.flops import baseline_flops
from .config import BaselineConfig, BLTConfig, EntropyConfig, PatchingConfig, Recipe, RuleConfig, UserError, load_recipe
from .interop import Directory, ModelConfig
from .interop.names import unfilled
from .model.blt import BLT
from .model.entropy import EntropyModel
from .model.flops import flops_per_byte

PATCH_BYTES = 4.5  # assumed where neither the model nor the recipe says what its threshold aims at


@dataclass(frozen=True)
class Description:
    """Parameters, FLOPs per byte and configuration of a model or recipe."""

    config: ModelConfig | Recipe
    parameters: dict[str, int]
    """By module; `total` is without the entropy model."""
    flops_per_byte: dict[str, float]
    """Of a forward pass, by module; empty for an entropy model alone."""
    mean_unit_bytes: float
    """Mean bytes of a patch, or of a token of a baseline."""
    weight_bytes: int | None = None
    """Of a model on this disk: the size of its safetensors."""

    @property
    def blt(self) -> BLTConfig | None:
        return self.config.model if isinstance(self.config, Recipe) else self.config.blt

    @property
    def baseline(self) -> BaselineConfig | None:
        return None if isinstance(self.config, Recipe) else self.config.baseline

    @property
    def eight_bits(self) -> tuple[str, ...]:
        """Networks, `blt` and `entropy`, whose matrices are stored in eight bits."""
        return () if isinstance(self.config, Recipe) or self.config.int8 is None else self.config.int8.networks

    def json(self) -> dict[str, Any]:
        """As `bytequilt info --json` prints it. Thresholds are in nats, as in the files."""
        unit = "mean_token_bytes" if self.baseline else "mean_patch_bytes"
        return {
            "parameters": self.parameters,
            "flops_per_byte": self.flops_per_byte,
            unit: self.mean_unit_bytes,
            **({} if self.weight_bytes is None else {"weight_bytes": self.weight_bytes}),
            "config": self.config.model_dump(mode="json", exclude_none=True),
        }


def describe(name: str) -> Description:
    """The description of a model directory, hub id or recipe. Raises UserError where there is no such thing."""
    named = _named(name)
    config, size = (named, None) if isinstance(named, Recipe) else (named.config, named.weight_bytes)
    if isinstance(config, ModelConfig) and config.baseline:
        baseline = config.baseline
        return Description(config, _baseline_parameters(baseline), baseline_flops(baseline), baseline.token_bytes, size)
    blt, entropy, patch_bytes = _parts(config)
    flops = {} if blt is None else flops_per_byte(blt, entropy, patch_bytes)
    return Description(config, parameters(blt, entropy), flops, patch_bytes, size)


def parameters(blt: BLTConfig | None, entropy: EntropyConfig | None) -> dict[str, int]:
    """Parameters by module, from networks without values; `total` is without the entropy model."""
    network = unfilled(BLT, blt) if blt else None
    counted = {"total": _count(network), "entropy": _count(unfilled(EntropyModel, entropy) if entropy else None)}
    if network is None:
        return counted | dict.fromkeys(("encoder", "latent", "decoder", "hash"), 0)
    tables = _count(network.encoder.hash)
    return counted | {
        "encoder": _count(network.encoder) - tables,
        "latent": _count(network.latent),
        "decoder": _count(network.decoder),
        "hash": tables,
    }


def _count(network: nn.Module | None) -> int:
    return sum(weight.numel() for weight in network.parameters()) if network is not None else 0


def _baseline_parameters(config: BaselineConfig) -> dict[str, int]:
    """Parameters of a baseline, those of its vocabulary apart."""
    network = unfilled(build, config)
    body = network.network if config.hash else network
    parts = {"embedding": _count(body.embed), "head": _count(body.head)}
    parts |= {"hash": _count(network.hash)} if config.hash else {}
    total = _count(network)
    return {"total": total, "body": total - sum(parts.values())} | parts


def _named(name: str) -> Directory | Recipe:
    """The model of that name, or else the recipe."""
    missing: UserError | None = None
    if not name.endswith(".toml"):
        try:
            return Directory.find(name)
        except UserError as error:
            if "/" in name or Path(name).exists():
                raise
            missing = error
    try:
        recipe = load_recipe(name)
    except UserError as error:
        raise (UserError(f"{missing}; nor a recipe: {error}") if missing else error) from None
    if not isinstance(recipe, Recipe):
        raise UserError(f"recipe {name} has the shape of the model that it goes on with: bytequilt info MODEL")
    return recipe


def _parts(config: ModelConfig | Recipe) -> tuple[BLTConfig | None, EntropyConfig | None, float]:
    """The BLT, its entropy model and its mean patch in bytes."""
    if isinstance(config, ModelConfig):
        return config.blt, config.entropy, config.patch_bytes or _patch_bytes(config.patching)
    entropy = config.entropy
    if config.entropy_init is not None and config.patching.needs_entropy:
        entropy = Directory.find(config.entropy_init).config.entropy
    return config.model, entropy, config.patching.target_bytes or _patch_bytes(config.patching)


def _patch_bytes(patching: RuleConfig | PatchingConfig | None) -> float:
    """Mean bytes per patch where only the rule can tell: that of a fixed stride, or else an assumption."""
    fixed = {"fixed": patching.stride, "byte": 1}.get(patching.kind) if patching else None
    return float(fixed or PATCH_BYTES)
