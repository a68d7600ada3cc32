"""Embedding tables sharded by columns: each process stores some columns of every row.

A table is never gathered. Instead the ids of all processes are gathered, since they are few. Each process looks up its
columns for all ids and sums the n-grams of each byte. An all-to-all then returns the sums to the process that owns the
byte. So one vector per byte is sent, and not one per n-gram.
"""

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from ..model.embedding import Embedding
from ..model.encoder import Encoder
from ..model.hashing import HashEmbedding

Table = Embedding | HashEmbedding


def tables_of(network: nn.Module) -> list[Table]:
    return [module for module in network.modules() if isinstance(module, Embedding | HashEmbedding)]


def group_size(world: int, widths: list[int]) -> int:
    """Number of processes that share the columns of tables with these widths: the largest divisor of the world size and
    of every width."""
    return max(size for size in range(1, world + 1) if not world % size and not any(w % size for w in widths))


def cut(network: nn.Module, mesh: DeviceMesh, dtype: torch.dtype | None) -> set[nn.Parameter]:
    """Shard the tables of a network by columns over the last axis of a mesh, and return their weights. Tables are
    replicated along the other axis. Vectors are sent in `dtype`, by default in fp32."""
    exchange = Exchange(mesh["columns"], dtype)
    placements = [Replicate(), Shard(1)]
    for table in tables_of(network):
        part = table.weight.detach().chunk(mesh["columns"].size(), 1)[mesh["columns"].get_local_rank()]
        if not part.is_meta:  # a meta tensor has no values to copy
            part = part.to(mesh.device_type, copy=True, memory_format=torch.contiguous_format)
        table.weight = nn.Parameter(DTensor.from_local(part, mesh, placements, run_check=False))
        table.forward = partial(exchange.lookup, [table])  # type: ignore[method-assign]
    for encoder in network.modules():
        # the sum of both look-ups is needed, so one exchange sends it
        if isinstance(encoder, Encoder) and encoder.hash is not None:
            embed, table = encoder.embed, encoder.hash
            table.forward = partial(exchange.lookup, [embed, table])  # type: ignore[method-assign]
            embed.forward = exchange.zero  # type: ignore[method-assign]
    return {table.weight for table in tables_of(network)}


class Exchange:
    """Look-ups in tables that are sharded by columns over a process group."""

    def __init__(self, mesh: DeviceMesh, dtype: torch.dtype | None) -> None:
        self.group, self.size = mesh.get_group(), mesh.size()
        self.dtype = dtype or torch.float32

    def zero(self, ids_BN: Tensor) -> Tensor:
        """A zero in place of a table's vectors, which the look-up of another table already includes."""
        return torch.zeros(1, dtype=self.dtype, device=ids_BN.device)

    def lookup(self, tables: list[Table], ids_BN: Tensor, *_: Any) -> Tensor:
        """The vectors (B, N, d) of this process's ids, summed over the tables."""
        every_WBN = ids_BN.new_empty(self.size * len(ids_BN), ids_BN.shape[1], dtype=torch.int32)
        dist.all_gather(list(every_WBN.chunk(self.size)), ids_BN.int(), group=self.group)
        parts = [type(table).forward(table, every_WBN.long()) for table in tables]
        columns_WSc = sum(parts[1:], parts[0]).to(self.dtype).flatten(0, 1).unflatten(0, (self.size, -1))
        return ToOwners.apply(columns_WSc, self.group).view(*ids_BN.shape, -1)


class ToOwners(torch.autograd.Function):
    """All-to-all: from some columns for the bytes of all processes (W, S, c) to all columns for this process's bytes
    (S, W * c)."""

    @staticmethod
    def forward(ctx: Any, columns_WSc: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _all_to_all(columns_WSc, group).transpose(0, 1).flatten(1)

    @staticmethod
    def backward(ctx: Any, grads_Sd: Tensor) -> tuple[Tensor, None]:
        return _all_to_all(grads_Sd.unflatten(1, (ctx.group.size(), -1)).transpose(0, 1), ctx.group), None


def _all_to_all(x_W: Tensor, group: dist.ProcessGroup) -> Tensor:
    x_W = x_W.contiguous()  # all_to_all_single ignores strides, so a transposed tensor would be sent in the wrong order
    got_W = torch.empty(x_W.shape, dtype=x_W.dtype, device=x_W.device)
    dist.all_to_all_single(got_W, x_W, group=group)
    return got_W
