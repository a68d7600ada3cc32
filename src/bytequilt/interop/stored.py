"""Tensors described as rows of tensors in files. Files are memory-mapped and read in chunks.

Layouts differ in the names of tensors and in which tensors are concatenated by rows. So a conversion copies rows. The
type of a tensor may change while it is read, also to or from int8 with row scales.
"""

import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
"""Names of rotary-factor tables, which some files contain and which are not needed."""
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I8": torch.int8}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
CHUNK = 1 << 24  # bytes copied at once, which limits the memory of a conversion
RECODED = 16  # temporary bytes per number during a change of type


@dataclass(frozen=True)
class Rows:
    """A range of rows of a tensor in a file."""

    path: Path
    name: str
    begin: int
    end: int
    scale: tuple[Path, str] | None = None
    """For int8 rows: file and name of the tensor with their scales."""


@dataclass(frozen=True)
class Stored:
    """A tensor in files, as the concatenation of rows of one or several tensors. `dtype` is the type after reading,
    named as in safetensors; the type in the file may differ."""

    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Rows, ...]
    scales: bool = False
    """True if this stands for the int8 scales (rows,) of the rows instead of the rows themselves."""

    @property
    def size(self) -> int:
        """Size in bytes after reading."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize

    def rows(self, begin: int, end: int) -> "Stored":
        """Rows `begin` to `end`, as a tensor in files."""
        parts, offset = [], 0
        for part in self.parts:
            a, b = max(begin - offset, 0), min(end - offset, part.end - part.begin)
            if a < b:
                parts.append(replace(part, begin=part.begin + a, end=part.begin + b))
            offset += part.end - part.begin
        return replace(self, shape=(end - begin, *self.shape[1:]), parts=tuple(parts))

    def split(self, sizes: Iterable[int]) -> "list[Stored]":
        """Consecutive groups of rows, with the given numbers of rows."""
        parts, begin = [], 0
        for size in sizes:
            parts.append(self.rows(begin, begin + size))
            begin += size
        return parts

    def chunks(self) -> Iterator[Tensor]:
        """Read the rows in chunks of about CHUNK bytes. Each chunk maps the file again, so that mapped pages do not
        accumulate."""
        for part in self.parts:
            row = mapped(part.path)[part.name][part.begin]
            plain = row.dtype is DTYPES[self.dtype] and not self.scales
            step = max(1, CHUNK // (row.numel() * (row.itemsize if plain else RECODED)))
            for begin in range(part.begin, part.end, step):
                yield self.read(replace(part, begin=begin, end=min(begin + step, part.end)), mapped)

    def read(self, part: Rows, files: Callable[[Path], Mapping[str, Tensor]]) -> Tensor:
        """Read a range of rows, or their scales, in the type `dtype`. Raises UserError if a row cannot be quantised."""
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
    """Load the tensors. A tensor that is one range of rows is mapped, not copied; writing to it does not change the
    file."""
    files = cache(mapped)
    pieces = {name: [stored.read(part, files) for part in stored.parts] for name, stored in tensors.items()}
    return {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in pieces.items()}


def retyped(tensors: Mapping[str, Stored], dtype: str | None) -> dict[str, Stored]:
    """The same tensors with another type; with int8, vectors become fp32. With None, types are kept."""
    if dtype is None:
        return dict(tensors)
    vectors = "F32" if dtype == "I8" else dtype
    return {name: replace(s, dtype=dtype if len(s.shape) == 2 else vectors) for name, s in tensors.items()}


def with_scales(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """The tensors together with the scales of int8 tensors, under their own names."""
    eight = {name: stored for name, stored in tensors.items() if stored.dtype == "I8"}
    scales = {scale_of(name): Stored("F32", s.shape[:1], s.parts, scales=True) for name, s in eight.items()}
    return dict(tensors) | scales


def without_scales(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """The inverse of `with_scales`: int8 rows get a reference to their scales. Raises UserError for missing or invalid
    scales."""
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
    """The name of the scales of a weight."""
    return name.removesuffix("weight") + "scale"


def join(name: str, parts: list[Stored]) -> Stored:
    """Concatenate tensors by rows. Raises UserError if their types differ."""
    if len({part.dtype for part in parts}) > 1:
        raise UserError(f"the parts of {name} must be of one type, not {', '.join(part.dtype for part in parts)}")
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    return Stored(parts[0].dtype, shape, tuple(rows for part in parts for rows in part.parts))


def mapped(path: Path) -> dict[str, Tensor]:
    """The memory-mapped tensors of a file by name, without tables of rotary factors (RECOMPUTED).

    Raises UserError if the file is damaged or contains anything except weights.
    """
    tensors = _pickled(path) if path.suffix == ".pth" else _safetensors(path)
    return {name: weight for name, weight in tensors.items() if not RECOMPUTED.fullmatch(name)}


def read_weights(path: Path) -> dict[str, Stored]:
    """The tensors of a .safetensors or .pth file as `Stored`. Raises UserError as `mapped` does."""
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
    """The tensors of a .pth file, at the top level or under `model`. Pickled code is refused."""
    if path.is_file() and not zipfile.is_zipfile(path):
        raise UserError(f"{path} is cut short, or no file of weights in the present format of torch.save")
    try:
        loaded = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except UnpicklingError:
        raise UserError(
            f"{path} holds more than weights, and pickled code is not run: save only the state dict"
        ) from None
    except Exception as error:  # torch raises many types of errors for damaged files
        raise UserError(f"{path} is missing, damaged or cut short: {one_line(error)}") from None
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model"), Mapping):
        loaded = loaded["model"]
    if not isinstance(loaded, Mapping) or not all(isinstance(weight, Tensor) for weight in loaded.values()):
        raise UserError(f"{path} holds no state dict of weights, at its top or under `model`")
    return loaded


def read_shards(folder: Path) -> dict[str, Stored]:
    """The tensors of model.safetensors, or of the shards listed in model.safetensors.index.json."""
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
    """Write a safetensors file in chunks, which the library cannot do. Wide types come first, so that all tensors are
    aligned. `advance` is called with the size of each written chunk."""
    ordered = sorted(tensors.items(), key=lambda item: (-DTYPES[item[1].dtype].itemsize, item[0]))
    file.write(safetensors_header({name: (stored.dtype, stored.shape) for name, stored in ordered}, metadata))
    for _, stored in ordered:
        for rows in stored.chunks():
            data = rows.contiguous().view(torch.uint8).numpy()
            file.write(data.data)
            advance(data.nbytes)


def safetensors_header(tensors: Mapping[str, tuple[str, Sequence[int]]], metadata: dict[str, str]) -> bytes:
    """The start of a safetensors file whose tensors, given by (dtype, shape), follow in this order."""
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + prod(shape) * DTYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
