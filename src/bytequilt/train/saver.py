"""What a distributed training writes: checkpoints, by the first process or in parts by all, and model directories.

Both kinds of checkpoints can be loaded by any number of processes. A sharded one uses torch.distributed.checkpoint
(DCP). It is written to a temporary folder while training continues, and renamed when every process has written its
part. DCP uses pickle, which model directories never do; these files stay in the run directory.
"""

import shutil
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.tensor import DTensor

from ..config import UserError, one_line
from ..files import read_json, remove_folder, replacing_folder, sync, write_json
from ..interop.native import STALE, ModelConfig
from ..interop.stored import safetensors_header
from . import checkpoint
from .checkpoint import DAMAGED, damaged, finished
from .optim import row_optimizers
from .parallel import is_sharded, place_of
from .rows import own
from .world import World

Optimizers = list[torch.optim.Optimizer]
ROWS = 1 << 16  # rows of a sharded table that are gathered at a time


class Saver:
    """Writes the checkpoints of a training: the first process an unsharded one, all processes a sharded one."""

    def __init__(self, folder: Path, network: nn.Module, optimizers: Optimizers, keep: int, world: World) -> None:
        self.folder, self.network, self.optimizers = folder, network, optimizers
        self.keep, self.world, self.sharded = keep, world, is_sharded(network)
        self.writing: tuple[Path, Future] | None = None
        """The sharded checkpoint that is being written, and when it is done."""
        if self.sharded:
            # own process group: a thread writes, and its messages must not mix with those of the steps
            self.group = dist.new_group(backend="gloo")
            if world.first:
                for path in folder.glob(".step-*.partial"):
                    shutil.rmtree(path)
            world.total([0])

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write an unsharded checkpoint of the present weights, or start writing a sharded one."""
        if not self.sharded:
            if self.world.first:
                checkpoint.save(self.folder, step, self.network, self.optimizers, state, self.keep)
            return
        self.publish()
        final = self.folder / f"step-{step:08d}"
        partial = self.folder / f".{final.name}.partial"
        tensors, groups = checkpoint.flatten(self.optimizers)
        tensors |= {f"model.{name}": weight.detach() for name, weight in self.network.state_dict().items()}
        if self.world.first:
            partial.mkdir(parents=True, exist_ok=True)
            write_json(partial / "state.json", state | {"step": step, "groups": groups})
        self.world.total([0])
        self.writing = final, dcp.async_save(tensors, checkpoint_id=partial, process_group=self.group)

    def part_written(self) -> bool:
        """True if this process has finished its part of a checkpoint that has not been published."""
        return self.writing is not None and self.writing[1].done()

    def publish(self) -> None:
        """Wait for the checkpoint that is being written, if any, and rename it to its final name. Raises UserError if a
        process could not write its part."""
        if self.writing is None:
            return
        (final, future), self.writing = self.writing, None
        try:
            future.result()
        except CheckpointException as error:  # DCP raises the error of one process in all processes
            (reason, _), *_ = error.failures.values()
            raise UserError(f"cannot write checkpoint {final}: {one_line(reason)}"[:300]) from None
        self.world.total([0])
        if self.world.first:
            partial = final.with_name(f".{final.name}.partial")
            sync(partial)
            if final.exists():  # left by a run that was set back to an earlier step
                remove_folder(final)
            partial.rename(final)
            sync(final.parent)
            for old in finished(self.folder)[: -self.keep]:
                remove_folder(old)
        self.world.total([0])


def restore(path: Path, network: nn.Module, optimizers: Optimizers) -> dict[str, Any]:
    """Load a checkpoint into network and optimizers, and return its other state. It may come from another number of
    processes. Raises UserError if it is damaged."""
    sharded = (path / ".metadata").is_file()
    if not sharded and not is_sharded(network):
        return checkpoint.restore(path, network, optimizers)
    try:
        state = read_json(path / "state.json")
        read_into = _read_sharded if sharded else _read_whole
        weights = {f"model.{name}": weight.detach() for name, weight in network.state_dict().items()}
        tensors = read_into(path, weights, lambda sizes: _empty(optimizers, sizes))
        checkpoint.unflatten(optimizers, tensors, state.pop("groups"))
    except DAMAGED as error:
        raise damaged(path, error) from None
    return state


def _empty(optimizers: Optimizers, size_of: Callable[[str], tuple[int, ...]]) -> dict[str, Tensor]:
    """Empty tensors for the optimizer state after a first step, by their names in the checkpoint."""
    tensors: dict[str, Tensor] = {}
    for i, optimizer in enumerate(optimizers):
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        for number, weight in enumerate(weights):
            if optimizer in row_optimizers([optimizer]):
                state = optimizer.state_dict()["state"][number]
                state |= {"drift_S": own(weight).new_zeros(size_of(f"{i}.{number}.drift_S"))}
                state = {name: x if name == "drift_S" else torch.zeros_like(x) for name, x in state.items()}
            else:
                state = {name: torch.zeros_like(weight.detach()) for name in ("exp_avg", "exp_avg_sq")}
                state["step"] = torch.zeros((), device=weight.device)
            tensors |= {f"{i}.{number}.{name}": x for name, x in state.items()}
    return tensors


def _read_sharded(path: Path, weights: dict[str, Tensor], empty: Callable) -> dict[str, Tensor]:
    sizes = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    tensors = empty(lambda name: tuple(sizes[name].size))
    with warnings.catch_warnings():  # PyTorch warns that only one process loads
        warnings.simplefilter("ignore")
        dcp.load(weights | tensors, checkpoint_id=path, no_dist=not dist.is_initialized())
    return tensors


def _read_whole(path: Path, weights: dict[str, Tensor], empty: Callable) -> dict[str, Tensor]:
    """Each process reads its part of every tensor."""
    with safe_open(path / "optimizer.safetensors", "pt") as file:
        tensors = empty(lambda name: tuple(file.get_slice(name).get_shape()))
        for name, x in tensors.items():
            _read_part(file.get_slice(name), x)
    with safe_open(path / "model.safetensors", "pt") as file:
        for name, x in weights.items():
            _read_part(file.get_slice(name.removeprefix("model.")), x)
    return tensors


def _read_part(stored: Any, x: Tensor) -> None:
    shape = tuple(stored.get_shape())
    if shape != tuple(x.shape):
        raise ValueError(f"a tensor has shape {shape} in the checkpoint, but {tuple(x.shape)} in the model")
    if not shape:
        own(x).copy_(stored[...])
        return
    if own(x).numel():
        own(x).copy_(stored[place_of(x)])


def export(folder: Path, config: ModelConfig, parts: dict[str, nn.Module | None], world: World) -> None:
    """Write a model directory of the networks `parts`, by the prefix of their weights' names. All processes must call
    this."""
    tensors = {
        f"{prefix}.{name}": weight.detach()
        for prefix, network in parts.items()
        if network is not None
        for name, weight in network.state_dict().items()
    }
    with replacing_folder(folder, stale=STALE) if world.first else nullcontext() as partial, torch.no_grad():
        _write(partial / "model.safetensors" if partial else None, tensors)
        if partial:
            write_json(partial / "config.json", config.model_dump(mode="json"), indent=2)
            shutil.copymode(partial / "config.json", partial / "model.safetensors")
    world.total([0])


def _write(path: Path | None, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file in fp32. A process without a path only takes part in gathering."""
    with path.open("wb") if path else nullcontext() as file:
        if file:
            file.write(safetensors_header({name: ("F32", x.shape) for name, x in tensors.items()}, {"format": "pt"}))
        for x in tensors.values():
            for piece in _pieces(x):
                if file:
                    file.write(piece.float().cpu().contiguous().numpy().data)


def _pieces(x: Tensor) -> Iterator[Tensor]:
    """The rows of a tensor in order: a table sharded by columns in several pieces, other tensors in one."""
    if not isinstance(x, DTensor):
        yield x
    elif not any(placement.is_shard(1) for placement in x.placements):
        yield x.full_tensor()
    else:
        for rows in own(x).split(ROWS):
            yield DTensor.from_local(rows.contiguous(), x.device_mesh, x.placements).full_tensor()
