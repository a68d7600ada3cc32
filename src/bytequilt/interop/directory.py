"""Model directories of any layout: find by name, load networks, write."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike, fsdecode
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
from ..model.int8 import joined, quantise, split
from ..model.ngram import NgramEntropy
from . import hub, hugging_face, meta, names, native
from .devices import put_on
from .native import STALE, EightBits, ModelConfig
from .stored import DTYPES, NAMES, Stored, load_tensors, retyped, scale_of, with_scales

LAYOUTS: dict[str, ModuleType] = {"bytequilt": native, "hf": hugging_face, "meta": meta}
COLUMNS = {"bytequilt": names.OURS, "hf": names.HUGGING_FACE, "meta": names.META}


@dataclass(frozen=True)
class Directory:
    """A model directory of any layout."""

    folder: Path
    layout: str
    config: ModelConfig
    notes: tuple[str, ...]
    """Known differences between this model's behaviour here and in the layout's original program."""

    @classmethod
    def find(cls, name: str | PathLike[str], **options: Any) -> "Directory":
        """The directory of a model, given by a path, a run directory, the name of a shipped model, or a hub id.

        `options` are those of the hub: revision, token, cache_dir, force_download, local_files_only. Raises UserError
        if there is no such model. That is checked before weights are downloaded.
        """
        if unknown := sorted(set(options) - set(hub.OPTIONS)):
            raise UserError(f"no option {unknown[0]}; the hub's are {', '.join(hub.OPTIONS)}")
        if (folder := hub.local(name)) is None:
            cls.open(hub.download(fsdecode(name), hub.DESCRIPTION, **options))
            folder = hub.download(fsdecode(name), hub.WEIGHTS, **options)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> "Directory":
        """Read the configuration of a model directory. Raises UserError if the layout is unknown or the configuration
        is invalid."""
        for name, layout in LAYOUTS.items():
            if layout.recognise(folder):
                try:
                    config, notes = layout.read_config(folder)
                except ValidationError as error:
                    raise UserError(f"{folder}: {one_line(error)}") from None
                # raised for fields of a wrong type
                except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
                    raise UserError(f"{folder}: its configuration cannot be read: {one_line(error)}") from None
                return cls(folder, name, config, tuple(notes))
        raise UserError(
            f"{folder} is not a bytequilt model, nor one of Hugging Face's or Meta's: its config.json has neither "
            "`format`, nor model_type blt, nor `args`, and there is no params.json"
        )

    @property
    def weight_bytes(self) -> int:
        """Total size of the safetensors files in bytes; Meta's .pth files are not counted."""
        return sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))

    def tensors(self) -> dict[str, Stored]:
        """The stored tensors under bytequilt's names. Raises UserError if files or names do not match the
        configuration."""
        stored = LAYOUTS[self.layout].read_tensors(self.folder)
        try:
            ours = names.translate(stored, self.config, COLUMNS[self.layout], names.OURS)
        except UserError as error:
            raise UserError(f"{self.folder}: {error}") from None
        int8_networks = self.config.int8.networks if self.config.int8 else ()
        for name, tensor in ours.items():
            if (tensor.dtype == "I8") != (name.split(".")[0] in int8_networks and len(tensor.shape) == 2):
                kind = str(DTYPES[tensor.dtype])
                raise UserError(f"{self.folder}: {name} is {kind}, which is not what its configuration says of `int8`")
        return ours

    def blt(self, dtype: torch.dtype = torch.float32) -> BLT:
        """Load the BLT in `dtype`. With int8, only matrices are int8. With float32, an n-gram table stored in 16 bits
        keeps its type."""
        return self._network("blt", BLT, self.config.blt, dtype)

    def scorer(self, dtype: torch.dtype = torch.float32) -> EntropyModel | NgramEntropy | None:
        """Load the entropy model or n-gram table that gives entropies; None if the model's rule needs neither. The type
        is fp32; with `dtype` int8, an entropy model's matrices are int8."""
        if self.config.ngram is not None:
            return self._network("entropy", NgramEntropy, self.config.ngram)
        return self._network("entropy", EntropyModel, self.config.entropy, dtype) if self.config.entropy else None

    def _network(
        self, prefix: str, kind: Callable[[Any], nn.Module], config: Config | None, dtype: torch.dtype = torch.float32
    ) -> Any:
        """Load one network: built without values, then filled. Stored int8 weights are not quantised again."""
        stored = {n.removeprefix(f"{prefix}."): s for n, s in self.tensors().items() if n.startswith(f"{prefix}.")}
        wanted = retyped(stored, NAMES[dtype])
        table = stored.get("encoder.hash.weight")
        if table is not None and table.dtype in ("F16", "BF16") and dtype is torch.float32:
            wanted["encoder.hash.weight"] = table
        network = names.unfilled(kind, config)
        if dtype is torch.int8:
            quantise(network)
        network.load_state_dict(load_tensors(with_scales(wanted)), assign=True)
        return network.eval()


