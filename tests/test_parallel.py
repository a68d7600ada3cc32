"""Several processes beside one: the same global batches must give the same gradients, losses and weights."""

import errno
import json
import math
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from conftest import blt, blt_config
from ranks import spawn
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.tensor import DTensor

from bytequilt.config import DataConfig, EntropyConfig, Recipe, RuleConfig, StackConfig, TrainConfig, UserError
from bytequilt.data.batches import Batch, Batches, packed
from bytequilt.data.prepare import ingest
from bytequilt.data.shards import held_out
from bytequilt.data.streams import Streams
from bytequilt.lm import LM
from bytequilt.model import initial
from bytequilt.model.blt import BLT
from bytequilt.model.layers import Block
from bytequilt.patching.patcher import Patcher
from bytequilt.train import checkpoint, metrics, parallel
from bytequilt.train.columns import group_size
from bytequilt.train.dry import memory_of
from bytequilt.train.loop import Interrupted, counted, fit
from bytequilt.train.optim import clip_, optimizers_of, row_optimizers
from bytequilt.train.parallel import fill, is_cut, is_sharded, spread, sum_gradients
from bytequilt.train.rows import like, own
from bytequilt.train.run import entropy_stage
from bytequilt.train.saver import Saver
from bytequilt.train.tasks import LanguageTask, PackedTask
from bytequilt.train.world import ALONE, World, join_world

