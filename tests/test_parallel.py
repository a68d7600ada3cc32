"""Several processes beside one: the same global batches must give the same gradients, losses and weights."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import blt
from ranks import spawn
from torch.distributed.tensor import DTensor

from bytequilt.config import DataConfig, RuleConfig, StackConfig, TrainConfig
from bytequilt.data.batches import Batch, Batches, held_out
from bytequilt.data.packed import packed
from bytequilt.data.prepare import ingest
from bytequilt.data.streams import Streams
from bytequilt.lm import LM
from bytequilt.patching.patcher import Patcher
from bytequilt.train import metrics
from bytequilt.train.columns import group_size
from bytequilt.train.loop import counted, fit
from bytequilt.train.optim import clip_, optimizers, row_optimizers
from bytequilt.train.parallel import is_cut, is_sharded, spread, sum_gradients
from bytequilt.train.rows import like, own
from bytequilt.train.tasks import LanguageTask, PackedTask
from bytequilt.train.world import ALONE, joined

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
    chosen = optimizers(task.network, config)
    targets, *_ = counted(task, micro, world)
    for batch in micro:
        (task.loss(batch) / targets).backward()
    rows = row_optimizers(chosen)
    sum_gradients(task.network, rows, world)
    found = {name: whole(p.grad) for name, p in task.network.named_parameters() if p.grad is not None}
    names = {id(p): name for name, p in task.network.named_parameters()}
    for optimizer in rows:
        for weight in optimizer.moments:
            dense = torch.zeros_like(own(weight.detach()))
            for places, leaf in zip(optimizer.rows_of(weight), optimizer.leaves_of(weight), strict=True):
                places = torch.arange(len(dense))[places]
                dense.index_add_(0, places, leaf.grad)
            found[names[id(weight)]] = whole(like(dense, weight))
    norm = float(clip_(task.network, chosen, 1e9))
    return {name: grad.clone() for name, grad in found.items()}, norm


def one_way(corpus, folder, way, world, blind=False):
    """Gradients of the first step; then a whole run: what it wrote down, and its weights."""
    config = TRAIN.model_copy(update=WAYS[way])
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
        task = PackedTask(task, packed(task.held_out, SPACE, None, config), world, False)
    fit(task, streams_of(corpus, config, world), config, folder / way, "blt", world)
    weights = {name: whole(weight).clone() for name, weight in task.network.state_dict().items()}
    timed = ("seconds", "bytes_per_second", "processor_seconds")
    written = metrics.read(folder / way / "metrics.jsonl")
    return *first, [{k: v for k, v in r.items() if k not in timed} for r in written], weights


def all_ways(folder, corpus):
    from bytequilt.train import parallel

    with joined(120, "cpu") as world:
        results = {}
        for way in WAYS:
            parallel.DENSE = 0 if way == "none-touched" else 1 << 23
            parallel.group_size = (lambda *_: 1) if way == "full-copies" else group_size
            results[way] = one_way(corpus, folder, way, world)
        results["blind"] = one_way(corpus, folder, "full", world, blind=True)
        return results


@pytest.fixture(scope="module")
def several(corpus, tmp_path_factory):
    return spawn(all_ways, 2, tmp_path_factory.mktemp("ranks"), corpus)


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return {table: one_way(corpus, folder, f"none{table}", ALONE) for table in ("", "-dense")}


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


def test_a_process_without_targets_adds_nothing(several, corpus):
    task, stream = task_of(corpus), streams_of(corpus, TRAIN, ALONE)
    micro = [next(stream) for _ in range(TRAIN.accumulate)]
    grads, norm = gradients(task, micro[::2], TRAIN, ALONE)
    for mine in several:
        assert_close(mine["blind"][0], grads, rtol=1e-4)
        assert mine["blind"][1] == pytest.approx(norm, rel=1e-5)


def test_processes_had_very_different_numbers_of_patches(corpus):
    stream = streams_of(corpus, TRAIN, ALONE)
    counts = [next(stream).count for _ in range(8)]
    assert max(counts) > 2 * min(counts), counts
