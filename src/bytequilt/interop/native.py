"""The layout of bytequilt itself: config.json with a format version, and model.safetensors."""

import json
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import model_validator

from ..baselines.config import BaselineConfig
from ..config import BLTConfig, Config, EntropyConfig, NgramConfig, RuleConfig, UserError
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
    return "format" in read_json(folder / "config.json")


def read_config(folder: Path) -> tuple[ModelConfig, list[str]]:
    """The configuration, and what is to be said of it: nothing."""
    raw = read_json(folder / "config.json")
    if raw["format"] != FORMAT:
        raise UserError(f"{folder} has format {raw['format']}; this version reads format {FORMAT}")
    return ModelConfig.model_validate(raw), []


def read_tensors(folder: Path) -> dict[str, Stored]:
    return read_shards(folder)


def export(config: ModelConfig, dtypes: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """Files of a directory beside its weights, as JSON, and what the layout cannot express: nothing."""
    return {"config.json": config.model_dump(mode="json")}, []


def write_tensors(folder: Path, tensors: dict[str, Stored], advance: Callable[[int], None]) -> None:
    write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"}, advance)


@contextmanager
def beside(folder: Path, replace: bool = False) -> Iterator[Path]:
    """A directory that takes the name of `folder` once all that is written to it is there.

    With `replace` it also takes the place of what has the name. Raises OSError where something has it otherwise.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        partial = Path(scratch) / folder.name
        partial.mkdir()
        yield partial
        if replace:
            shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)


def ascending(sizes: Sequence[int]) -> tuple[int, ...]:
    """Lengths of n-grams, whose tables lie in this order. Raises UserError where they do not rise, as ours do."""
    if list(sizes) != sorted(set(sizes)):
        raise UserError(f"n-gram lengths must ascend, each once, not {list(sizes)}")
    return tuple(sizes)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is no such file. Raises UserError where it is anything else."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} must hold a JSON object")
    return found