SPACE = RuleConfig(kind="space")
TRAIN = TrainConfig(
    steps=5,
    rows=2,
    row_bytes=64,
    warmup=2,
    eval_every=100,
    save_every=100,
    accumulate=4,
    lr=1e-2,
    clip=0.5,
    precision="fp32",
    device="cpu",
)
LOCAL = StackConfig(dim=16, layers=1, heads=2, ffn_dim=24, window=16)
SHAPE = {"encoder": LOCAL, "latent": StackConfig(dim=32, layers=2, heads=2, ffn_dim=40), "decoder": LOCAL}
WAYS = {
    "none": {},
    "none-dense": {"table_optimizer": "dense"},
    "none-touched": {},  # with the limit of whole tables lowered
    "full": {"shard": "full"},
    "full-dense": {"shard": "full", "table_optimizer": "dense"},
    "full-recomputed": {"shard": "full", "checkpoint_activations": True},
    "full-copies": {"shard": "full"},  # with columns in groups of one
}
DRAWN = 150  # rows of a table of 404
IN_BF16 = {
    "none-bf16": {"precision": "bf16"},
    "full-bf16": {"shard": "full", "precision": "bf16"},
    "full-gathered": {"shard": "full", "precision": "bf16_gathered"},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """60 documents of words; most of them without a space, so that processes have very different P."""
    random, words = np.random.default_rng(0), ["the", "quick", "brown", "fox", "a", "b"]
    texts = [("" if n % 4 else " ").join(random.choice(words, 60)) for n in range(60)]
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    ingest(DataConfig(train=(str(path),), val_every=10), path.parent / "corpus")
    return path.parent / "corpus"


class BadOnce(LanguageTask):
    """The loss of one process is infinite in this batch, counted from 1."""

    bad = 0

    def loss(self, batch):
        self.bad -= 1
        nats = super().loss(batch)
        return nats * math.inf if self.bad == 0 else nats


def task_of(corpus, kind=LanguageTask):
    held = [document.data for document in held_out(corpus, 400)]
    return kind(LM(blt(0, **SHAPE), Patcher(SPACE)), held)


def streams_of(corpus, config, world, count=2):
    def make(rank, size):
        return Batches(corpus / "train", config, SPACE, rank=rank, world=size)

    return Streams(make, count, config.accumulate, world.rank, world.size, world.gathered)


def whole(x):
    return x.full_tensor() if isinstance(x, DTensor) else x


def gradients(task, micro, config, world):
    """The gradient of every weight and its norm before clipping, as all processes together have them."""
    chosen = optimizers_of(task.network, config)
    targets, *_ = counted(task, micro, world)
    types = set()
    for block in (module for module in task.network.modules() if isinstance(module, Block)):
        block.attention.register_forward_pre_hook(lambda module, _: types.add(module.qkv.weight.dtype))
    for batch in micro:
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
            loss = task.loss(batch)
        (loss / targets).backward()
    assert types == {torch.bfloat16 if config.precision == "bf16_gathered" else torch.float32}
    rows = row_optimizers(chosen)
    sum_gradients(task.network, rows, world)
    found = {name: whole(p.grad) for name, p in task.network.named_parameters() if p.grad is not None}
    names = {id(p): name for name, p in task.network.named_parameters()}
    for optimizer in rows:
        for weight in optimizer.moments:
            dense = torch.zeros_like(own(weight.detach()))
            for view in optimizer.merged(weight):
                dense.index_add_(0, torch.arange(len(dense))[view.rows_U], view.values_UD.grad)
            found[names[id(weight)]] = whole(like(dense, weight))
    norm = float(clip_(task.network, chosen, 1e9))
    return {name: grad.clone() for name, grad in found.items()}, norm


def one_way(corpus, folder, way, world, blind=False):
    """Gradients of the first step; then a whole run: what it wrote down, and its weights."""
    config = TRAIN.model_copy(update=(WAYS | IN_BF16)[way])
    task, stream = task_of(corpus), streams_of(corpus, config, world)
    micro = [next(stream) for _ in range(config.accumulate // world.size)]
    if blind and world.rank == 1:
        micro = [Batch.of(b.ids_BN, b.closes_BN, torch.zeros_like(b.learn_BN)) for b in micro]
    spread(task.network, config, world, "cpu")
    assert is_sharded(task.network) == (world.size > 1 and config.shard == "full")
    first = gradients(task, micro, config, world)
    if blind:
        return first
    task = task_of(corpus, BadOnce if world.rank == world.size - 1 else LanguageTask)
    task.bad = 1 + config.accumulate // world.size  # in the second step
    if is_cut(config, world):
        task = PackedTask(task, packed(task.held_out, SPACE, None, config), world, config.precision == "bf16")
    fit(task, streams_of(corpus, config, world), config, folder / way, "blt", world)
    weights = {name: whole(weight).clone() for name, weight in task.network.state_dict().items()}
    timed = ("seconds", "bytes_per_second", "processor_seconds")
    written = metrics.read(folder / way / "metrics.jsonl")
    return *first, [{k: v for k, v in r.items() if k not in timed} for r in written], weights


def real_bytes(corpus, way, world):
    """Bytes of parameters, gradients and optimizer state that this process holds in its first step."""
    config = TRAIN.model_copy(update=WAYS[way])
    task, stream = task_of(corpus), streams_of(corpus, config, world)
    spread(task.network, config, world, "cpu")
    chosen = optimizers_of(task.network, config)
    for rows in row_optimizers(chosen):
        rows.fixed = True  # as on a GPU
    for _ in range(config.accumulate // world.size):
        task.loss(next(stream)).backward()
    sum_gradients(task.network, row_optimizers(chosen), world)
    weights = list(task.network.parameters())
    grads = [own(w.grad) for w in weights if w.grad is not None]
    grads += [leaf.grad for rows in row_optimizers(chosen) for leaf in rows.leaves()]
    for optimizer in chosen:
        optimizer.step()
    tensors, _ = checkpoint.flatten(chosen)
    state = [own(x) for name, x in tensors.items() if not name.endswith(".weight")]
    return [sum(x.nbytes for x in map(own, group)) for group in (weights, grads, state)]


def entropy_model_of(corpus, folder, shard, world):
    """The weights of an entropy model that these processes have trained."""
    train = TRAIN.model_copy(update={"shard": shard, "save_every": 2})
    run, shape = folder / f"entropy-{shard}", EntropyConfig(**LOCAL.model_dump())
    if world.first:
        shutil.copytree(corpus, run / "corpus")
    world.wait()
    network = entropy_stage(run, shape, train, None, DataConfig(train=("x",), streams=2), world)
    return {name: weight.clone() for name, weight in network.state_dict().items()}


def full_disk(corpus, folder, world):
    """What is said of a checkpoint that the first process cannot finish."""

    def finish(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    config, task = TRAIN.model_copy(update=WAYS["full"]), task_of(corpus)
    spread(task.network, config, world, "cpu")
    saver = Saver(folder / "full disk", task.network, optimizers_of(task.network, config), 2, world)
    before, FileSystemWriter.finish = FileSystemWriter.finish, finish
    saver.save(1, {})
    with pytest.raises(UserError) as caught:
        saver.publish()
    FileSystemWriter.finish = before
    return str(caught.value)


def drawn(way, world):
    """The weights of a network that was built without any, cut, and filled."""
    parallel.group_size = (lambda *_: 1) if way == "full-copies" else group_size
    with torch.device("meta"):
        network = BLT(blt_config(**SHAPE))
    spread(network, TRAIN.model_copy(update=WAYS[way]), world, "cpu")
    torch.manual_seed(0)
    before, initial.DRAWN, parallel.DRAWN = initial.DRAWN, DRAWN, DRAWN
    fill(network, "cpu")
    initial.DRAWN = parallel.DRAWN = before
    return {name: whole(weight).clone() for name, weight in network.state_dict().items()}


def all_ways(folder, corpus):
    with join_world(120, "cpu") as world:
        results = {}
        for way in WAYS:
            parallel.DENSE = 0 if way == "none-touched" else 1 << 23
            parallel.group_size = (lambda *_: 1) if way == "full-copies" else group_size
            results[way] = one_way(corpus, folder, way, world)
            results[f"bytes {way}"] = real_bytes(corpus, way, world)
        results |= {way: one_way(corpus, folder, way, world) for way in IN_BF16}
        results |= {f"entropy {shard}": entropy_model_of(corpus, folder, shard, world) for shard in ("none", "full")}
        results |= {f"drawn {way}": drawn(way, world) for way in ("full", "full-copies")}
        results["full disk"] = full_disk(corpus, folder, world)
        results["blind"] = one_way(corpus, folder, "full", world, blind=True)
        return results


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.four)])
def several(request, corpus, tmp_path_factory):
    return spawn(all_ways, request.param, tmp_path_factory.mktemp("ranks"), corpus)


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    ways = {name: one_way(corpus, folder, f"none{name}", ALONE) for name in ("", "-dense", "-bf16")}
    return ways | {"entropy": entropy_model_of(corpus, folder, "none", ALONE)}


@pytest.mark.parametrize("way", ["full", "full-copies"])
def test_a_network_that_is_cut_first_is_filled_with_the_same_weights(several, way, monkeypatch):
    monkeypatch.setattr(initial, "DRAWN", DRAWN)
    wanted = blt(0, **SHAPE).state_dict()
    for mine in several:
        assert mine[f"drawn {way}"].keys() == wanted.keys()
        for name, weight in wanted.items():
            assert torch.equal(mine[f"drawn {way}"][name], weight), name


def assert_close(ours, theirs, rtol, atol=1e-7):
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("way", WAYS)
def test_gradients_losses_and_weights_are_those_of_one_process(several, alone, way):
    grads, norm, written, weights = alone["-dense" if "dense" in way else ""]
    for mine in several:
        assert_close(mine[way][0], grads, rtol=1e-4)
        assert mine[way][1] == pytest.approx(norm, rel=1e-5)
        assert_close(mine[way][3], weights, rtol=1e-3, atol=2e-5)
    theirs = several[0][way][2]
    assert [r["step"] for r in theirs] == [1, 2, 3, 4, 5]
    for ours, record in zip(written, theirs, strict=True):
        for name in ("targets", "learnt", "bytes", "skipped", "mean_patch", "lr"):
            assert ours[name] == record[name], name
    assert [round(r["bpb"], 3) for r in theirs if r["bpb"]] == pytest.approx(
        [round(r["bpb"], 3) for r in written if r["bpb"]], abs=2e-3
    )
    assert ("val_bpb_row" in theirs[-1]) == way.startswith("full")


@pytest.mark.parametrize("way", ["none-bf16", "full-bf16"])
def test_autocast_gives_what_it_gives_one_process(several, alone, way):
    grads, norm, written, weights = alone["-bf16"]
    for mine in several:
        assert mine[way][1] == pytest.approx(norm, rel=1e-2)
        assert apart(mine[way][0], grads) < 1e-2
        assert apart(mine[way][3], weights) < 1e-2
    assert bits(several[0][way][2]) == pytest.approx(bits(written), abs=2e-2)


def test_weights_gathered_in_bf16_learn_the_same_but_for_their_rounding(several, alone):
    grads, _, written, _ = alone[""]
    assert 1e-5 < apart(several[0]["full-gathered"][0], grads) < 5e-2
    assert bits(several[0]["full-gathered"][2]) == pytest.approx(bits(written), abs=5e-2)


def apart(ours, theirs):
    """The norm of all differences, as a part of that of all numbers."""
    assert ours.keys() == theirs.keys()
    off = sum((ours[name].double() - theirs[name].double()).square().sum() for name in theirs)
    return float((off / sum(x.double().square().sum() for x in theirs.values())).sqrt())


def bits(records):
    """Bits per byte of each step, that of the step with an infinite loss aside."""
    return [record["bpb"] for record in records if record["bpb"] and math.isfinite(record["bpb"])]


def test_a_checkpoint_that_cannot_be_written_is_told_in_a_line(several):
    for mine in several:
        assert mine["full disk"].endswith("step-00000001: [Errno 28] No space left on device")
        assert mine["full disk"].startswith("cannot write checkpoint")


@pytest.mark.parametrize("shard", ["none", "full"])
def test_an_entropy_model_of_several_processes_is_that_of_one(several, alone, shard):
    for mine in several:
        assert_close(mine[f"entropy {shard}"], alone["entropy"], rtol=1e-3, atol=2e-5)


def test_a_process_without_targets_adds_nothing(several, corpus):
    task, stream = task_of(corpus), streams_of(corpus, TRAIN, ALONE)
    micro = [next(stream) for _ in range(TRAIN.accumulate)]
    micro = [batch for number, batch in enumerate(micro) if number % len(several) != 1]
    grads, norm = gradients(task, micro, TRAIN, ALONE)
    for mine in several:
        assert_close(mine["blind"][0], grads, rtol=1e-4)
        assert mine["blind"][1] == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("way", ["none", "none-dense", "full", "full-dense"])
def test_the_dry_run_tells_bytes_exactly(several, way):
    config = TRAIN.model_copy(update=WAYS[way])
    recipe = Recipe(patching={"kind": "space"}, model=blt_config(**SHAPE), train=config)
    memory = memory_of(recipe, len(several))
    assert several[0][f"bytes {way}"] == [memory.parameters, memory.gradients, memory.optimizer]


def test_processes_had_very_different_numbers_of_patches(corpus):
    stream = streams_of(corpus, TRAIN, ALONE)
    counts = [next(stream).count for _ in range(8)]
    assert max(counts) > 2 * min(counts), counts


# --------------------------------------------------------------------------------------- going on in other worlds


class Stopped(LanguageTask):
    """One process is told to stop, in the middle of its third step."""

    left = 0

    def loss(self, batch):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().loss(batch)


def stopped(folder, corpus, way, run):
    """A run that ends after its third step, since the last process was told to stop."""
    with join_world(120, "cpu") as world:
        return stopped_in(world, corpus, way, run)


def stopped_in(world, corpus, way, run):
    config = TRAIN.model_copy(update=WAYS[way])
    task = task_of(corpus, Stopped if world.rank == world.size - 1 else LanguageTask)
    task.left = 1 + 2 * config.accumulate // world.size
    with pytest.raises(Interrupted, match="stopped at step 3 of 5"):
        fit(task, streams_of(corpus, config, world), config, run, "blt", world)
    return [path.name for path in checkpoint.finished(run / "checkpoints" / "blt")]


def going_on(folder, corpus, way, run):
    with join_world(120, "cpu") as world:
        return going_on_in(world, corpus, way, run)


def going_on_in(world, corpus, way, run):
    config, task = TRAIN.model_copy(update=WAYS[way]), task_of(corpus)
    if is_cut(config, world):
        task = PackedTask(task, packed(task.held_out, SPACE, None, config), world, False)
    done = fit(task, streams_of(corpus, config, world), config, run, "blt", world)
    return done.step, {name: whole(weight).clone() for name, weight in task.network.state_dict().items()}


@pytest.mark.four
def test_two_go_on_as_one_and_as_four(corpus, tmp_path):
    _, wanted = going_on_in(ALONE, corpus, "full", tmp_path / "whole")
    spawn(stopped, 2, tmp_path / "2", corpus, "full", tmp_path / "several")
    for step, weights in spawn(going_on, 4, tmp_path / "4", corpus, "full", tmp_path / "several"):
        assert step == 5
        assert_close(weights, wanted, rtol=1e-3, atol=2e-5)


def test_a_run_goes_on_with_another_number_of_processes(corpus, tmp_path):
    way = "full"
    _, wanted = going_on_in(ALONE, corpus, way, tmp_path / "whole")
    names = spawn(stopped, 2, tmp_path / "2", corpus, way, tmp_path / "several")
    assert names == [["step-00000003"]] * 2
    assert (tmp_path / "several" / "checkpoints" / "blt" / "step-00000003" / ".metadata").is_file()
    shutil.copytree(tmp_path / "several", tmp_path / "again")
    assert stopped_in(ALONE, corpus, way, tmp_path / "one") == ["step-00000003"]
    for step, weights in (
        going_on_in(ALONE, corpus, way, tmp_path / "several"),
        *spawn(going_on, 2, tmp_path / "3", corpus, way, tmp_path / "one"),
        *spawn(going_on, 2, tmp_path / "4", corpus, way, tmp_path / "again"),
    ):
        assert step == 5
        assert_close(weights, wanted, rtol=1e-3, atol=2e-5)


def test_muon_is_refused_when_matrices_are_cut():
    config = TRAIN.model_copy(update={"shard": "full", "optimizer": "muon"})
    with pytest.raises(UserError, match="depend on how matrices are cut"):
        parallel.check_parallel(config, World(0, 2))
    parallel.check_parallel(config, ALONE)
