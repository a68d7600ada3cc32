"""The stages of a recipe, in order: corpus, entropy model, threshold, shards, BLT, report. What is done stays done."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config import PatchingConfig, Recipe, TrainConfig, UserError
from ..data.batches import Batches, held_out
from ..data.prepare import ingest, score
from ..data.shards import rank_and_world, read_about, shard_paths
from ..interop.native import FORMAT, ModelConfig
from ..lm import LM, load, load_entropy, write_model
from ..model.blt import BLT
from ..model.entropy import EntropyModel
from ..patching.patcher import Patcher
from ..view.progress import console, progress
from .device import device_of
from .loop import fit
from .report import write_report
from .tasks import EntropyTask, LanguageTask


def train(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Run what is missing of a recipe in its run directory, and return the report."""
    if rank_and_world()[1] > 1:
        raise UserError("training runs in one process; several can share `prepare`: torchrun -m bytequilt prepare ...")
    folder = claim(recipe, folder)
    patcher = prepare(recipe, folder)
    blt_stage(recipe, folder, patcher)
    return write_report(recipe, folder)


def prepare(recipe: Recipe, folder: Path) -> Patcher:
    """The stages up to the shards: corpus, entropy model, calibrated threshold, entropies."""
    manifest = ingest(recipe.data, folder / "corpus")
    console.print(
        f"corpus: {manifest['train']['documents']:,} documents, {manifest['train']['bytes'] / 1e6:.1f} MB to train on, "
        f"{manifest['val']['bytes'] / 1e6:.2f} MB held out"
    )
    entropy = entropy_stage(recipe, folder)
    patcher = threshold_stage(recipe.patching, folder / "corpus", folder / "calibration.json", entropy)
    if patcher.rule.needs_entropy:
        with progress() as bar:
            line = bar.add_task("prepare", total=manifest["train"]["bytes"])
            score(folder / "corpus", folder / "shards", patcher, lambda done: bar.update(line, advance=done))
    return patcher


def claim(recipe: Recipe, folder: Path) -> Path:
    """Make the run directory, or go on in it. Raises UserError where it belongs to a different recipe."""
    path, text = folder / "recipe.toml", to_toml(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        if path.read_text() != text:
            raise UserError(
                f"{folder} holds a run of another recipe ({path}); give --out another directory, or delete this one"
            )
    else:
        if any(folder.iterdir()):
            raise UserError(f"{folder} is neither empty nor a run directory; give --out another one")
        path.write_text(text)
    return folder


def entropy_stage(recipe: Recipe, folder: Path) -> EntropyModel | None:
    """Train the entropy model, or take the one that the recipe names; None where the rule needs none."""
    if not recipe.patching.needs_entropy:
        return None
    if recipe.entropy_init is not None:
        return _entropy_of(recipe.entropy_init).to(device_of(recipe.train))
    assert recipe.entropy is not None
    assert recipe.entropy_train is not None
    done = folder / "entropy"
    if not (done / "config.json").is_file():
        config = recipe.entropy_train
        torch.manual_seed(config.seed)
        network = EntropyModel(recipe.entropy)
        if config.init is not None:
            start_from(network, _entropy_of(config.init), config.init)
        documents = _held_out(folder, config.eval_bytes)
        fit(
            EntropyTask(network, documents),
            _batches(recipe, folder / "corpus" / "train", config, None),
            config,
            folder,
            "entropy",
        )
        write_model(done, ModelConfig(format=FORMAT, entropy=recipe.entropy), None, network)
    return _entropy_of(str(done)).to(device_of(recipe.train))


def threshold_stage(patching: PatchingConfig, corpus: Path, path: Path, entropy: EntropyModel | None) -> Patcher:
    """The patcher, its threshold calibrated on documents of the training corpus unless it is given.

    What is found is kept in the file at `path`.
    """
    field = patching.calibrated
    if field is None:
        return Patcher(patching.rule(), entropy)
    patcher = Patcher(patching.rule(**{field: 0.0}), entropy)
    if path.is_file():
        found = json.loads(path.read_text())
        if (found["patcher"], found.get("patching")) == (patcher.fingerprint, patching.model_dump(mode="json")):
            return Patcher(patching.rule(**{field: found["threshold"]}), entropy)
    sample = sample_documents(corpus / "train", patching.sample_bytes)
    assert patching.target_bytes is not None
    reached = patcher.calibrate(sample, patching.target_bytes)
    made_of = {"patcher": patcher.fingerprint, "patching": patching.model_dump(mode="json")}
    record = made_of | {"threshold_bits": reached.threshold_bits} | vars(reached)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
    console.print(
        f"threshold: {reached.threshold_bits:.3f} bits give {reached.mean_patch_bytes:.2f} bytes per patch "
        f"on {reached.sample_bytes / 1e6:.1f} MB"
    )
    return patcher


def blt_stage(recipe: Recipe, folder: Path, patcher: Patcher) -> None:
    """Train the BLT and write the model directory."""
    if (folder / "model" / "config.json").is_file():
        return
    config = recipe.train
    torch.manual_seed(config.seed)
    network = BLT(recipe.model)
    if config.init is not None:
        start_from(network, load(config.init).model, config.init)
    shards = folder / ("shards" if patcher.rule.needs_entropy else "corpus/train")
    batches = _batches(recipe, shards, config, patcher)
    lm = LM(network, patcher, recipe.patching.target_bytes or recipe.patching.stride)
    fit(LanguageTask(lm, _held_out(folder, config.eval_bytes)), batches, config, folder, "blt")
    lm.save(folder / "model")


def start_from(network: nn.Module, model: nn.Module, name: str) -> None:
    """Give the network the weights of a model. Raises UserError where their shapes differ."""
    try:
        network.load_state_dict(model.state_dict())
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"`init` {name} does not fit the shape of the recipe: {reason}") from None


def to_toml(recipe: Recipe) -> str:
    """The recipe as resolved, as TOML."""
    import tomli_w

    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


def sample_documents(folder: Path, sample_bytes: int) -> list[bytes]:
    """Documents spread evenly over a folder of shards, about so many bytes of them, and one at least."""
    import pyarrow.parquet as pq

    found: list[bytes] = []
    paths = shard_paths(folder)
    total = sum(sum(read_about(path)["bytes"]) for path in paths)
    every, number = max(1, total // sample_bytes), 0
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=16, columns=["data"]):
            for data in batch["data"]:
                if number % every == 0:
                    found.append(data.as_py())
                number += 1
    return found


def _held_out(folder: Path, limit: int | None) -> list[bytes]:
    return [document.data for document in held_out(folder / "corpus", limit)]


def _batches(recipe: Recipe, shards: Path, config: TrainConfig, patcher: Patcher | None) -> Batches:
    rule = patcher.rule if patcher else None
    fingerprint = patcher.fingerprint if patcher and patcher.rule.needs_entropy else None
    pad = config.compile or device_of(config).type != "cpu"
    return Batches(
        shards, config, rule, weights=recipe.data.weights, fingerprint=fingerprint, pad_patches=pad and rule is not None
    )


def _entropy_of(name: str) -> EntropyModel:
    model = load_entropy(name)
    if model is None:
        raise UserError(f"{name} has no entropy model")
    return model
