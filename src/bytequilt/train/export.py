"""Write a model directory from a sharded network; no process holds the whole network at any time."""

import json
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..files import replacing_folder, write_json
from ..interop.native import ModelConfig
from .rows import own
from .world import World

ROWS = 1 << 16  # rows of a sharded table that are gathered at a time


def export(folder: Path, config: ModelConfig, parts: dict[str, nn.Module | None], world: World) -> None:
    """Write a model directory of the networks `parts`, by the prefix of their weights' names. All processes must call
    this."""
    tensors = {
        f"{prefix}.{name}": weight.detach()
        for prefix, network in parts.items()
        if network is not None
        for name, weight in network.state_dict().items()
    }
    with replacing_folder(folder) if world.first else nullcontext() as partial, torch.no_grad():
        _write(partial / "model.safetensors" if partial else None, tensors)
        if partial:
            write_json(partial / "config.json", config.model_dump(mode="json"), indent=2)
            shutil.copymode(partial / "config.json", partial / "model.safetensors")
    world.total([0])


def _write(path: Path | None, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file in fp32. A process without a path only takes part in gathering."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, x in tensors.items():
        begin, end = end, end + 4 * x.numel()
        header[name] = {"dtype": "F32", "shape": list(x.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") if path else nullcontext() as file:
        if file:
            file.write(len(text).to_bytes(8, "little") + text)
        for x in tensors.values():
            for piece in _pieces(x):
                if file:
                    file.write(piece.float().cpu().contiguous().numpy().data)


def _pieces(x: Tensor) -> Iterator[Tensor]:
    """The rows of a tensor in order, in pieces. A table sharded by columns is gathered in several pieces, other tensors
    in one."""
    if not isinstance(x, DTensor):
        yield x
    elif not any(placement.is_shard(1) for placement in x.placements):
        yield x.full_tensor()
    else:
        for rows in own(x).split(ROWS):
            yield DTensor.from_local(rows.contiguous(), x.device_mesh, x.placements).full_tensor()