def languages_of(folder: Path) -> tuple[str, ...]:
    """Codes of the languages that a model card names: `language` in the head of README.md, as on the Hugging Face hub.
    Empty without such a card."""
    import yaml
    from huggingface_hub import metadata_load

    try:
        named = (metadata_load(folder / "README.md") or {}).get("language", ())
    except (OSError, ValueError, yaml.YAMLError):  # no card, or one that cannot be read
        return ()
    return (named,) if isinstance(named, str) else tuple(map(str, named or ()))


def load_entropy(name: str | PathLike[str]) -> EntropyModel | NgramEntropy | None:
    """Load the entropy model or n-gram table of a model directory in fp32; None if its rule needs neither."""
    scorer = Directory.find(name).scorer()
    return put_on(scorer, torch.device("cpu")) if scorer is not None else None


def write_model(
    folder: Path,
    config: ModelConfig,
    blt: nn.Module | None,
    entropy: nn.Module | None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model directory. It replaces the model in `folder` when all files are complete; other files there stay.

    `dtype` is the stored type of the BLT's weights; int8 applies to matrices only, and None keeps the present type.
    Raises UserError if writing fails, or if a weight cannot be stored in int8.
    """
    weights = {}
    for part, network, kind in (("blt", blt, dtype), ("entropy", entropy, None)):
        if network is not None:
            weights |= {f"{part}.{name}": weight for name, weight in _recoded(network.state_dict(), kind).items()}
    eight = EightBits.of(name for name, weight in weights.items() if weight.dtype is torch.int8)
    config = config.model_copy(update={"int8": eight})
    tensors = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    with replacing_folder(folder, stale=STALE) as partial:
        try:
            save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
        except SafetensorError as error:  # safetensors raises this when the disk is full
            raise UserError(f"cannot write {folder}: {one_line(error)}") from None
        write_json(partial / "config.json", config.model_dump(mode="json"), indent=2)
        # safetensors makes its file readable for the owner only
        shutil.copymode(partial / "config.json", partial / "model.safetensors")


def _recoded(weights: dict[str, torch.Tensor], dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """Weights by name in another type. Matrices are quantised to int8 with scales, or dequantised."""
    if dtype is None:
        return weights
    eight = {name: scale_of(name) for name, weight in weights.items() if weight.dtype is torch.int8}
    if dtype is not torch.int8:
        whole = {name: joined(weights[name], weights[scale]) for name, scale in eight.items()}
        plain = {name: weight for name, weight in weights.items() if name not in (*eight, *eight.values())}
        return {name: weight.to(dtype) for name, weight in (plain | whole).items()}
    recoded = {}
    for name, weight in weights.items():
        if weight.dim() != 2 or name in eight:
            recoded[name] = weight
        else:
            recoded[name], recoded[scale_of(name)] = split(weight, name)
    return recoded
