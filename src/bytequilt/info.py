"""The size of a model or recipe: parameters, FLOPs per byte, configuration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from .baselines.baseline import build
from .baselines.networks import baseline_flops
from .config import BaselineConfig, BLTConfig, EntropyConfig, PatchingConfig, Recipe, RuleConfig, UserError, load_recipe
from .interop import Directory, ModelConfig
from .interop.names import unfilled
from .model.blt import BLT
from .model.entropy import EntropyModel
from .model.flops import flops_per_byte

PATCH_BYTES = 4.5  # assumed mean patch size if neither model nor recipe states one


@dataclass(frozen=True)
class Description:
    """Parameters, FLOPs per byte and configuration of a model or recipe."""

    config: ModelConfig | Recipe
    parameters: dict[str, int]
    """Number of parameters by module; `total` excludes the entropy model."""
    flops_per_byte: dict[str, float]
    """FLOPs per byte of a forward pass by module; empty for an entropy model without a BLT."""
    mean_unit_bytes: float
    """Mean bytes per patch, or per token of a baseline."""
    weight_bytes: int | None = None
    """Size of the safetensors files in bytes; None for a recipe."""

    @property
    def blt(self) -> BLTConfig | None:
        return self.config.model if isinstance(self.config, Recipe) else self.config.blt

    @property
    def baseline(self) -> BaselineConfig | None:
        return None if isinstance(self.config, Recipe) else self.config.baseline

    @property
    def eight_bits(self) -> tuple[str, ...]:
        """The networks (`blt`, `entropy`) that are stored in int8."""
        return () if isinstance(self.config, Recipe) or self.config.int8 is None else self.config.int8.networks

    def json(self) -> dict[str, Any]:
        """The output of `bytequilt info --json`. Thresholds are in nats, as in the files."""
        unit = "mean_token_bytes" if self.baseline else "mean_patch_bytes"
        return {
            "parameters": self.parameters,
            "flops_per_byte": self.flops_per_byte,
            unit: self.mean_unit_bytes,
            **({} if self.weight_bytes is None else {"weight_bytes": self.weight_bytes}),
            "config": self.config.model_dump(mode="json", exclude_none=True),
        }


def describe(name: str) -> Description:
    """The description of a model directory, hub id or recipe. Raises UserError if there is no such model or recipe."""
    named = _named(name)
    config, size = (named, None) if isinstance(named, Recipe) else (named.config, named.weight_bytes)
    if isinstance(config, ModelConfig) and config.baseline:
        baseline = config.baseline
        return Description(config, _baseline_parameters(baseline), baseline_flops(baseline), baseline.token_bytes, size)
    blt, entropy, mean_bytes = _parts(config)
    flops = {} if blt is None else flops_per_byte(blt, entropy, mean_bytes)
    return Description(config, parameters(blt, entropy), flops, mean_bytes, size)


def parameters(blt: BLTConfig | None, entropy: EntropyConfig | None) -> dict[str, int]:
    """Number of parameters by module, counted on networks without values; `total` excludes the entropy model."""
    network = unfilled(BLT, blt) if blt else None
    scorer = unfilled(EntropyModel, entropy) if entropy else None
    counted = {"total": count_parameters(network), "entropy": count_parameters(scorer)}
    if network is None:
        return counted | dict.fromkeys(("encoder", "latent", "decoder", "hash"), 0)
    tables = count_parameters(network.encoder.hash)
    return counted | {
        "encoder": count_parameters(network.encoder) - tables,
        "latent": count_parameters(network.latent),
        "decoder": count_parameters(network.decoder),
        "hash": tables,
    }


def count_parameters(network: nn.Module | None) -> int:
    """Number of parameters of a network; shared ones count once. 0 without a network."""
    return sum(weight.numel() for weight in network.parameters()) if network is not None else 0


def _baseline_parameters(config: BaselineConfig) -> dict[str, int]:
    """Number of parameters of a baseline; embedding, head and hash tables are listed apart from the body."""
    network = unfilled(build, config)
    body = network.network if config.hash else network
    parts = {"embedding": count_parameters(body.embed), "head": count_parameters(body.head)}
    parts |= {"hash": count_parameters(network.hash)} if config.hash else {}
    total = count_parameters(network)
    return {"total": total, "body": total - sum(parts.values())} | parts


def _named(name: str) -> Directory | Recipe:
    """A model or else a recipe. Raises UserError if there is neither, or if the recipe takes another's shape."""
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
        raise UserError(f"recipe {name} takes its shape from the model in `init`; see bytequilt info MODEL")
    return recipe


def _parts(config: ModelConfig | Recipe) -> tuple[BLTConfig | None, EntropyConfig | None, float]:
    """The configurations of the BLT and its entropy model, and the mean patch size in bytes."""
    if isinstance(config, ModelConfig):
        return config.blt, config.entropy, config.patch_bytes or patch_bytes(config.patching)
    return config.model, scorer_of(config), patch_bytes(config.patching)


def scorer_of(recipe: Recipe) -> EntropyConfig | None:
    """The configuration of the entropy model that decides a recipe's patches; None if there is none."""
    name = recipe.entropy_init or (None if recipe.entropy is not None else recipe.train.init)
    brought = name is not None and recipe.patching.needs_entropy
    return Directory.find(name).config.entropy if brought else recipe.entropy


def patch_bytes(patching: RuleConfig | PatchingConfig | None) -> float:
    """Mean patch size in bytes: the target of a recipe, or that of kinds `fixed` and `byte`, or else PATCH_BYTES."""
    fixed = {"fixed": patching.stride, "byte": 1}.get(patching.kind) if patching else None
    return float(getattr(patching, "target_bytes", None) or fixed or PATCH_BYTES)
