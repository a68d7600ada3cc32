"""A dry run: what training needs on each of N GPUs, computed without GPU, data or weights.

Parameters, gradients and optimizer state are counted exactly, on the objects that training itself creates (see
`rehearsal`), for the first process, which has the largest share. The other figures are formulas. Activations are summed
over the tensors that the backward pass keeps, rounded up. A fixed allowance covers the allocator, the CUDA context and
the buffers of collectives.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import nn

from ..config import Draft, Recipe, StackConfig, TrainConfig, UserError
from ..data.streams import check_deal
from ..info import patch_bytes
from ..interop.names import unfilled
from ..model.blt import BLT
from ..model.flops import entropy_flops, flops_per_byte
from ..model.layers import Block
from .checks import complete
from .columns import group_size, tables_of
from .parallel import DENSE, check_parallel
from .rehearsal import look_ups, rehearse
from .world import World

GpuName = Literal["h100", "h200", "b200", "a100"]
ALLOWANCE = 3e9
"""Bytes per GPU for the CUDA context, the buffers of collectives, and memory that the allocator cannot use."""
MFU = 0.33
"""Assumed model FLOPs utilisation, without recomputation: torchtitan reports 33 to 39 % for Llama 3.1 8B on 128
H100."""
REPORTED = (
    ("torchtitan, Llama 3.1 8B, 128 H100, compiled", 43_000),
    ("Olmo 3 7B, restarts included", 39_000),
    ("Llama 3.1 8B, from recollection", 97_000),
)
"""H100-hours per trillion tokens that other training runs reported."""
KWH = 0.62 / 700
"""Energy in kWh of a GPU-hour per watt of the GPU's rating, for the whole machine (Olmo 3 on H100)."""


@dataclass(frozen=True)
class Gpu:
    """Data of a GPU type: memory in bytes, FLOPs per second, power in watts."""

    memory: float
    flops: float
    """Dense bf16 FLOPs per second."""
    watts: float


GPUS = {
    "h100": Gpu(80e9, 989e12, 700),
    "h200": Gpu(141e9, 989e12, 700),
    "b200": Gpu(180e9, 2250e12, 1000),
    "a100": Gpu(80e9, 312e12, 400),
}


