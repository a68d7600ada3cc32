"""The dry run: what it says of memory beside what a small network really keeps, and its contract."""

import json

import pytest
import torch
from conftest import blt, blt_config

from bytequilt.cli import main
from bytequilt.codec import encode
from bytequilt.config import Recipe, StackConfig, TrainConfig, UserError, load_recipe
from bytequilt.data.packed import packed
from bytequilt.lm import LM
from bytequilt.patching.patcher import Patcher
from bytequilt.train.arrange import arrange
from bytequilt.train.dry import GPUS, activations, dry_run, memory_of

LOCAL = StackConfig(dim=32, layers=2, heads=2, window=64)
SHAPE = {"encoder": LOCAL, "latent": StackConfig(dim=64, layers=3, heads=2), "decoder": LOCAL}
PUBLISHED = ("blt-400m", "blt-1b", "blt-2b", "blt-4b", "blt-8b")


def kept_by(recipe):
    """Bytes of the tensors that a backward pass keeps, each counted once, weights aside."""
    network = blt(0, **SHAPE).train()
    lm = LM(network, Patcher(recipe.patching.rule()))
    network.train()
    arrange(network, recipe.train)
    (batch,) = packed([b"some words of text " * 12], lm.patcher.rule, None, recipe.train)
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    kept = {}

    def pack(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = lm.loss(batch)  # keeps its tensors alive, so that no address is given twice
    assert float(loss.detach()) > 0
    return sum(kept.values())


@pytest.mark.parametrize("recomputed", [False, True])
def test_activations_are_rounded_up_and_not_by_much(recomputed):
    train = TrainConfig(
        steps=1, rows=1, row_bytes=256, row_patches=64, precision="fp32", checkpoint_activations=recomputed
    )
    recipe = Recipe(patching={"kind": "space"}, model=blt_config(**SHAPE), train=train)
    real, said = kept_by(recipe), activations(recipe)
    assert real < said < (6 if recomputed else 2) * real  # with recomputation, the largest part comes back later
    assert len(encode(b"some words of text " * 12, eos=True)) < 256


@pytest.mark.parametrize("gpus", [8, 64, 256])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_fit(name, gpus):
    found = dry_run(load_recipe(name), gpus, "h100")
    assert found["fits"], found["per_gpu"]
    assert found["per_gpu"]["peak"] < GPUS["h100"].memory


def test_more_gpus_and_sharding_take_less_of_each():
    recipe = load_recipe("blt-8b")
    whole = recipe.model_copy(update={"train": recipe.train.model_copy(update={"shard": "none"})})
    assert not dry_run(whole, 8, "h100")["fits"]
    assert memory_of(whole, 8).parameters == 4 * 10_553_570_560
    parts = [memory_of(recipe, gpus).parameters for gpus in (8, 64, 256)]
    assert parts == sorted(parts, reverse=True)
    for gpus, part in zip((8, 64, 256), parts, strict=True):
        assert 4 * 10_553_570_560 / gpus == pytest.approx(part, rel=1e-3)


def test_the_contract(capsys):
    main(["train", "blt-8b", "--dry-run", "--gpus", "256", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["world"] == 256
    assert {"parameters", "gradients", "optimizer", "peak"} <= found["per_gpu"].keys()
    assert found["days"] == pytest.approx(found["gpu_hours"] / 256 / 24)
    assert found["fits"] is True
    main(["train", "blt-8b", "--dry-run", "--gpus", "8", "--gpu", "a100"])
    assert "GPU-hours" in capsys.readouterr().out


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(UserError, match="cannot be dealt evenly to 7 processes"):
        dry_run(load_recipe("blt-8b"), 7, "h100")
    with pytest.raises(UserError, match="at least 1"):
        dry_run(load_recipe("blt-8b"), 0, "h100")
