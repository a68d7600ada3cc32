"""Tensors as ranges of bytes in files.

Layouts differ in names, and in which tensors are joined row below row: so to convert is to copy bytes.
"""

import json
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from math import prod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ..config import UserError, one_line

RECOMPUTED = re.compile(r"(.*[./])?(rope|rope_embeddings|rotary_emb)\.(freqs_cis|inv_freq)")
"""Tables of rotary factors, which some files carry and nobody needs."""
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
CHUNK = 1 << 24  # bytes that are copied at once: all the memory that a conversion needs


@dataclass(frozen=True)
class Piece:
    """Bytes of a file."""

    path: Path
    offset: int
    size: int


@dataclass(frozen=True)
class Stored:
    """A tensor in files: its rows one after another, in one piece or several. `dtype` is named as in safetensors."""

    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize

    def rows(self, begin: int, end: int) -> "Stored":
        """Some of its rows."""
        width = self.size // self.shape[0]
        left, right, pieces, place = begin * width, end * width, [], 0
        for piece in self.pieces:
            a, b = max(left - place, 0), min(right - place, piece.size)
            if a < b:
                pieces.append(Piece(piece.path, piece.offset + a, b - a))
            place += piece.size
        return Stored(self.dtype, (end - begin, *self.shape[1:]), tuple(pieces))

    def split(self, sizes: Iterable[int]) -> "list[Stored]":
        """Its rows in parts of those sizes."""
        parts, begin = [], 0
        for size in sizes:
            parts.append(self.rows(begin, begin + size))
            begin += size
        return parts

    def tensor(self) -> Tensor:
        """The tensor itself: mapped, not read, where it lies in one piece. Writing to it does not change the file."""
        maps = [np.memmap(p.path, np.uint8, "c", p.offset, (p.size,)) for p in self.pieces]
        data = torch.from_numpy(maps[0] if len(maps) == 1 else np.concatenate(maps))
        return data.view(DTYPES[self.dtype]).view(self.shape)

    def copy(self, out: BufferedIOBase, buffer: memoryview, advance: Callable[[int], None]) -> None:
        """Append its bytes to an open file by way of a buffer; `advance` is told of every chunk."""
        for piece in self.pieces:
            with piece.path.open("rb") as file:
                file.seek(piece.offset)
                left = piece.size
                while left:
                    if not (count := file.readinto(buffer[:left])):
                        raise UserError(f"{piece.path} ends {left} bytes early")
                    out.write(buffer[:count])
                    advance(count)
                    left -= count


def join(name: str, parts: list[Stored]) -> Stored:
    """Several tensors as one, rows below rows. Raises UserError where they are of different types."""
    if len({part.dtype for part in parts}) > 1:
        raise UserError(f"the parts of {name} must be of one type, not {', '.join(part.dtype for part in parts)}")
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    return Stored(parts[0].dtype, shape, tuple(piece for part in parts for piece in part.pieces))


# ---------------------------------------------------------------------------------------------------------------- files


def read_safetensors(path: Path) -> dict[str, Stored]:
    """The tensors of a file. Raises UserError where it is damaged or cut short."""
    try:
        with safe_open(path, "pt"), path.open("rb") as file:  # safe_open checks that the header is sound and whole
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path} is missing, damaged or cut short: {error}") from None
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        if RECOMPUTED.fullmatch(name):
            continue
        if entry["dtype"] not in DTYPES:
            raise UserError(f"{path}: {name} is {entry['dtype']}; weights are {', '.join(DTYPES)}")
        begin, end = entry["data_offsets"]
        piece = Piece(path, 8 + length + begin, end - begin)
        found[name] = Stored(entry["dtype"], tuple(entry["shape"]), (piece,))
    return found


def read_shards(folder: Path) -> dict[str, Stored]:
    """The tensors of model.safetensors, or of the shards that model.safetensors.index.json names."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file() or not index.is_file():
        return read_safetensors(folder / "model.safetensors")
    try:
        places = json.loads(index.read_text())["weight_map"]
        files = sorted({Path(file) for file in places.values()})
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{index} is not an index of shards: {error!r}") from None
    found: dict[str, Stored] = {}
    for file in files:
        if not (folder / file).is_file() or file.name != str(file):
            raise UserError(f"{index} names {file}, which is not there")
        shard = read_safetensors(folder / file)
        found |= {name: stored for name, stored in shard.items() if places.get(name, file.name) == file.name}
    if absent := sorted(set(places) - set(found)):
        raise UserError(f"{index} names {absent[0]} in {places[absent[0]]}, which does not hold it")
    return found


def read_pickle(path: Path) -> dict[str, Stored]:
    """The tensors of a .pth file, at its top or under `model`. Only weights are read: pickled code is refused."""
    if path.is_file() and not zipfile.is_zipfile(path):
        raise UserError(f"{path} is cut short, or no file of weights as torch.save writes them today")
    try:
        with FakeTensorMode():  # finds where tensors lie without reading them
            loaded = torch.load(path, weights_only=True)
    except UnpicklingError:
        raise UserError(f"{path} holds more than weights; pickled code is not run. Save the state dict alone") from None
    except Exception as error:  # torch raises whatever the file makes it stumble on
        raise UserError(f"{path} is missing, damaged or cut short: {one_line(error)}") from None
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model"), Mapping):
        loaded = loaded["model"]
    if not isinstance(loaded, Mapping) or not all(isinstance(weight, Tensor) for weight in loaded.values()):
        raise UserError(f"{path} holds no state dict of weights, at its top or under `model`")
    return {name: _pickled(path, name, weight) for name, weight in loaded.items() if not RECOMPUTED.fullmatch(name)}


def _pickled(path: Path, name: str, weight: Tensor) -> Stored:
    dtypes = {dtype: known for known, dtype in DTYPES.items()}
    begin = getattr(weight.untyped_storage(), "_checkpoint_offset", None)
    if begin is None or not weight.is_contiguous():
        raise UserError(f"{path}: {name} is in an old format or not contiguous; save the file anew with torch.save")
    if weight.dtype not in dtypes:
        raise UserError(f"{path}: {name} is {weight.dtype}; weights are {', '.join(DTYPES)}")
    offset = begin + weight.storage_offset() * weight.itemsize
    return Stored(dtypes[weight.dtype], tuple(weight.shape), (Piece(path, offset, weight.nbytes),))


def write_safetensors(
    path: Path, tensors: Mapping[str, Stored], metadata: dict[str, str], advance: Callable[[int], None]
) -> None:
    """Write a file a chunk at a time, which safetensors itself cannot. Wide types come first, so all are aligned."""
    header: dict[str, Any] = {"__metadata__": metadata}
    ordered = sorted(tensors.items(), key=lambda item: (-DTYPES[item[1].dtype].itemsize, item[0]))
    end = 0
    for name, stored in ordered:
        begin, end = end, end + stored.size
        header[name] = {"dtype": stored.dtype, "shape": stored.shape, "data_offsets": (begin, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    buffer = memoryview(bytearray(CHUNK))
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, stored in ordered:
            stored.copy(file, buffer, advance)