@dataclass(frozen=True)
class Memory:
    """Memory of one GPU in bytes, by use. `peak` is the total without the allowance."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    gathered: int
    """Weights gathered from other processes, and gradients before they are sent to their owners."""
    tables: int
    """Table rows that a step reads, and buffers for exchanging their sums."""
    updating: int
    """Temporary memory of the optimizer of table rows, at a time when activations are already freed."""

    @property
    def peak(self) -> int:
        state = self.parameters + self.gradients + self.optimizer + self.tables
        return state + max(self.activations + self.gathered, self.updating)


def dry_run(draft: Draft, world: int, gpu: GpuName) -> dict[str, Any]:
    """The memory, time and communication of training a recipe's BLT on `world` GPUs. Raises UserError if the steps
    cannot be divided among that number of processes."""
    if world < 1:
        raise UserError(f"--gpus must be at least 1, not {world}")
    recipe, kind = complete(draft), GPUS[gpu]
    check_parallel(recipe.train, World(0, world))
    check_deal(recipe.train.accumulate, recipe.data.streams, world)
    memory = memory_of(recipe, world)
    train = recipe.train
    step_bytes = train.rows * train.row_bytes * train.accumulate
    flops = 3 * flops_per_byte(recipe.model, None, patch_bytes(recipe.patching), train.row_bytes)["total"]
    hours = train.steps * step_bytes * flops / kind.flops / MFU / 3600
    scoring = entropy_flops(recipe.entropy, train.row_bytes) / train.row_bytes if recipe.entropy else 0.0
    return {
        "world": world,
        "gpu": gpu,
        "shard": train.shard,
        "streams": recipe.data.streams,
        "rows": train.rows,
        "accumulate": train.accumulate,
        "recomputed": train.checkpoint_activations,
        "per_gpu": {**asdict(memory), "peak": memory.peak, "limit": int(kind.memory - ALLOWANCE)},
        "fits": memory.peak + ALLOWANCE <= kind.memory,
        "sent_per_step": sent(recipe, world),
        "steps": train.steps,
        "step_bytes": step_bytes,
        "bytes": train.steps * step_bytes,
        "flops_per_byte": flops,
        "mfu": MFU,
        "gpu_hours": hours,
        "days": hours / world / 24,
        "mwh": hours * KWH * kind.watts / 1000,
        "scoring_gpu_hours": train.steps * step_bytes * scoring / kind.flops / MFU / 3600,
        "reported": [{"run": run, "h100_hours_per_trillion_tokens": hours} for run, hours in REPORTED],
    }


def memory_of(recipe: Recipe, world: int) -> Memory:
    """Memory in bytes of the first of `world` processes."""
    state, network = rehearse(recipe, world), unfilled(BLT, recipe.model)
    cut = world if recipe.train.shard == "full" and world > 1 else 1
    columns = group_size(cut, [table.weight.shape[1] for table in tables_of(network)])
    largest = max(state.touched, default=0)
    return Memory(
        state.parameters,
        state.gradients,
        state.optimizer,
        activations(recipe),
        _gathered(network, recipe.train) if cut > 1 else 0,
        # a backward pass adds its gradient to that of the earlier passes of the step
        sum(state.touched) + largest + (_exchange(recipe, columns) if cut > 1 else 0),
        5 * largest,
    )


def _exchange(recipe: Recipe, columns: int) -> int:
    """Bytes for the ids of all processes, their table rows, and the sums that are sent back."""
    config, model = recipe.train, recipe.model
    ids = config.rows * config.row_bytes
    return columns * ids * (12 + 2 * 8 * model.hash.tables) + 3 * 4 * ids * model.encoder.dim


def _gathered(network: nn.Module, config: TrainConfig) -> int:
    """Bytes of gathered weights with fp32 gradients: all outside of blocks, a block in use, and one being fetched."""
    size = {"bf16_gathered": 2, "bf16": 6}.get(config.precision, 4)  # autocast keeps a bf16 copy too
    blocks = [sum(w.numel() for w in m.parameters()) for m in network.modules() if isinstance(m, Block)]
    tables = sum(table.weight.numel() for table in tables_of(network))
    outside = sum(w.numel() for w in network.parameters()) - sum(blocks) - tables
    return (outside + 2 * max(blocks)) * (size + 4)


def activations(recipe: Recipe) -> int:
    """Bytes that the forward pass of a batch keeps for its backward pass."""
    config, model = recipe.train, recipe.model
    narrow = 4 if config.precision in ("fp32", "auto") else 2  # bytes per number inside blocks
    stream = 2 if config.precision == "bf16_gathered" else 4  # bytes per number of the residual stream between blocks
    ids = config.rows * config.row_bytes
    patches = config.rows * (config.row_patches or config.row_bytes)
    stacks = [(model.encoder, ids), (model.latent, patches), (model.decoder, ids)]
    inner = [stack.layers * _block(stack, n, narrow, stream) for stack, n in stacks]
    largest = max(_block(stack, n, narrow, stream) for stack, n in stacks)
    between = sum(stack.layers * n * stack.dim * stream for stack, n in stacks)
    dim, slots = model.encoder.dim, model.slots
    reading = {"all": model.encoder.layers, "last": 1, "none": 0}[model.encoder_cross]
    layers = {"all": model.decoder.layers, "first": 1, "none": 0}[model.decoder_cross]
    product = ids * slots * dim
    cross = product * (6 * narrow + 4) + ids * dim * (4 * narrow + stream) + patches * slots * dim * 4 * narrow
    kept = (reading + layers) * (ids * dim + patches * slots * dim) * stream
    slots_kept = (6 + 4 * layers) * patches * slots * dim * narrow + 3 * patches * model.latent.dim * stream
    head = ids * (dim * (narrow + stream) + 260 * 12)
    if config.checkpoint_activations:
        return between + kept + slots_kept + head + 2 * max(largest, cross)
    return sum(inner) + (reading + layers) * cross + slots_kept + head + largest


def _block(stack: StackConfig, positions: int, narrow: int, stream: int) -> int:
    """Bytes that a transformer block keeps for its backward pass."""
    wide = stack.dim * (9 * narrow + 3 * stream + 8)  # norms, queries, keys and values, rotated in fp32, sums
    return positions * (wide + 4 * stack.hidden_dim * narrow)


def sent(recipe: Recipe, world: int) -> int:
    """Bytes that one process sends in a step."""
    if world == 1:
        return 0
    config, network = recipe.train, unfilled(BLT, recipe.model)
    tables = sum(table.weight.numel() for table in tables_of(network))
    dense = sum(weight.numel() for weight in network.parameters()) - tables
    others = (world - 1) / world
    if config.shard == "full":
        size = 2 if config.precision == "bf16_gathered" else 4
        columns = group_size(world, [table.weight.shape[1] for table in tables_of(network)])
        ids = config.rows * config.row_bytes
        vectors = (columns - 1) / columns * ids * (4 * columns + 2 * size * recipe.model.encoder.dim)
        copies = 8 * tables / columns if columns < world else 0
        return int(config.accumulate // world * (others * dense * (2 * size + 4) + vectors) + copies)
    rows = 0
    for table in tables_of(network):
        if table.weight.numel() <= DENSE or config.table_optimizer == "dense":
            dense += table.weight.numel()
        else:
            rows += look_ups(table, config) * config.accumulate // world * (4 * table.weight.shape[1] + 8)
    return int(2 * others * 4 * dense + (world - 1) * rows)
