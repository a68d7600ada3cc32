"""bytequilt's own layout: config.json with a format version, and model.safetensors.

An int8 weight X.weight has its row scales in X.scale.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from ..config import BaselineConfig, BLTConfig, Config, EntropyConfig, NgramConfig, RuleConfig, UserError, is_file
from ..files import read_json
from .stored import Stored, read_shards, with_scales, without_scales, write_safetensors

FORMAT = 1
STALE = ("*config.json", "params.json", "*.safetensors", "*.safetensors.index.json", "*.pth", "tokenizer*")
"""What a model directory of any layout may hold that is not kept where another model is written over it."""


class EightBits(Config):
    """The networks with int8 matrices, which have an fp32 scale for each row."""

    version: Literal[1] = 1
    networks: tuple[Literal["blt", "entropy"], ...]

    @classmethod
    def of(cls, names: Iterable[str]) -> "EightBits | None":
        """The entry for int8 tensors with these names; None if there are no names."""
        networks = {name.split(".")[0] for name in names}
        return cls(networks=sorted(networks)) if networks else None


class ModelConfig(Config):
    """The content of config.json in a model directory. A directory without `blt` holds an entropy model or a
    baseline."""

    format: int
    blt: BLTConfig | None = None
    entropy: EntropyConfig | None = None
    ngram: NgramConfig | None = None
    """Configuration of the look-up table that replaces an entropy model."""
    baseline: BaselineConfig | None = None
    """Configuration of a baseline, which is then the only network in the directory."""
    patching: RuleConfig | None = None
    patch_bytes: float | None = None
    """Mean bytes per patch to which the threshold was calibrated."""
    int8: EightBits | None = None
    """Present only if weights are stored in int8."""

    @model_validator(mode="after")
    def _entropies_have_a_source(self) -> "ModelConfig":
        if self.patching and self.patching.needs_entropy and not (self.entropy or self.ngram):
            raise ValueError(f"patching of kind '{self.patching.kind}' needs an entropy model")
        for network in self.int8.networks if self.int8 else ():
            if getattr(self, network) is None:
                raise ValueError(f"`int8` names a network that is not there: {network}")
        return self

    @model_serializer(mode="wrap")
    def _said_where_it_is_so(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = dump(self)
        return fields if self.int8 else {name: value for name, value in fields.items() if name != "int8"}


def recognise(folder: Path) -> bool:
    return "format" in read_object(folder / "config.json")


def read_config(folder: Path) -> tuple[ModelConfig, list[str]]:
    """The configuration, and an empty list of notes."""
    raw = read_object(folder / "config.json")
    if raw["format"] != FORMAT:
        raise UserError(f"{folder} has format {raw['format']}; this version reads format {FORMAT}")
    return ModelConfig.model_validate(raw), []


def read_tensors(folder: Path) -> dict[str, Stored]:
    return without_scales(read_shards(folder))


def export(config: ModelConfig, dtypes: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """The JSON files of a directory by name, and the changes made because the layout cannot express the model exactly:
    none, because this layout can express every model. `dtypes` is not used."""
    return {"config.json": config.model_dump(mode="json")}, []


def write_tensors(folder: Path, tensors: dict[str, Stored], advance: Callable[[int], None]) -> None:
    with open(folder / "model.safetensors", "wb") as file:
        write_safetensors(file, with_scales(tensors), {"format": "pt"}, advance)


def ascending(sizes: Sequence[int]) -> tuple[int, ...]:
    """n-gram lengths as a tuple; tables are stored in this order. Raises UserError unless the lengths ascend."""
    if list(sizes) != sorted(set(sizes)):
        raise UserError(f"n-gram lengths must ascend, each once, not {list(sizes)}")
    return tuple(sizes)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty if the file does not exist. Raises UserError for any other content."""
    if not is_file(path):
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object")
    return content
