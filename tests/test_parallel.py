"""Several processes beside one: the same global batches must give the same gradients, losses and weights."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import blt, blt_config
from ranks import spawn
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from bytequilt.config import DataConfig, Recipe, RuleConfig, StackConfig, TrainConfig
from bytequilt.data.batches import Batch, Batches, held_out
from bytequilt.data.packed import packed
from bytequilt.data.prepare import ingest
from bytequilt.data.streams import Streams
from bytequilt.lm import LM
from bytequilt.patching.patcher import Patcher
from bytequilt.train import checkpoint, metrics
from bytequilt.train.columns import group_size
from bytequilt.train.dry import memory_of
from bytequilt.train.loop import Interrupted, counted, fit
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


def real_bytes(corpus, way, world):
    """Bytes of parameters, gradients and optimizer state that this process holds in its first step."""
    config = TRAIN.model_copy(update=WAYS[way])
    task, stream = task_of(corpus), streams_of(corpus, config, world)
    spread(task.network, config, world, "cpu")
    chosen = optimizers(task.network, config)
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


def all_ways(folder, corpus):
    from bytequilt.train import parallel

    with joined(120, "cpu") as world:
        results = {}
        for way in WAYS:
            parallel.DENSE = 0 if way == "none-touched" else 1 << 23
            parallel.group_size = (lambda *_: 1) if way == "full-copies" else group_size
            results[way] = one_way(corpus, folder, way, world)
            results[f"bytes {way}"] = real_bytes(corpus, way, world)
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


@pytest.mark.parametrize("way", ["none", "none-dense", "full", "full-dense"])
def test_the_dry_run_tells_bytes_exactly(several, way):
    config = TRAIN.model_copy(update=WAYS[way])
    recipe = Recipe(patching={"kind": "space"}, model=blt_config(**SHAPE), train=config)
    memory = memory_of(recipe, 2)
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
    with joined(120, "cpu") as world:
        return stopped_in(world, corpus, way, run)


def stopped_in(world, corpus, way, run):
    config = TRAIN.model_copy(update=WAYS[way])
    task = task_of(corpus, Stopped if world.rank == world.size - 1 else LanguageTask)
    task.left = 1 + 2 * config.accumulate // world.size
    with pytest.raises(Interrupted, match="stopped at step 3 of 5"):
        fit(task, streams_of(corpus, config, world), config, run, "blt", world)
    return [path.name for path in checkpoint.found(run / "checkpoints" / "blt")]


def going_on(folder, corpus, way, run):
    with joined(120, "cpu") as world:
        return going_on_in(world, corpus, way, run)


def going_on_in(world, corpus, way, run):
    config, task = TRAIN.model_copy(update=WAYS[way]), task_of(corpus)
    if is_cut(config, world):
        task = PackedTask(task, packed(task.held_out, SPACE, None, config), world, False)
    done = fit(task, streams_of(corpus, config, world), config, run, "blt", world)
    return done.step, {name: whole(weight).clone() for name, weight in task.network.state_dict().items()}


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


RECIPE = """
patching = {{ kind = "space" }}
report = {{ prompt = "the ", max_bytes = 4 }}
[data]
train = ["{text}"]
val_every = 10
streams = 2
[model]
encoder = {{ dim = 16, layers = 1, heads = 2, ffn_dim = 24, window = 16 }}
latent = {{ dim = 32, layers = 1, heads = 2, ffn_dim = 40 }}
decoder = {{ dim = 16, layers = 1, heads = 2, ffn_dim = 24, window = 16 }}
hash = {{ rows = 50 }}
cross_heads = 2
[train]
steps = 6
rows = 2
row_bytes = 64
accumulate = 4
warmup = 2
eval_bytes = 400
save_every = 2
precision = "fp32"
device = "cpu"
timeout = 120
shard = "full"
"""

KILLER = """
import os, signal
def init(**_): pass
def finish(): pass
def log(record):
    if record["step"] == 5 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def torchrun(folder, *arguments, restarts=0):
    """`torchrun -m bytequilt train` of two processes in a folder."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", str(restarts), "-m", "bytequilt", "train", "recipe.toml", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)


def test_a_killed_process_is_started_again_and_the_model_is_the_same(corpus, tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE.format(text=corpus.parent / "text.jsonl"))
    (tmp_path / "killer.py").write_text(KILLER)
    whole_run = torchrun(tmp_path, "--out", "whole", "--json")
    assert whole_run.returncode == 0, whole_run.stderr[-3000:]
    report = json.loads(whole_run.stdout)
    assert report["steps"] == 6
    assert metrics.read(tmp_path / "whole" / "metrics.jsonl")[-1]["val_bpb_row"] > 0
    assert whole_run.stderr.count("corpus: ") == 1  # said once, by the first process
    killed = torchrun(tmp_path, "--out", "killed", "--train.tracker", "killer", restarts=1)
    assert killed.returncode == 0, killed.stderr[-3000:]
    assert killed.stderr.count("lost another process") <= 1  # the launcher may be faster
    assert "Traceback" not in killed.stderr
    ours, theirs = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("whole", "killed"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    refused = torchrun(tmp_path, "--out", "muon", "--train.optimizer", "muon")
    assert refused.stderr.count("bytequilt: Muon's products depend on how matrices are cut") == 1
