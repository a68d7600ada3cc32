"""Training with several processes: FSDP2 sharding or replicas, applied to a network from outside; gradients are
all-reduced.

The loss is divided by the number of targets of all processes before the backward pass. So gradients are summed, not
averaged.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from ..config import TrainConfig, UserError
from ..model.embedding import Embedding
from ..model.hashing import HashEmbedding
from ..model.initial import DRAWN, init_normal
from ..model.layers import Block
from .columns import cut, group_size, tables_of
from .rows import Rows, own
from .world import World

# largest table (in numbers, 32 MB) whose whole gradient is all-reduced; for larger tables only the rows in use are sent
DENSE = 1 << 23


def check_parallel(config: TrainConfig, world: World) -> None:
    """Raise UserError for settings that this number of processes does not support."""
    if config.shard == "full" and world.size > 1 and config.optimizer == "muon":
        raise UserError(
            "Muon's updates depend on how matrices are cut by sharding: take optimizer = 'adamw', or shard = 'none'"
        )
    if config.precision == "bf16_gathered" and (config.shard != "full" or world.size == 1):
        raise UserError(
            "precision = 'bf16_gathered' is for several processes (torchrun) and shard = 'full'; otherwise take 'bf16'"
        )


def spread(network: nn.Module, config: TrainConfig, world: World, kind: str) -> None:
    """Shard a network over the processes of a world if the configuration says so. Every process passes the same
    network.

    Each process keeps only its shard, on a device of type `kind`; the full network is never on that device. A network
    on `meta` stays there until `fill`.
    """
    if not is_cut(config, world):
        return
    bf16 = torch.bfloat16 if config.precision == "bf16_gathered" else None
    # inputs are not cast, so rotary factors stay in fp32; everything after the tables is in bf16
    policy = MixedPrecisionPolicy(param_dtype=bf16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    columns = group_size(world.size, [table.weight.shape[1] for table in tables_of(network)])
    grid = init_device_mesh(kind, (world.size // columns, columns), mesh_dim_names=("copies", "columns"))
    mesh = init_device_mesh(kind, (world.size,), mesh_dim_names=("shards",))
    tables = cut(network, grid, bf16)
    for module in network.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh, mp_policy=policy)
    # The remaining weights are few and used by several methods, so they stay gathered until the backward pass.
    fully_shard(network, mesh=mesh, mp_policy=policy, reshard_after_forward=False, ignored_params=tables)
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo supports no other reduction


def fill(network: nn.Module, kind: str) -> None:
    """Initialise a network that was sharded on `meta`, on a device of type `kind`, with the weights of a single-process
    run.

    Every process draws all random numbers and keeps its shard. It never holds more than one full matrix or one block of
    table rows.
    """
    network.to_empty(device=kind)
    for module in network.modules():
        if isinstance(module, Embedding | HashEmbedding):
            for rows in range(0, len(module.weight), DRAWN):
                some_RD = torch.empty(min(DRAWN, len(module.weight) - rows), module.weight.shape[1])
                init_normal(some_RD, some_RD.shape[1])
                _, columns = place_of(module.weight)
                own(module.weight.detach())[rows : rows + len(some_RD)] = some_RD[:, columns]
        elif hasattr(module, "reset_parameters"):
            parts = dict(module._parameters)
            for name, weight in parts.items():
                module._parameters[name] = None if weight is None else nn.Parameter(torch.empty(weight.shape))
            module.reset_parameters()
            for name, weight in parts.items():
                if weight is not None:
                    own(weight.detach()).copy_(module._parameters[name].detach()[place_of(weight)])
                module._parameters[name] = weight


def place_of(x: Tensor) -> tuple[slice, ...]:
    """Slices that locate this process's shard in the full tensor."""
    part, begin = tuple(x.shape), (0,) * x.ndim
    if isinstance(x, DTensor):
        part, begin = compute_local_shape_and_global_offset(x.shape, x.device_mesh, x.placements)
    return tuple(slice(a, a + n) for a, n in zip(begin, part, strict=True))


def is_cut(config: TrainConfig, world: World) -> bool:
    """True if the configuration shards the network over several processes."""
    return config.shard == "full" and world.size > 1


def is_sharded(network: nn.Module) -> bool:
    """True if the network has been sharded."""
    return any(isinstance(weight, DTensor) for weight in network.parameters())


