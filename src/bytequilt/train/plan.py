"""The plan of a run: corpus size, parameters, memory and time, estimated from a few measured steps. Nothing is kept."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from ..config import Draft, EntropyConfig, Recipe, RuleConfig, TrainConfig, UserError
from ..data.batches import Batches
from ..data.corpus import Corpus
from ..data.shards import write_corpus_shard
from ..data.sources import Document
from ..info import parameters, patch_bytes, scorer_of
from ..lm import LM
from ..model.blt import BLT
from ..model.entropy import EntropyModel
from ..model.flops import CONTEXT, entropy_flops, flops_per_byte
from ..patching.patcher import Patcher
from .checks import check_recipe, complete, least_memory
from .device import device_of, memory_of_machine, uses_bf16
from .loop import step
from .optim import optimizers_of
from .tasks import EntropyTask, LanguageTask

MEASURED = 3
"""Number of timed steps; one untimed step comes first."""
BACKWARD = 2
"""Cost of a backward pass in forward passes. Evaluation has no backward pass."""
WEIGHT_BYTES = 16
"""Bytes per parameter in training: weight, gradient and two moments in fp32."""
SCORED = 20_000
"""Largest number of bytes on which entropy computation is timed."""
WORK = 1e11
"""Largest number of FLOPs of a measured step, so that a plan takes seconds. A larger step is cut, its time scaled."""
LEAST_ROW = 64
"""Smallest number of bytes of a row that is measured."""
ENOUGH = 2.0
"""Seconds of measuring after which no further step is timed."""

Stage = tuple[TrainConfig, EntropyConfig | Recipe]


class Counts:
    """Number of documents and bytes of a corpus, and its first `enough` bytes of documents as a sample."""

    def __init__(self, corpus: Corpus, enough: int) -> None:
        self.documents = {"train": 0, "held_out": 0}
        self.bytes = {"train": 0, "held_out": 0}
        self.sample: list[Document] = []
        for apart, _, document in corpus.documents():
            part = "held_out" if apart else "train"
            if not apart and self.bytes["train"] < enough:
                self.sample.append(document)
            self.documents[part] += 1
            self.bytes[part] += len(document.data)


def plan(draft: Draft) -> dict[str, Any]:
    """The plan of a recipe's run. It leaves no files: measurements use a temporary folder.

    `memory_bytes` covers weights, gradients, moments and activations (measured, or else the least there can be), for
    the larger of the two trainings. `seconds` is an estimate for this machine under its present load; it is None if the
    model does not fit into memory. Raises UserError where the run itself would.
    """
    recipe = complete(draft)
    check_recipe(recipe)
    stages = _stages(recipe)
    room = max(config.rows * config.accumulate * config.row_bytes for config, _ in stages.values())
    corpus = Counts(Corpus(recipe.data), (MEASURED + 2) * room)
    if not corpus.documents["train"] or not corpus.documents["held_out"]:
        raise UserError("no text is left to train on or to hold out: give more text, or sources in `val`")
    counted = _parameters(recipe)
    memory, seconds = WEIGHT_BYTES * max(counted["blt"] + counted["tables"], counted["entropy"]), None
    least = max((weights + batch for _, _, weights, batch in least_memory(recipe)), default=0)
    if max(memory, least) < memory_of_machine() / 2:
        measured = _measured(stages, corpus)
        memory += max(activations for _, activations in measured.values())
        a_byte = scoring_seconds(recipe, corpus.sample[0].data[:SCORED])
        seconds = _seconds(corpus.bytes, stages, {name: time for name, (time, _) in measured.items()}, a_byte)
    memory = max(memory, least)
    return {
        "documents": corpus.documents,
        "bytes": corpus.bytes,
        "parameters": counted,
        "steps": {name: config.steps for name, (config, _) in stages.items()},
        "trained_bytes": {name: c.steps * c.rows * c.accumulate * c.row_bytes for name, (c, _) in stages.items()},
        "memory_bytes": memory,
        "seconds": seconds,
    }


def _measured(stages: dict[str, Stage], corpus: Counts) -> dict[str, tuple[float, int]]:
    """For each stage: seconds per step, and bytes of activations."""
    size = sum(len(document.data) for document in corpus.sample)
    about = {"corpus": "plan", "documents": [len(corpus.sample)], "bytes": [size]}
    with TemporaryDirectory(prefix="bytequilt-") as folder:
        write_corpus_shard(Path(folder) / "000000.parquet", [(0, document) for document in corpus.sample], about)
        return {name: measure(config, shape, Path(folder)) for name, (config, shape) in stages.items()}


def _stages(recipe: Recipe) -> dict[str, Stage]:
    """The trainings of a recipe in order: for each stage, its training options and its network's configuration."""
    stages: dict[str, Stage] = {}
    # the patcher is copied from the original model
    brought = recipe.train.init is not None and recipe.patching.calibrated is not None
    if recipe.patching.needs_entropy and recipe.entropy and recipe.entropy_train and not brought:
        stages["entropy"] = recipe.entropy_train, recipe.entropy
    return stages | {"blt": (recipe.train, recipe)}


