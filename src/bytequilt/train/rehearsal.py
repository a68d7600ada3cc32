"""The memory of a training, counted on its own objects: network and optimizers are built and sharded as in a real run.

Tensors have no memory (PyTorch's FakeTensorMode), and the other processes do not exist (PyTorch's "fake" process
group). Forward and backward passes are not executed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from ..config import Recipe, TrainConfig
from ..interop.names import unfilled
from ..model.blt import BLT
from ..model.hashing import HashEmbedding
from . import checkpoint
from .columns import Table
from .optim import optimizers_of, row_optimizers
from .parallel import spread, sum_gradients
from .rows import Rows, own
from .world import ALONE, World


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that the first process of a training needs between its last backward pass and its optimizer step."""

    parameters: int
    gradients: int
    optimizer: int
    touched: tuple[int, ...]
    """For each table, the bytes of the rows that a step reads; their gradients need the same amount."""


def rehearse(recipe: Recipe, size: int) -> TrainingMemory:
    """Bytes that training a recipe's BLT needs on the first of `size` GPUs, exactly."""
    config, network = recipe.train, unfilled(BLT, recipe.model)
    with _fake_world(size) as world:
        spread(network, config, world, "cpu")
        with FakeTensorMode(allow_non_fake_inputs=True):
            network.to_empty(device="cpu")
            chosen = optimizers_of(network, config)
            _put_gradients(network, row_optimizers(chosen), config, config.accumulate // size)
            sum_gradients(network, row_optimizers(chosen), world)
            return _memory_of(network, chosen, config.steps)


@contextmanager
def _fake_world(size: int) -> Iterator[World]:
    """A world of `size` processes, of which only this one exists; collectives return at once."""
    if size == 1:
        yield ALONE
        return
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
    try:
        yield World(0, size)
    finally:
        dist.destroy_process_group()


def _put_gradients(network: nn.Module, rows: list[Rows], config: TrainConfig, batches: int) -> None:
    """Create gradients as after `batches` forward and backward passes in which no n-gram occurs twice."""
    behind = {weight for optimizer in rows for weight in optimizer.moments}
    for weight in network.parameters():
        if weight not in behind:
            weight.grad = torch.empty_like(weight)
    for optimizer in rows:
        optimizer.fixed = True  # as on a GPU
        for table in optimizer.tables * batches:
            assert table.gather is not None
            values_UD, _ = table.gather(torch.empty(look_ups(table, config), dtype=torch.int64))
            values_UD.grad = torch.empty_like(values_UD)


def look_ups(table: Table, config: TrainConfig) -> int:
    """Number of rows that a batch looks up in a table, by all processes that share its columns."""
    weight, tables = table.weight, table.config.tables if isinstance(table, HashEmbedding) else 1
    sharing = weight.device_mesh["columns"].size() if isinstance(weight, DTensor) else 1
    return sharing * config.rows * config.row_bytes * tables


def _memory_of(network: nn.Module, chosen: list[torch.optim.Optimizer], steps: int) -> TrainingMemory:
    rows, weights = row_optimizers(chosen), list(network.parameters())
    leaves = [leaf for optimizer in rows for leaf in optimizer.leaves()]
    gradients = [own(weight.grad) for weight in weights if weight.grad is not None]
    for optimizer in chosen:
        if not isinstance(optimizer, Rows):  # `Rows` created its state when it was built
            optimizer.step()
    for moments in (moments for optimizer in rows for moments in optimizer.moments.values()):
        while len(moments.drift_S) <= steps:  # the capacity of the drift doubles when it is full
            moments.drift_S = torch.cat([moments.drift_S, moments.drift_S])
    tensors, _ = checkpoint.flatten(chosen)
    state = [own(x) for name, x in tensors.items() if not name.endswith(".weight")]
    touched = tuple(leaf.nbytes for leaf in leaves)
    return TrainingMemory(
        _bytes([own(weight) for weight in weights]), _bytes(gradients) + sum(touched), _bytes(state), touched
    )


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(x.nbytes for x in tensors)
