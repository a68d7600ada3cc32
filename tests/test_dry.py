"""The dry run: what it says of memory beside what a small network really keeps, and its contract."""

import json

import pytest
import torch
from conftest import blt, blt_config

from bytequilt.cli import main
from bytequilt.codec import encode
from bytequilt.config import Recipe, RuleConfig, StackConfig, TrainConfig, UserError, load_recipe
from bytequilt.data.batches import packed
from bytequilt.lm import LM
from bytequilt.patching.patcher import Patcher
from bytequilt.train.device import arrange
from bytequilt.train.dry import GPUS, activations, dry_run, memory_of
from bytequilt.train.optim import optimizers_of
from bytequilt.train.rehearsal import rehearse

LOCAL = StackConfig(dim=32, layers=2, heads=2, window=64)
SHAPE = {"encoder": LOCAL, "latent": StackConfig(dim=64, layers=3, heads=2), "decoder": LOCAL}
PUBLISHED = (("blt-400m", 8), ("blt-1b", 8), ("blt-2b", 256), ("blt-4b", 8), ("blt-8b", 8), ("blt-8b", 256))


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


@pytest.mark.parametrize(("name", "gpus"), PUBLISHED)
def test_published_recipes_fit(name, gpus):
    found = dry_run(load_recipe(name), gpus, "h100")
    assert found["fits"], found["per_gpu"]
    assert found["per_gpu"]["peak"] < GPUS["h100"].memory


def test_more_gpus_and_sharding_take_less_of_each():
    recipe = load_recipe("blt-8b")
    whole = recipe.model_copy(update={"train": recipe.train.model_copy(update={"shard": "none"})})
    assert not dry_run(whole, 8, "h100")["fits"]
    assert memory_of(whole, 8).parameters == 4 * 10_553_570_560
    assert memory_of(recipe, 64).parameters == pytest.approx(4 * 10_553_570_560 / 64, rel=1e-3)


@pytest.mark.parametrize("gpus", [1, 3])
@pytest.mark.parametrize("shard", ["none", "full"])
@pytest.mark.parametrize("tables", ["rows", "dense"])
def test_what_is_held_is_what_the_arithmetic_says(shard, tables, gpus):
    """Of a world that divides nothing: the first process has the part that is rounded up."""
    train = TrainConfig(steps=2000, rows=1, row_bytes=64, accumulate=6, shard=shard, table_optimizer=tables)
    held, network = (
        rehearse(Recipe(patching={"kind": "space"}, model=blt_config(**SHAPE), train=train), gpus),
        blt(0, **SHAPE),
    )
    cut = gpus if shard == "full" else 1
    inside = {id(table.weight): table for table in (network.encoder.embed, network.encoder.hash)}
    whole = [weight for weight in network.parameters() if id(weight) not in inside or tables == "dense"]
    parts = [weight.numel() if id(weight) in inside else -(-len(weight) // cut) * weight[0].numel() for weight in whole]
    rows = [weight for weight in network.parameters() if id(weight) in inside and tables == "rows"]
    touched = [weight.numel() for weight in rows]  # more is asked for than there is: all of them
    assert held.parameters == 4 * (sum(parts) + sum(touched))
    assert held.gradients == 4 * (sum(parts) + sum(touched))
    assert held.touched == tuple(4 * size for size in touched)
    moments = sum(8 * weight.numel() + 4 * len(weight) + 4 * 2048 for weight in rows)
    assert held.optimizer == sum(8 * part + 4 for part in parts) + moments


def test_no_fake_tensor_is_left_behind():
    """What the model keeps from call to call must be of use afterwards, in the same process."""
    train = TrainConfig(steps=5, rows=1, row_bytes=64, accumulate=2, shard="full")
    rehearse(Recipe(patching={"kind": "space"}, model=blt_config(**SHAPE), train=train), 2)
    lm = LM(blt(0, **SHAPE), Patcher(RuleConfig(kind="space")))
    (batch,) = packed([b"some words"], lm.patcher.rule, None, train)
    chosen = optimizers_of(lm.model, train)
    lm.loss(batch).backward()
    for optimizer in chosen:
        optimizer.step()
    assert all(weight.isfinite().all() for weight in lm.model.parameters())
    assert not torch.distributed.is_initialized()


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
