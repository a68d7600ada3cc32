"""The stages of a recipe, in order: corpus, entropy model, threshold, shards, BLT, report. Finished stages are kept."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config import DataConfig, EntropyConfig, PatchingConfig, Recipe, TrainConfig, UserError
from ..data.batches import Batches, held_out
from ..data.prepare import ingest, score
from ..data.shards import rank_and_world
from ..files import read_json, write_json
from ..interop.directory import load_entropy, write_model
from ..interop.native import FORMAT, ModelConfig
from ..lm import LM, load
from ..model.blt import BLT
from ..model.entropy import EntropyModel
from ..patching.patcher import Patcher
from ..view.progress import console, progress
from . import checkpoint
from .checks import check_recipe
from .claim import claimed
from .device import device_of
from .loop import Progress, fit
from .report import write_report
from .sample import sample_documents
from .tasks import EntropyTask, LanguageTask


def train(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Run what is missing of a recipe in its run directory, and return the report."""
    if rank_and_world()[1] > 1:
        raise UserError("training runs in one process; several can share `prepare`: torchrun -m bytequilt prepare ...")
    check_recipe(recipe)
    with claimed(recipe, folder):
        if (folder / "report.json").is_file() and (folder / "model" / "config.json").is_file():
            return read_json(folder / "report.json")
        patcher = stages_to_shards(recipe, folder)
        lm, done = blt_stage(recipe, folder, patcher)
        return write_report(recipe, folder, lm, done)


def prepare(recipe: Recipe, folder: Path) -> Patcher:
    """The stages of a recipe up to the shards, in its run directory; several ranks may share them."""
    check_recipe(recipe)
    if rank_and_world()[1] > 1:
        return stages_to_shards(recipe, folder)
    with claimed(recipe, folder):
        return stages_to_shards(recipe, folder)


def stages_to_shards(recipe: Recipe, folder: Path) -> Patcher:
    """Corpus, entropy model, calibrated threshold, entropies."""
    manifest = ingest(recipe.data, folder / "corpus")
    console.print(
        f"corpus: {manifest['train']['documents']:,} documents, {manifest['train']['bytes'] / 1e6:.1f} MB to train on, "
        f"{manifest['val']['bytes'] / 1e6:.2f} MB held out"
    )
    patcher = _patcher(recipe, folder)
    if patcher.rule.needs_entropy:
        with progress() as bar:
            line = bar.add_task("prepare", total=manifest["train"]["bytes"])
            score(folder / "corpus", folder / "shards", patcher, lambda done: bar.update(line, advance=done))
    return patcher


def _patcher(recipe: Recipe, folder: Path) -> Patcher:
    """The patcher of the model that training starts from, where the recipe gives no threshold of its own."""
    device, patching = device_of(recipe.train), recipe.patching
    if recipe.train.init is not None and patching.calibrated is not None:
        given = load(recipe.train.init, str(device)).patcher
        if given.rule.kind == patching.kind:
            console.print(f"patches: those of {recipe.train.init}; a threshold in [patching] would change them")
            return given
    entropy = None
    if patching.needs_entropy:
        sections = (recipe.entropy, recipe.entropy_train, recipe.entropy_init)
        entropy = entropy_stage(folder, *sections, recipe.data).to(device)
    return threshold_stage(patching, folder / "corpus", folder / "calibration.json", entropy)


def entropy_stage(
    folder: Path, config: EntropyConfig | None, train: TrainConfig | None, init: str | None, data: DataConfig
) -> EntropyModel:
    """Train the entropy model on `folder/corpus`, or take that of the model `init`, as it is."""
    if init is not None:
        return _entropy_of(init)
    if config is None or train is None:
        raise UserError("patching by entropy needs [entropy] and [entropy_train], or `entropy_init`")
    finished = folder / "entropy"
    if (finished / "config.json").is_file():
        return _entropy_of(str(finished))
    torch.manual_seed(train.seed)
    network = EntropyModel(config)
    if train.init is not None:
        start_from(network, _entropy_of(train.init), train.init)
    documents = [document.data for document in held_out(folder / "corpus", train.eval_bytes)]
    batches = Batches(folder / "corpus" / "train", train, None, weights=data.weights)
    fit(EntropyTask(network, documents), batches, train, folder, "entropy")
    write_model(finished, ModelConfig(format=FORMAT, entropy=config), None, network)
    return network.eval()


def threshold_stage(patching: PatchingConfig, corpus: Path, path: Path, entropy: EntropyModel | None) -> Patcher:
    """The patcher, its threshold calibrated on documents of the training corpus unless it is given.

    The threshold is kept in the file at `path`; a damaged file is made again.
    """
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
    """The threshold in a file, where it was made of the same."""
    try:
        record = read_json(path) if path.is_file() else {}
        same = all(record.get(name) == value for name, value in made_of.items())
        threshold = float(record["threshold"]) if same else math.nan
    except (UserError, AttributeError, KeyError, TypeError, ValueError):
        console.print(f"{path} is damaged; it is made again")
        return None
    return threshold if math.isfinite(threshold) else None


def blt_stage(recipe: Recipe, folder: Path, patcher: Patcher) -> tuple[LM, Progress]:
    """Train the BLT and write the model directory; the model, where it was trained, and how far."""
    config, device = recipe.train, device_of(recipe.train)
    if (folder / "model" / "config.json").is_file():
        return load(folder, str(device)), _progress(folder)
    torch.manual_seed(config.seed)
    network = BLT(recipe.model)
    if config.init is not None:
        start_from(network, load(config.init).model, config.init)
    lm = LM(network, patcher, recipe.patching.target_bytes or recipe.patching.stride)
    task = LanguageTask(lm, held_out(folder / "corpus", config.eval_bytes))
    done = fit(task, blt_batches(recipe, folder, patcher), config, folder, "blt")
    network.eval()
    lm.save(folder / "model")
    return lm, done


def blt_batches(recipe: Recipe, folder: Path, patcher: Patcher) -> Batches:
    """What the BLT is trained on. P is the same in every batch where shapes must not change."""
    needs_entropy, config = patcher.rule.needs_entropy, recipe.train
    return Batches(
        folder / ("shards" if needs_entropy else "corpus/train"),
        config,
        patcher.rule,
        weights=recipe.data.weights,
        fingerprint=patcher.fingerprint if needs_entropy else None,
        pad_patches=config.compile or device_of(config).type != "cpu",
    )


def start_from(network: nn.Module, model: nn.Module, name: str) -> None:
    """Give the network the weights of a model. Raises UserError where their shapes differ."""
    try:
        network.load_state_dict(model.state_dict())
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"`init` {name} does not fit the shape of the recipe: {reason}") from None


def _progress(folder: Path) -> Progress:
    """How far the newest checkpoint is."""
    existing = checkpoint.found(folder / "checkpoints" / "blt")
    return Progress(**read_json(existing[-1] / "state.json")["progress"]) if existing else Progress()


def _entropy_of(name: str) -> EntropyModel:
    model = load_entropy(name)
    if not isinstance(model, EntropyModel):
        raise UserError(f"{name} has no entropy model")
    return model
