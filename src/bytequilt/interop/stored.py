"""Tensors as rows of tensors in files, which are mapped into memory and read a chunk at a time.

Layouts differ in names, and in which tensors are joined row below row: so to convert is to copy rows. A tensor may
become another type as it is read, eight bits with a scale for each row among them.
"""

import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..config import UserError, one_line
from ..files import read_json
from ..model.int8 import joined, split

RECOMPUTED = re.compile(r"(.*[./])?(rope|rope_embeddings|rotary_emb)\.(freqs_cis|inv_freq)")
"""Tables of rotary factors, which some files carry and nobody needs."""
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I8": torch.int8}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
CHUNK = 1 << 24  # bytes that are copied at once: all the memory that a conversion needs
RECODED = 16  # bytes that a number takes while it becomes another type


@dataclass(frozen=True)
class Rows:
    """Some rows of a tensor in a file."""

    path: Path
    name: str
    begin: int
    end: int
    scale: tuple[Path, str] | None = None
    """File and tensor of the scales of these rows, where they are of eight bits."""


@dataclass(frozen=True)
class Stored:
    """A tensor in files: its rows one after another, of one tensor or several. `dtype` is named as in safetensors.

    It is the type that rows have once they are read; in their file they may be of another one.
    """

    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Rows, ...]
    scales: bool = False
    """Whether it is not the rows themselves, but the scales (rows,) that they have in eight bits."""

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
                parts.append(replace(part, begin=part.begin + a, end=part.begin + b))
            place += part.end - part.begin
        return replace(self, shape=(end - begin, *self.shape[1:]), parts=tuple(parts))

    def split(self, sizes: Iterable[int]) -> "list[Stored]":
        """Its rows in parts of those sizes."""
        parts, begin = [], 0
        for size in sizes:
            parts.append(self.rows(begin, begin + size))
            begin += size
        return parts

    def chunks(self) -> Iterator[Tensor]:
        """Its rows, about CHUNK bytes at a time. A file is mapped anew for each, so that pages do not pile up."""
        for part in self.parts:
            row = mapped(part.path)[part.name][part.begin]
            plain = row.dtype is DTYPES[self.dtype] and not self.scales
            step = max(1, CHUNK // (row.numel() * (row.itemsize if plain else RECODED)))
            for begin in range(part.begin, part.end, step):
                yield self.read(replace(part, begin=begin, end=min(begin + step, part.end)), mapped)

    def read(self, part: Rows, files: Callable[[Path], Mapping[str, Tensor]]) -> Tensor:
        """Some rows, or their scales, in its type. Raises UserError where eight bits cannot hold them."""
        rows = files(part.path)[part.name][part.begin : part.end]
        if part.scale is None and self.dtype != "I8" and not self.scales:
            return rows.to(DTYPES[self.dtype])
        if part.scale is not None:
            path, name = part.scale
            eight, scale = rows, files(path)[name][part.begin : part.end]
        else:
            eight, scale = split(rows, f"{part.path}: {part.name}")
        if self.scales:
            return scale
        return eight if self.dtype == "I8" else joined(eight, scale).to(DTYPES[self.dtype])


def load_tensors(tensors: Mapping[str, Stored]) -> dict[str, Tensor]:
    """The tensors themselves: mapped, not read, where rows lie together. Writing to them does not change a file."""
    files = cache(mapped)
    pieces = {name: [stored.read(part, files) for part in stored.parts] for name, stored in tensors.items()}
    return {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in pieces.items()}


def retyped(tensors: Mapping[str, Stored], dtype: str | None) -> dict[str, Stored]:
    """Tensors that become another type, where one is given: vectors do not become I8, but F32."""
    if dtype is None:
        return dict(tensors)
    vectors = "F32" if dtype == "I8" else dtype
    return {name: replace(s, dtype=dtype if len(s.shape) == 2 else vectors) for name, s in tensors.items()}


def with_scales(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Tensors, and the scales of those of eight bits by names of their own."""
    eight = {name: stored for name, stored in tensors.items() if stored.dtype == "I8"}
    scales = {scale_of(name): Stored("F32", s.shape[:1], s.parts, scales=True) for name, s in eight.items()}
    return dict(tensors) | scales


def without_scales(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """The way back: rows of eight bits that know where their scales are. Raises UserError where these do not fit."""
    files, taken, known = cache(mapped), set(), dict(tensors)
    for name, stored in tensors.items():
        if stored.dtype != "I8":
            continue
        (part,), scale = stored.parts, tensors.get(scale_of(name))
        matrix = len(stored.shape) == 2 and 0 not in stored.shape
        if not matrix or scale is None or (scale.dtype, scale.shape) != ("F32", stored.shape[:1]):
            raise UserError(f"{part.path}: {name} is torch.int8, and has no {scale_of(name)} with an F32 for each row")
        low, high = files(scale.parts[0].path)[scale_of(name)].aminmax()
        if not 0 < low <= high < torch.inf:
            raise UserError(f"{part.path}: {scale_of(name)} is damaged: a scale must be above 0, and finite")
        known[name] = replace(stored, parts=(replace(part, scale=(scale.parts[0].path, scale_of(name))),))
        taken.add(scale_of(name))
    return {name: stored for name, stored in known.items() if name not in taken}


def scale_of(name: str) -> str:
    """What the scales of a weight are called."""
    return name.removesuffix("weight") + "scale"


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
