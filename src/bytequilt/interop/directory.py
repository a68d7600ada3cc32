"""Model directories of any layout: found by name, read into networks, and written."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from ..config import Config, UserError, one_line
from ..files import replacing_folder, write_json
from ..model.blt import BLT
from ..model.entropy import EntropyModel
from ..model.ngram import NgramEntropy
from . import hub, hugging_face, meta, names, native
from .devices import choose_device, place
from .native import ModelConfig
from .stored import Stored, load_tensors

LAYOUTS: dict[str, ModuleType] = {"bytequilt": native, "hf": hugging_face, "meta": meta}
COLUMNS = {"bytequilt": names.OURS, "hf": names.HUGGING_FACE, "meta": names.META}


@dataclass(frozen=True)
class Directory:
    """A model directory of whatever layout."""

    folder: Path
    layout: str
    config: ModelConfig
    notes: tuple[str, ...]
    """Where the model will differ from what its layout's own program makes of it."""

    @classmethod
    def find(cls, name: str | PathLike[str], **options: Any) -> "Directory":
        """The model of that name: a path, a run directory's, a shipped model, or a repository of the hub.

        `options` are those of the hub: revision, token, cache_dir, force_download, local_files_only.
        Raises UserError where there is no such model, before its weights are downloaded.
        """
        if not isinstance(name, str | PathLike):
            raise UserError(f"a model is named by a str or a path, not by {type(name).__name__}")
        if unknown := sorted(set(options) - set(hub.OPTIONS)):
            raise UserError(f"no option {unknown[0]}; the hub's are {', '.join(hub.OPTIONS)}")
        if (folder := hub.local(name)) is None:
            cls.open(hub.download(str(name), hub.DESCRIPTION, **options))
            folder = hub.download(str(name), hub.WEIGHTS, **options)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> "Directory":
        """Raises UserError where the layout is none of the three, or its configuration cannot be read."""
        for name, layout in LAYOUTS.items():
            if layout.recognise(folder):
                try:
                    config, notes = layout.read_config(folder)
                except ValidationError as error:
                    raise UserError(f"{folder}: {one_line(error)}") from None
                except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:  # of another type
                    raise UserError(f"{folder}: its configuration cannot be read: {one_line(error)}") from None
                return cls(folder, name, config, tuple(notes))
        raise UserError(
            f"{folder} is not a bytequilt model, nor one of Hugging Face's or Meta's: its config.json has neither "
            "`format`, nor model_type blt, nor `args`, and there is no params.json"
        )

    def tensors(self) -> dict[str, Stored]:
        """Where its tensors lie, under our names. Raises UserError where files or names do not fit."""
        stored = LAYOUTS[self.layout].read_tensors(self.folder)
        try:
            return names.translate(stored, self.config, COLUMNS[self.layout], names.OURS)
        except UserError as error:
            raise UserError(f"{self.folder}: {error}") from None

    def blt(self, dtype: torch.dtype = torch.float32) -> BLT:
        """Its BLT, in `dtype`; the n-gram tables stay as they are stored where that is narrower."""
        return self._network("blt", BLT, self.config.blt, dtype)

    def scorer(self) -> EntropyModel | NgramEntropy | None:
        """What scores bytes, in fp32 since it decides boundaries; None where its patching needs nothing of the kind."""
        if self.config.ngram is not None:
            return self._network("entropy", NgramEntropy, self.config.ngram)
        return self._network("entropy", EntropyModel, self.config.entropy) if self.config.entropy else None

    def _network(
        self, prefix: str, kind: Callable[[Any], nn.Module], config: Config | None, dtype: torch.dtype = torch.float32
    ) -> Any:
        """One of its networks, built without values and filled once."""
        stored = {n.removeprefix(f"{prefix}."): s for n, s in self.tensors().items() if n.startswith(f"{prefix}.")}
        weights = load_tensors(stored)
        for name, weight in weights.items():
            if name != "encoder.hash.weight" or weight.itemsize >= dtype.itemsize:
                weights[name] = weight.to(dtype)
        network = names.unfilled(kind, config)
        network.load_state_dict(weights, assign=True)
        return network.eval()


def load_entropy(name: str | PathLike[str], device: str | torch.device = "cpu") -> EntropyModel | NgramEntropy | None:
    """What scores bytes in a model directory, in fp32; None where its patching needs nothing of the kind."""
    target, scorer = choose_device(device), Directory.find(name).scorer()
    return place(scorer, target) if scorer is not None else None


def write_model(
    folder: Path,
    config: ModelConfig,
    blt: nn.Module | None,
    entropy: nn.Module | None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model directory, which takes the place of `folder` once it is whole.

    `dtype` is what the BLT's weights are stored in. Raises UserError where the disk refuses.
    """
    tensors = {f"blt.{name}": weight if dtype is None else weight.to(dtype) for name, weight in _weights(blt)}
    tensors |= {f"entropy.{name}": weight for name, weight in _weights(entropy)}
    write_directory(folder, config, tensors)


def write_directory(folder: Path, config: ModelConfig, tensors: dict[str, torch.Tensor]) -> None:
    """Write config.json and model.safetensors, as `write_model` does, from tensors by name."""
    if any(weight.dtype is torch.int8 for weight in tensors.values()):
        raise UserError(f"cannot write {folder}: int8 is for loaded models; load this one in float32 to save it")
    plain = {name: weight.detach().cpu().contiguous() for name, weight in tensors.items()}
    with replacing_folder(folder) as partial:
        try:
            save_file(plain, partial / "model.safetensors", metadata={"format": "pt"})
        except SafetensorError as error:  # its way of saying that a disk is full
            raise UserError(f"cannot write {folder}: {one_line(error)}") from None
        write_json(partial / "config.json", config.model_dump(mode="json"), indent=2)
        shutil.copymode(partial / "config.json", partial / "model.safetensors")  # safetensors lets nobody else read it


def _weights(network: nn.Module | None) -> Iterable[tuple[str, torch.Tensor]]:
    return network.state_dict().items() if network is not None else ()
