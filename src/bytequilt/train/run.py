"""The stages of a recipe: corpus, entropy model, threshold, shards, BLT, report. A finished stage is not repeated."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config import Config, DataConfig, Draft, EntropyConfig, PatchingConfig, Recipe, TrainConfig, UserError
from ..data.batches import Batches, packed
from ..data.on_ray import check_ray, score_on_ray
from ..data.prepare import ingest, read_manifest, score
from ..data.shards import held_out, sample_documents
from ..data.streams import Streams, check_deal
from ..files import read_json, write_json
from ..interop.directory import load_entropy, write_model
from ..interop.native import FORMAT, ModelConfig
from ..lm import LM, load
from ..model.blt import BLT
from ..model.entropy import EntropyModel
from ..model.ngram import NgramEntropy
from ..patching.patcher import Patcher
from ..view.progress import console, progress
from . import checkpoint
from .checks import check_memory, check_recipe, complete
from .claim import claimed, share_claim
from .device import device_of, uses_bf16
from .loop import Progress, Task, fit
from .parallel import check_parallel, is_cut, is_sharded
from .report import write_report
from .saver import export
from .tasks import EntropyTask, LanguageTask, PackedTask
from .world import ALONE, World, join_world

AGAIN = "{}: this task has done its share of the stage; run it again when the others have ended"


def train(draft: Draft, folder: Path) -> dict[str, Any] | None:
    """Run the missing stages of a recipe in its run directory. Returns the report in the first process, None in the
    others."""
    with join_world(draft.train.timeout, draft.train.device) as world:
        recipe = complete(draft)
        check_recipe(recipe)
        if world.size == 1:
            check_memory(recipe)
        check_parallel(recipe.train, world)
        check_deal(recipe.train.accumulate, recipe.data.streams, world.size)
        with claimed_by_all(recipe, folder, world):
            if not ((folder / "report.json").is_file() and (folder / "model" / "config.json").is_file()):
                patcher = stages_to_shards(recipe, folder, world)
                lm, done = blt_stage(recipe, folder, patcher, world)
                return write_report(recipe, folder, lm, done) if world.first else None
            return read_json(folder / "report.json") if world.first else None


def prepare(draft: Draft, folder: Path, ray: str | None = None) -> Patcher:
    """Run the stages of a recipe up to the shards, in its run directory; several processes may share the work.

    `ray` is the address of a Ray cluster that computes the entropies. Processes without a common address (a job array)
    do their share of a stage and end; UserError is raised if the next stage needs the other processes' results.
    """
    if ray is not None:
        check_ray()
    with join_world(draft.train.timeout, draft.train.device, apart=True) as world:
        recipe = complete(draft)
        check_recipe(recipe)
        with claimed_by_all(recipe, folder, world):
            return stages_to_shards(recipe, folder, world, ray)


@contextmanager
def claimed_by_all(recipe: Recipe, folder: Path, world: World) -> Iterator[None]:
    """The first process locks the run directory for all. The processes of a job array share it without a lock."""
    if world.apart:
        share_claim(recipe, folder)
        yield
        return
    with claimed(recipe, folder) if world.first else nullcontext():
        world.wait()
        yield


def stages_to_shards(recipe: Recipe, folder: Path, world: World = ALONE, ray: str | None = None) -> Patcher:
    """Run the stages corpus, entropy model, threshold and shards; returns the patcher."""
    ingest(recipe.data, folder / "corpus")
    world.wait()
    manifest = ingest(recipe.data, folder / "corpus")  # now the shards of all processes are counted
    if world.apart and read_manifest(folder / "corpus") is None:
        raise UserError(AGAIN.format("other tasks have not written their shards of the corpus yet"))
    console.print(
        f"corpus: {manifest['train']['documents']:,} documents, {manifest['train']['bytes'] / 1e6:.1f} MB to train on, "
        f"{manifest['val']['bytes'] / 1e6:.2f} MB held out"
    )
    patcher = _patcher(recipe, folder, world)
    if patcher.rule.needs_entropy:
        with progress() as bar:
            line = bar.add_task("prepare", total=manifest["train"]["bytes"])
            places, advance = (folder / "corpus", folder / "shards"), lambda done: bar.update(line, advance=done)
            if ray is None:
                score(*places, patcher, advance)
            else:
                score_on_ray(*places, patcher, ray, advance)
    world.wait()
    return patcher


def _patcher(recipe: Recipe, folder: Path, world: World) -> Patcher:
    """The calibrated patcher of a recipe; without a threshold, that of `train.init` if it has the same kind."""
    device, patching = device_of(recipe.train), recipe.patching
    if recipe.train.init is not None and patching.calibrated is not None:
        given = load(recipe.train.init, str(device)).patcher
        if given.rule.kind == patching.kind:
            console.print(f"patches: by the patcher of {recipe.train.init}; a threshold in [patching] would replace it")
            return given
    entropy = None
    if patching.needs_entropy:
        sections = (recipe.entropy, recipe.entropy_train, recipe.entropy_init)
        entropy = entropy_stage(folder, *sections, recipe.data, world).to(device)
    if not world.first:
        world.wait()  # waits until the first process has found the threshold
    patcher = threshold_stage(patching, folder / "corpus", folder / "calibration.json", entropy)
    if world.first:
        world.wait()
    return patcher


def entropy_stage(
    folder: Path,
    config: EntropyConfig | None,
    train: TrainConfig | None,
    init: str | None,
    data: DataConfig,
    world: World = ALONE,
) -> EntropyModel:
    """Train the entropy model on `folder/corpus`, or load it from the model `init`. If the batches of a step cannot be
    divided among the processes, the first process trains alone and the others wait."""
    if init is not None:
        return _entropy_of(init)
    if config is None or train is None:
        raise UserError("patching by entropy needs [entropy] and [entropy_train], or `entropy_init`")
    finished = folder / "entropy"
    if not (finished / "config.json").is_file():
        together = train.accumulate % world.size == 0 and not world.apart
        if not together and world.first:
            console.print(
                f"entropy model: accumulate {train.accumulate} cannot be divided; one process trains, the others wait"
            )
        if together or world.first:
            network = _trained_entropy(folder, config, train, data, world if together else ALONE)
            if world.size == 1:
                return network.eval()
    world.wait()
    if world.apart and not (finished / "config.json").is_file():
        raise UserError(AGAIN.format("task 0 has not trained the entropy model yet"))
    return _entropy_of(str(finished))


def _trained_entropy(
    folder: Path, config: EntropyConfig, train: TrainConfig, data: DataConfig, world: World
) -> EntropyModel:
    network = built(EntropyModel, config, train, world)
    if train.init is not None:
        start_from(network, _entropy_of(train.init), train.init)
    documents = [document.data for document in held_out(folder / "corpus", train.eval_bytes)]
    _fit(EntropyTask(network, documents), documents, None, train, data, folder, "entropy", world)
    _write(folder / "entropy", ModelConfig(format=FORMAT, entropy=config), None, network, world)
    return network


def threshold_stage(
    patching: PatchingConfig, corpus: Path, path: Path, entropy: EntropyModel | NgramEntropy | None
) -> Patcher:
    """A patcher with the recipe's threshold or, if it has none, one calibrated on the training corpus. The calibrated
    threshold is stored in the file `path`; a damaged file is replaced."""
    field = patching.calibrated
    if field is None:
        return Patcher(patching.rule(), entropy)
    patcher = Patcher(patching.rule(**{field: 0.0}), entropy)
    made_of = {"patcher": patcher.fingerprint, "patching": patching.model_dump(mode="json")}
    if (threshold := _kept_threshold(path, made_of)) is not None:
        return Patcher(patching.rule(**{field: threshold}), entropy)
    sample = sample_documents(corpus / "train", patching.sample_bytes)
    assert patching.target_bytes is not None
    reached = patcher.calibrate(sample, patching.target_bytes)
    write_json(path, made_of | {"threshold_bits": reached.threshold_bits} | vars(reached), indent=2)
    console.print(
        f"threshold: {reached.threshold_bits:.3f} bits give {reached.mean_patch_bytes:.2f} bytes per patch "
        f"on {reached.sample_bytes / 1e6:.1f} MB"
    )
    return patcher


def _kept_threshold(path: Path, made_of: dict[str, Any]) -> float | None:
    """The threshold stored in a file, or None if the file was made for other settings."""
    try:
        record = read_json(path) if path.is_file() else {}
        same = all(record.get(name) == value for name, value in made_of.items())
        threshold = float(record["threshold"]) if same else math.nan
    except (UserError, AttributeError, KeyError, TypeError, ValueError):
        console.print(f"{path} is damaged; it is made again")
        return None
    return threshold if math.isfinite(threshold) else None


def blt_stage(recipe: Recipe, folder: Path, patcher: Patcher, world: World = ALONE) -> tuple[LM, Progress]:
    """Train the BLT and write the model directory. Returns the model on its training device, and its progress."""
    config, device = recipe.train, device_of(recipe.train)
    if (folder / "model" / "config.json").is_file():
        return load(folder, str(device)), _progress(folder)
    network = built(BLT, recipe.model, config, world)
    if config.init is not None:
        start_from(network, load(config.init).model, config.init)
    lm = LM(network, patcher, recipe.patching.target_bytes or recipe.patching.stride)
    records = held_out(folder / "corpus", config.eval_bytes)
    documents = [document.data for document in records]
    done = _fit(LanguageTask(lm, records), documents, patcher, config, recipe.data, folder, "blt", world)
    network.eval()
    _write(folder / "model", lm.stored_config, network, patcher.model, world)
    return (load(folder, str(device)) if is_sharded(network) and world.first else lm), done


def _fit(
    task: Task,
    documents: list[bytes],
    patcher: Patcher | None,
    train: TrainConfig,
    data: DataConfig,
    folder: Path,
    stage: str,
    world: World,
) -> Progress:
    """Train a task on this process's share of the batches, which have patches if there is a patcher. `documents` are
    held out. P is fixed if the device or compilation needs fixed shapes."""
    rule, fixed = patcher and patcher.rule, train.compile or device_of(train).type != "cpu"
    scored = patcher if rule is not None and rule.needs_entropy else None
    if is_cut(train, world):
        nats = scored.entropies(documents) if scored else None
        batches = packed(documents, rule, nats, train, fixed)
        task = PackedTask(task, batches, world, uses_bf16(train, task.network))
    shards = folder / ("shards" if scored else "corpus/train")
    options = {"weights": data.weights, "fingerprint": scored and scored.fingerprint, "pad_patches": fixed}

    def make(rank: int, count: int) -> Batches:
        return Batches(shards, train, rule, rank=rank, world=count, **options)

    streams = 1 if train.accumulate % data.streams else data.streams  # the same in a world of any size
    shares = Streams(make, streams, train.accumulate, world.rank, world.size, world.gathered)
    return fit(task, shares, train, folder, stage, world)


def _write(folder: Path, config: ModelConfig, blt: BLT | None, entropy: nn.Module | None, world: World) -> None:
    """Write a model directory: the first process alone, or all together if the trained network is sharded."""
    if is_sharded(blt or entropy):
        export(folder, config, {"blt": blt, "entropy": entropy}, world)
    elif world.first:
        write_model(folder, config, blt, entropy)
    world.wait()


def built(kind: type[nn.Module], shape: Config, train: TrainConfig, world: World) -> nn.Module:
    """A new network. It is on `meta` if it will be sharded, so that each process then initialises only its shard."""
    torch.manual_seed(train.seed)
    with torch.device("meta" if is_cut(train, world) and train.init is None else "cpu"):
        return kind(shape)


def start_from(network: nn.Module, model: nn.Module, name: str) -> None:
    """Copy the weights of a model into the network. Raises UserError if their shapes differ."""
    try:
        network.load_state_dict(model.state_dict())
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"`init` {name} does not fit the shape of the recipe: {reason}") from None


def _progress(folder: Path) -> Progress:
    """The progress stored in the newest checkpoint."""
    existing = checkpoint.finished(folder / "checkpoints" / "blt")
    return Progress(**read_json(existing[-1] / "state.json")["progress"]) if existing else Progress()


def _entropy_of(name: str) -> EntropyModel:
    model = load_entropy(name)
    if not isinstance(model, EntropyModel):
        raise UserError(f"{name} has no entropy model to begin with: name a model whose patches come from one")
    return model