def sum_gradients(network: nn.Module, rows: list[Rows], world: World) -> None:
    """Sum the gradients of all processes, after the last backward pass of a step."""
    if world.size == 1:
        return
    if not is_sharded(network):
        _sum_flat([weight.grad for weight in network.parameters() if weight.grad is not None], None)
        for optimizer in rows:
            sum_rows(optimizer, None)
    else:  # FSDP has already summed the sharded gradients; replicated tables remain
        tables = [table.weight for table in tables_of(network)]
        if tables and tables[0].device_mesh.shape[0] > 1:
            group = tables[0].device_mesh.get_group("copies")
            _sum_flat([own(weight.grad) for weight in tables if weight.grad is not None], group)
            for optimizer in rows:
                sum_rows(optimizer, group)


def clip_sharded_(network: nn.Module, rows: list[Rows], largest: float) -> Tensor:
    """Scale the gradients of a sharded network so that their total norm is at most `largest`; returns the norm before
    scaling."""
    squares = []
    scaled = []
    copies = {id(table.weight): table.weight.device_mesh.shape[0] for table in tables_of(network)}
    for weight in network.parameters():
        if weight.grad is not None:
            scaled.append(grad := own(weight.grad))
            squares.append(grad.float().square().sum() / copies.get(id(weight), 1))
    for optimizer in rows:
        for weight in optimizer.moments:
            for view in optimizer.merged(weight):
                scaled.append(view.values_UD.grad)
                squares.append(view.values_UD.grad.square().sum() / copies[id(weight)])
    total = torch.stack(squares).sum()
    dist.all_reduce(total)
    norm = total.sqrt()
    torch._foreach_mul_(scaled, (largest / (norm + 1e-6)).clamp(max=1.0))  # the same formula as in clip_grad_norm_
    return norm


def _sum_flat(grads: list[Tensor], group: dist.ProcessGroup | None) -> None:
    """Sum all tensors over a process group in one all-reduce."""
    if not grads:
        return
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat, group=group)
    for grad, summed in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(summed.view_as(grad))


@torch.no_grad()
def sum_rows(optimizer: Rows, group: dist.ProcessGroup | None) -> None:
    """Sum the gradients of the table rows that the processes of a group have read; afterwards each row occurs once."""
    for weight in optimizer.moments:
        for view in optimizer.merged(weight):
            rows_U, grads_UD, size = view.rows_U, view.values_UD.grad, own(weight).shape
            if size.numel() <= DENSE or isinstance(rows_U, slice):
                grads_RD = grads_UD.new_zeros(size)
                if isinstance(rows_U, slice):
                    grads_RD[rows_U] = grads_UD
                else:
                    grads_RD.index_add_(0, rows_U, grads_UD)
                dist.all_reduce(grads_RD, group=group)
                optimizer.put(weight, [(slice(None), grads_RD)])
            else:
                more = 0 if optimizer.fixed else _most(len(rows_U), group) - len(rows_U)
                optimizer.put(weight, _everybodys(rows_U, grads_UD, more, group))


def _most(count: int, group: dist.ProcessGroup | None) -> int:
    most = torch.tensor(count)
    dist.all_reduce(most, dist.ReduceOp.MAX, group=group)
    return int(most)


def _everybodys(
    rows_U: Tensor, grads_UD: Tensor, more: int, group: dist.ProcessGroup | None
) -> list[tuple[Tensor, Tensor]]:
    """Rows and gradients of all processes, padded to equal length: the last row is repeated with a gradient of zero."""
    world = dist.get_world_size(group)
    rows_U = torch.cat([rows_U, rows_U[-1:].expand(more)])
    grads_UD = torch.cat([grads_UD, grads_UD.new_zeros(more, grads_UD.shape[1])])
    rows_WU = rows_U.new_empty(world * len(rows_U))
    grads_WUD = grads_UD.new_empty(world * len(rows_U), grads_UD.shape[1])
    parts = list(zip(rows_WU.chunk(world), grads_WUD.chunk(world), strict=True))
    dist.all_gather([rows for rows, _ in parts], rows_U, group=group)
    dist.all_gather([grads for _, grads in parts], grads_UD, group=group)
    return parts