def _parameters(recipe: Recipe) -> dict[str, int]:
    """Number of parameters: of the BLT without tables, of its tables, and of the entropy model."""
    counted = parameters(recipe.model, scorer_of(recipe))
    return {"blt": counted["total"] - counted["hash"], "tables": counted["hash"], "entropy": counted["entropy"]}


def _task(shape: EntropyConfig | Recipe) -> tuple[EntropyTask | LanguageTask, RuleConfig | None]:
    """The training task of a stage without held-out text, and a fixed rule with the recipe's mean patch size."""
    if isinstance(shape, EntropyConfig):
        return EntropyTask(EntropyModel(shape), []), None
    rule = RuleConfig(kind="fixed", stride=max(1, round(patch_bytes(shape.patching))))
    return LanguageTask(LM(BLT(shape.model), Patcher(rule)), []), rule


def measure(config: TrainConfig, shape: EntropyConfig | Recipe, shards: Path) -> tuple[float, int]:
    """Seconds per step of a training, and bytes of the activations of one batch. A large step is measured in part."""
    torch.manual_seed(config.seed)
    part = cut(config, _flops(shape))
    task, rule = _task(shape)
    network = task.network.to(device_of(part)).train()
    chosen, bf16 = optimizers_of(network, part), uses_bf16(part, network)
    Batches(shards, config, rule)  # raises for a corpus smaller than a batch
    batches = Batches(shards, part, rule)
    begun = time.perf_counter()
    with saved_bytes(network) as saved:
        step(task, [next(batches)], chosen, part, bf16)
    seconds = [(time.perf_counter() - begun) * part.accumulate]  # of a first step, where it is the only one
    while len(seconds) <= MEASURED and time.perf_counter() - begun < ENOUGH:
        before = time.perf_counter()
        step(task, [next(batches) for _ in range(part.accumulate)], chosen, part, bf16)
        seconds.append(time.perf_counter() - before)
    later = sorted(seconds[1:] or seconds)
    batch = config.rows * config.row_bytes / (part.rows * part.row_bytes)
    return later[len(later) // 2] * batch * config.accumulate / part.accumulate, round(sum(saved.values()) * batch)


def cut(config: TrainConfig, flops: float) -> TrainConfig:
    """A training with fewer batches per step, fewer and shorter rows, if a step at `flops` per byte has more FLOPs than
    WORK."""
    room = WORK / ((1 + BACKWARD) * flops)
    sizes = {"accumulate": config.accumulate, "rows": config.rows, "row_bytes": config.row_bytes}
    for name, least in (("accumulate", 1), ("rows", 1), ("row_bytes", LEAST_ROW)):
        others = math.prod(size for other, size in sizes.items() if other != name)
        sizes[name] = min(sizes[name], max(least, int(room / others)))
    return config.model_copy(update=sizes | ({} if sizes["row_bytes"] == config.row_bytes else {"row_patches": None}))


def _flops(shape: EntropyConfig | Recipe) -> float:
    """FLOPs per byte of a forward pass of a stage's network."""
    if isinstance(shape, EntropyConfig):
        return entropy_flops(shape, CONTEXT) / CONTEXT
    return flops_per_byte(shape.model, None, patch_bytes(shape.patching))["total"]


@contextmanager
def saved_bytes(network: nn.Module) -> Iterator[dict[int, int]]:
    """Collects the bytes that a forward pass saves for its backward pass, by memory address; weights are excluded."""
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield saved


def scoring_seconds(recipe: Recipe, sample: bytes) -> float:
    """Seconds to compute the entropy of one byte."""
    shape = scorer_of(recipe)
    if shape is None or not recipe.patching.needs_entropy:
        return 0.0
    patcher = Patcher(RuleConfig(kind="entropy", threshold=0.0), EntropyModel(shape).to(device_of(recipe.train)))
    sample = sample[: max(LEAST_ROW, int(WORK / _flops(shape)))]
    begun = time.perf_counter()
    patcher.entropies([sample])
    return (time.perf_counter() - begun) / max(1, len(sample))


def _seconds(
    size: dict[str, int], stages: dict[str, Stage], measured: dict[str, float], a_byte: float
) -> dict[str, float]:
    """Estimated seconds of each stage (training with evaluation, `prepare`, `report`) and their `total`."""
    seconds, reading = {}, 0.0
    for name, (config, _) in stages.items():
        reading = measured[name] / (config.rows * config.accumulate * config.row_bytes) / (1 + BACKWARD)
        looks = math.ceil(config.steps / config.eval_every) * min(config.eval_bytes, size["held_out"])
        seconds[name] = config.steps * measured[name] + looks * reading
    seconds["prepare"] = size["train"] * a_byte
    seconds["report"] = size["held_out"] * (reading + 2 * a_byte)
    rounded = {name: round(value, 1) for name, value in seconds.items()}
    return rounded | {"total": round(sum(seconds.values()), 1)}
