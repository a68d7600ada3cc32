"""Tensors as rows of tensors in files, which are mapped into memory and read a chunk at a time.

Layouts differ in names, and in which tensors are joined row below row: so to convert is to copy rows.
"""

import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..config import UserError, one_line
from ..files import read_json

RECOMPUTED = re.compile(r"(.*[./])?(rope|rope_embeddings|rotary_emb)\.(freqs_cis|inv_freq)")
"""Tables of rotary factors, which some files carry and nobody needs."""
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
CHUNK = 1 << 24  # bytes that are copied at once: all the memory that a conversion needs


@dataclass(frozen=True)
class Rows:
    """Some rows of a tensor in a file."""

    path: Path
    name: str
    begin: int
    end: int


@dataclass(frozen=True)
class Stored:
    """A tensor in files: its rows one after another, of one tensor or several. `dtype` is named as in safetensors."""

    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Rows, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize

    def rows(self, begin: int, end: int) -> "Stored":
        """Some of its rows."""
        parts, place = [], 0
        for part in self.parts:
            a, b = max(begin - place, 0), min(end - place, part.end - part.begin)
            if a < b:
                parts.append(Rows(part.path, part.name, part.begin + a, part.begin + b))
            place += part.end - part.begin
        return Stored(self.dtype, (end - begin, *self.shape[1:]), tuple(parts))

    def split(self, sizes: Iterable[int]) -> "list[Stored]":
        """Its rows in parts of those sizes."""
        parts, begin = [], 0
        for size in sizes:
            parts.append(self.rows(begin, begin + size))
            begin += size
        return parts

    def chunks(self) -> Iterator[Tensor]:
        """Its rows, about CHUNK bytes at a time. A file is mapped anew for each, so that pages do not pile up."""
        step = max(1, CHUNK // (self.size // self.shape[0]))
        for part in self.parts:
            for begin in range(part.begin, part.end, step):
                yield mapped(part.path)[part.name][begin : min(begin + step, part.end)]


def load_tensors(tensors: Mapping[str, Stored]) -> dict[str, Tensor]:
    """The tensors themselves: mapped, not read, where rows lie together. Writing to them does not change a file."""
    files = {path: mapped(path) for path in {part.path for stored in tensors.values() for part in stored.parts}}
    pieces = {
        name: [files[part.path][part.name][part.begin : part.end] for part in stored.parts]
        for name, stored in tensors.items()
    }
    return {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in pieces.items()}


def join(name: str, parts: list[Stored]) -> Stored:
    """Several tensors as one, rows below rows. Raises UserError where they are of different types."""
    if len({part.dtype for part in parts}) > 1:
        raise UserError(f"the parts of {name} must be of one type, not {', '.join(part.dtype for part in parts)}")
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    return Stored(parts[0].dtype, shape, tuple(rows for part in parts for rows in part.parts))


# ---------------------------------------------------------------------------------------------------------------- files


def mapped(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, mapped into memory. Raises UserError where it is damaged or holds more than weights."""
    tensors = _pickled(path) if path.suffix == ".pth" else _safetensors(path)
    return {name: weight for name, weight in tensors.items() if not RECOMPUTED.fullmatch(name)}


def read_weights(path: Path) -> dict[str, Stored]:
    """Where the tensors of a .safetensors or .pth file lie. Raises UserError as `mapped` does."""
    stored = {}
    for name, weight in mapped(path).items():
        if weight.dtype not in NAMES:
            raise UserError(f"{path}: {name} is {weight.dtype}; weights are {', '.join(DTYPES)}")
        rows = weight.shape[0] if weight.dim() else 1
        stored[name] = Stored(NAMES[weight.dtype], tuple(weight.shape), (Rows(path, name, 0, rows),))
    return stored


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
    except (OSError, SafetensorError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(f"{path} is missing, damaged or cut short: {one_line(error)}") from None


def _pickled(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a .pth file, at its top or under `model`. Only weights are read: pickled code is refused."""
    if path.is_file() and not zipfile.is_zipfile(path):
        raise UserError(f"{path} is cut short, or no file of weights as torch.save writes them today")
    try:
        loaded = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except UnpicklingError:
        raise UserError(f"{path} holds more than weights; pickled code is not run. Save the state dict alone") from None
    except Exception as error:  # torch raises whatever the file makes it stumble on
        raise UserError(f"{path} is missing, damaged or cut short: {one_line(error)}") from None
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model"), Mapping):
        loaded = loaded["model"]
    if not isinstance(loaded, Mapping) or not all(isinstance(weight, Tensor) for weight in loaded.values()):
        raise UserError(f"{path} holds no state dict of weights, at its top or under `model`")
    return loaded


def read_shards(folder: Path) -> dict[str, Stored]:
    """The tensors of model.safetensors, or of the shards that model.safetensors.index.json names."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file() or not index.is_file():
        return read_weights(folder / "model.safetensors")
    try:
        places = read_json(index)["weight_map"]
        files = sorted({Path(file) for file in places.values()})
    except (KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{index} is not an index of shards: {error!r}") from None
    stored: dict[str, Stored] = {}
    for file in files:
        if not (folder / file).is_file() or file.name != str(file):
            raise UserError(f"{index} names {file}, which is not there")
        shard = read_weights(folder / file)
        stored |= {name: tensor for name, tensor in shard.items() if places.get(name, file.name) == file.name}
    if absent := sorted(set(places) - set(stored)):
        raise UserError(f"{index} names {absent[0]} in {places[absent[0]]}, which does not hold it")
    return stored


def write_safetensors(
    file: BinaryIO, tensors: Mapping[str, Stored], metadata: dict[str, str], advance: Callable[[int], None]
) -> None:
    """Write a file a chunk at a time, which safetensors itself cannot. Wide types come first, so all are aligned.

    `advance` hears of every chunk's bytes.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    ordered = sorted(tensors.items(), key=lambda item: (-DTYPES[item[1].dtype].itemsize, item[0]))
    end = 0
    for name, stored in ordered:
        begin, end = end, end + stored.size
        header[name] = {"dtype": stored.dtype, "shape": stored.shape, "data_offsets": (begin, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, stored in ordered:
        for rows in stored.chunks():
            data = rows.contiguous().view(torch.uint8).numpy()
            file.write(data.data)
            advance(data.nbytes)
