"""Checkpoints of any world: whole ones by one process, sharded ones by all, each read by any number of processes.

A sharded checkpoint is one of torch.distributed.checkpoint (DCP). It is written while training goes on, beside the
others under a temporary name, and gets its own when every process has written its part. Its parts are pickled, which no
model directory is; they stay in the run directory.
"""

import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint import CheckpointException

from ..config import UserError, one_line
from ..files import read_json, remove_folder, sync, write_json
from . import checkpoint
from .checkpoint import DAMAGED, damaged, found
from .optim import row_optimizers
from .parallel import is_sharded, place_of
from .rows import own
from .world import World

Optimizers = list[torch.optim.Optimizer]


class Saver:
    """Writes whole checkpoints: the first process for all."""

    def __init__(self, folder: Path, network: nn.Module, optimizers: Optimizers, keep: int, world: World) -> None:
        self.folder, self.network, self.optimizers = folder, network, optimizers
        self.keep, self.world = keep, world

    @staticmethod
    def of(folder: Path, network: nn.Module, optimizers: Optimizers, keep: int, world: World) -> "Saver":
        """One that suits the network."""
        kind = ShardedSaver if is_sharded(network) else Saver
        return kind(folder, network, optimizers, keep, world)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Begin to write a checkpoint: of the weights as they are now."""
        if self.world.first:
            checkpoint.save(self.folder, step, self.network, self.optimizers, state, self.keep)

    def written(self) -> bool:
        """Whether this process has written its part of a checkpoint that has no name yet."""
        return False

    def publish(self) -> None:
        """Wait for the checkpoint being written, and give it its name."""


class ShardedSaver(Saver):
    """Writes sharded checkpoints, each process its own part."""

    writing: tuple[Path, Future] | None = None

    def __init__(self, *options: Any) -> None:
        super().__init__(*options)
        self.group = dist.new_group(backend="gloo")  # another thread's, so its messages must not mix with the steps'
        if self.world.first:
            for path in self.folder.glob(".step-*.partial"):
                shutil.rmtree(path)
        self.world.total([0])

    def save(self, step: int, state: dict[str, Any]) -> None:
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

    def written(self) -> bool:
        return self.writing is not None and self.writing[1].done()

    def publish(self) -> None:
        """Raises UserError where a process could not write its part."""
        if self.writing is None:
            return
        (final, future), self.writing = self.writing, None
        try:
            future.result()
        except CheckpointException as error:  # that of whoever could not write, raised by all
            (reason, _), *_ = error.failures.values()
            raise UserError(f"cannot write checkpoint {final}: {one_line(reason)}"[:300]) from None
        self.world.total([0])
        if self.world.first:
            partial = final.with_name(f".{final.name}.partial")
            sync(partial)
            if final.exists():  # of a run that went back
                remove_folder(final)
            partial.rename(final)
            sync(final.parent)
            for old in found(self.folder)[: -self.keep]:
                remove_folder(old)
        self.world.total([0])


# ------------------------------------------------------------------------------------------------------------ restore


def restore(path: Path, network: nn.Module, optimizers: Optimizers) -> dict[str, Any]:
    """Put a checkpoint back and return its state, whatever world it is of. Raises UserError where it is damaged."""
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
    """Tensors of the shapes that the state of optimizers has once they have taken a step, by their names in files."""
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
    with warnings.catch_warnings():  # that this is one process is no news
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
        raise ValueError(f"a tensor is {shape} there, and here {tuple(x.shape)}")
    if not shape:
        own(x).copy_(stored[...])
        return
    if own(x).numel():
        own(x).copy_(stored[place_of(x)])
