"""The layout of bytequilt itself: config.json with a format version, and model.safetensors."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from pydantic import model_validator

from ..config import BaselineConfig, BLTConfig, Config, EntropyConfig, NgramConfig, RuleConfig, UserError, is_file
from ..files import read_json
from .stored import Stored, read_shards, write_safetensors

FORMAT = 1


class ModelConfig(Config):
    """config.json of a model directory. Without `blt` it is an entropy model alone."""

    format: int
    blt: BLTConfig | None = None
    entropy: EntropyConfig | None = None
    ngram: NgramConfig | None = None
    """The look-up table that takes the place of an entropy model."""
    baseline: BaselineConfig | None = None
    """A model to compare with, which is alone in its directory."""
    patching: RuleConfig | None = None
    patch_bytes: float | None = None
    """Mean bytes per patch that the threshold was calibrated to."""

    @model_validator(mode="after")
    def _entropies_have_a_source(self) -> "ModelConfig":
        if self.patching and self.patching.needs_entropy and not (self.entropy or self.ngram):
            raise ValueError(f"patching of kind '{self.patching.kind}' needs an entropy model")
        return self


def recognise(folder: Path) -> bool:
    return "format" in read_object(folder / "config.json")


def read_config(folder: Path) -> tuple[ModelConfig, list[str]]:
    """The configuration, and notes on it: none."""
    raw = read_object(folder / "config.json")
    if raw["format"] != FORMAT:
        raise UserError(f"{folder} has format {raw['format']}; this version reads format {FORMAT}")
    return ModelConfig.model_validate(raw), []


def read_tensors(folder: Path) -> dict[str, Stored]:
    return read_shards(folder)


def export(config: ModelConfig, dtypes: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """The JSON files of a directory, and what the layout cannot express: nothing."""
    return {"config.json": config.model_dump(mode="json")}, []


def write_tensors(folder: Path, tensors: dict[str, Stored], advance: Callable[[int], None]) -> None:
    with open(folder / "model.safetensors", "wb") as file:
        write_safetensors(file, tensors, {"format": "pt"}, advance)


def ascending(sizes: Sequence[int]) -> tuple[int, ...]:
    """Lengths of n-grams, whose tables lie in this order. Raises UserError where they do not ascend."""
    if list(sizes) != sorted(set(sizes)):
        raise UserError(f"n-gram lengths must ascend, each once, not {list(sizes)}")
    return tuple(sizes)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is no such file. Raises UserError where it is anything else."""
    if not is_file(path):
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object")
    return content
