import json
import math
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blt
from safetensors.torch import load_file

from bytequilt.codec import decode
from bytequilt.config import DataConfig, EntropyConfig, Recipe, RuleConfig, StackConfig, TrainConfig, UserError
from bytequilt.data.batches import Batch, Batches
from bytequilt.data.prepare import ingest
from bytequilt.data.shards import held_out
from bytequilt.lm import LM, load
from bytequilt.model.entropy import EntropyModel
from bytequilt.model.loss import target_nats
from bytequilt.patching.patcher import Patcher
from bytequilt.train import checkpoint, metrics
from bytequilt.train.device import arrange
from bytequilt.train.loop import Interrupted, fit, step
from bytequilt.train.optim import lr_factor, optimizers_of
from bytequilt.train.run import train
from bytequilt.train.tasks import EntropyTask, LanguageTask

SPACE = RuleConfig(kind="space")
TRAIN = TrainConfig(
    steps=7, rows=2, row_bytes=64, warmup=2, eval_every=4, eval_bytes=200, save_every=3, precision="fp32", device="cpu"
)
LOCAL = StackConfig(dim=16, layers=1, heads=2, ffn_dim=24, window=16)
SHAPE = {"encoder": LOCAL, "latent": StackConfig(dim=32, layers=1, heads=2, ffn_dim=40), "decoder": LOCAL}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """40 documents of words, each with a prompt."""
    random, words = (
        np.random.default_rng(0),
        ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "é", "日本\n"],
    )
    rows = [{"ask": f"prompt {n}: ", "text": " ".join(random.choice(words, 40))} for n in range(40)]
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.fixture(scope="module")
def corpus(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    ingest(DataConfig(train=(text,), val_every=10), folder)
    return folder


def batches_of(corpus, config=TRAIN):
    return Batches(corpus / "train", config, SPACE)


def task_of(corpus, kind=LanguageTask, seed=0):
    held = [document.data for document in held_out(corpus, TRAIN.eval_bytes)]
    return kind(LM(blt(seed, **SHAPE), Patcher(SPACE)), held)


def run(corpus, folder, kind=LanguageTask, **change):
    """One training run of a fresh network: its task, how far it came, and what it wrote down, times aside."""
    config, task = TRAIN.model_copy(update=change), task_of(corpus, kind)
    done = fit(task, batches_of(corpus, config), config, folder, "blt")
    return task, done, records(folder)


def records(folder):
    timed = ("seconds", "bytes_per_second", "processor_seconds")
    return [{k: v for k, v in r.items() if k not in timed} for r in metrics.read(folder / "metrics.jsonl")]


def assert_same_weights(one, other):
    for (name, a), (_, b) in zip(one.network.state_dict().items(), other.network.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


# ----------------------------------------------------------------------------------------------- going on, stopping


class Terminated(LanguageTask):
    """Somebody ends the process politely in the middle of its fifth batch."""

    left = 5

    def loss(self, batch):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().loss(batch)


class Killed(Terminated):
    """The process dies in its fifth batch, two steps after a checkpoint."""

    def loss(self, batch):
        if self.left == 1:
            raise ConnectionResetError
        self.left -= 1
        return LanguageTask.loss(self, batch)


@pytest.mark.parametrize(("end", "raised"), [(Terminated, Interrupted), (Killed, ConnectionResetError)])
@pytest.mark.parametrize(
    "change",
    [{}, {"optimizer": "muon", "schedule": "wsd"}, {"accumulate": 2}, {"row_bytes": 16}, {"table_optimizer": "dense"}],
    ids=str,
)
def test_a_resumed_run_is_an_uninterrupted_one_bit_for_bit(corpus, tmp_path, end, raised, change):
    whole, _, written = run(corpus, tmp_path / "whole", **change)
    handlers = signal.getsignal(signal.SIGTERM)
    with pytest.raises(raised):
        run(corpus, tmp_path / "ended", end, **change)
    assert signal.getsignal(signal.SIGTERM) == handlers
    assert len(written) == 7 > len(records(tmp_path / "ended"))
    resumed, done, rewritten = run(corpus, tmp_path / "ended", **change)
    assert_same_weights(resumed, whole)
    assert rewritten == written
    assert (done.step, done.bytes) == (7, written[-1]["bytes"])


def test_a_stopped_run_has_saved_where_it_is(corpus, tmp_path):
    with pytest.raises(Interrupted, match="stopped at step 5 of 7"):
        run(corpus, tmp_path, Terminated)
    assert checkpoint.finished(tmp_path / "checkpoints" / "blt")[-1].name == "step-00000005"


def test_a_checkpoint_holds_the_weights_as_they_are_used(corpus, tmp_path):
    # the first six steps of both are the same, and each reads a part of the table
    constant = {"schedule": "wsd", "decay": 0.01, "eval_every": 100, "row_bytes": 16}
    short, *_ = run(corpus, tmp_path / "short", steps=6, **constant)
    run(corpus, tmp_path / "long", steps=9, **constant)
    path = tmp_path / "long" / "checkpoints" / "blt" / "step-00000006"
    stored, kept = (load_file(path / f"{name}.safetensors") for name in ("model", "optimizer"))
    for name, weight in short.network.state_dict().items():
        torch.testing.assert_close(stored[name], weight, atol=1e-7, rtol=1e-5, msg=name)
    behind = [weight for name, weight in kept.items() if name.endswith(".weight")]
    assert not any(torch.equal(weight, stored["encoder.hash.weight"]) for weight in behind)


def test_a_finished_run_does_not_train_again(corpus, tmp_path):
    first, _, written = run(corpus, tmp_path)
    again, done, rewritten = run(corpus, tmp_path, Terminated)  # would end in its fifth batch
    assert_same_weights(again, first)
    assert (done.step, rewritten) == (7, written)


def test_the_last_checkpoints_are_kept(corpus, tmp_path):
    run(corpus, tmp_path, save_every=1, keep=3)
    found = [path.name for path in (tmp_path / "checkpoints" / "blt").iterdir()]
    assert sorted(found) == ["step-00000005", "step-00000006", "step-00000007"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_damaged_checkpoint_is_named(corpus, tmp_path, name, keep):
    run(corpus, tmp_path)
    path = tmp_path / "checkpoints" / "blt" / "step-00000007"
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[: int(keep * len(data))])
    with pytest.raises(UserError, match=f"checkpoint {path} is damaged") as caught:
        run(corpus, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_batch_is_refused(corpus, tmp_path):
    run(corpus, tmp_path)
    with pytest.raises(UserError, match="rows 2, and now it is 3"):
        run(corpus, tmp_path, steps=9, rows=3)


# --------------------------------------------------------------------------------------------------------- one step


def weights_after(corpus, batches, **change):
    """The network after one step of plain gradient descent: the gradient, seen from outside."""
    task, config = task_of(corpus), TRAIN.model_copy(update={"clip": 1e9} | change)
    arrange(task.network, config)
    record = step(task, batches, [torch.optim.SGD(task.network.parameters(), lr=1.0)], config, bf16=False)
    return task.network.state_dict(), record


def test_two_batches_are_one_batch_of_twice_the_rows(corpus):
    batch = next(batches_of(corpus, TRAIN.model_copy(update={"rows": 4})))
    tensors = (batch.ids_BN, batch.closes_BN, batch.learn_BN)
    halves = [Batch.of(*(tensor[half] for tensor in tensors)) for half in (slice(0, 2), slice(2, 4))]
    (one, whole), (two, parts) = weights_after(corpus, [batch]), weights_after(corpus, halves)
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-6, rtol=1e-5)
    assert whole["targets"] == parts["targets"] == int(batch.learn_BN.sum())
    assert whole["bpb"] == pytest.approx(parts["bpb"], abs=1e-4)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_blocks_give_the_same_gradients_and_leave_evaluation_alone(corpus, backend):
    batch, compiled = next(batches_of(corpus)), []

    def watched(graph, inputs):
        compiled.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    plain, task = task_of(corpus), task_of(corpus)
    arrange(task.network, TRAIN.model_copy(update={"compile": True}), watched)
    for each in (plain, task):
        each.loss(batch).backward()
    assert compiled
    count = len(compiled)
    assert task.evaluate() == plain.evaluate()  # chunks of many lengths
    assert len(compiled) == count
    pairs = zip(plain.network.named_parameters(), task.network.parameters(), strict=True)
    for (name, one), other in pairs:
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_arranging_again_undoes_what_was_arranged(corpus):
    network = task_of(corpus).network
    for change in ({"checkpoint_activations": True}, {"checkpoint_activations": True}, {}):
        arrange(network, TRAIN.model_copy(update=change))
    assert not any("forward" in vars(module) for module in network.modules())


def test_recomputed_activations_give_the_same_gradients(corpus):
    batch = next(batches_of(corpus))
    (one, _), (two, _) = (weights_after(corpus, [batch], checkpoint_activations=c) for c in (False, True))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_gradient_is_clipped(corpus):
    batch = next(batches_of(corpus))
    before = task_of(corpus).network.state_dict()
    after, record = weights_after(corpus, [batch], clip=0.01)
    moved = math.sqrt(sum(float((after[name] - before[name]).square().sum()) for name in before))
    assert record["grad_norm"] > 0.01
    assert moved == pytest.approx(0.01, rel=1e-3)


class BadLoss(LanguageTask):
    """The loss is not a number in these batches, counted from 1."""

    bad, number = frozenset({3, 4}), 0

    def loss(self, batch):
        nats = super().loss(batch)
        self.number += 1
        return nats * math.nan if self.number in self.bad else nats


class BadGradient(BadLoss):
    """The loss is finite and its gradient is not."""

    def loss(self, batch):
        nats = LanguageTask.loss(self, batch)
        self.number += 1
        weight = self.network.decoder.norm.weight
        return nats + (weight - weight.detach()).abs().sqrt().sum() if self.number in self.bad else nats


@pytest.mark.parametrize("kind", [BadLoss, BadGradient])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(corpus, tmp_path, kind):
    task, done, written = run(corpus, tmp_path, kind)
    assert [record["skipped"] for record in written] == [0, 0, 1, 2, 2, 2, 2]
    assert (done.step, done.skipped, done.bad_steps) == (7, 2, 0)
    assert all(weight.isfinite().all() for weight in task.network.parameters())
    broken, batch = task_of(corpus, kind), next(batches_of(corpus))
    broken.bad = {1}
    before = {name: weight.clone() for name, weight in broken.network.state_dict().items()}
    assert not step(broken, [batch], optimizers_of(broken.network, TRAIN), TRAIN, bf16=False)["good"]
    assert all(torch.equal(before[name], weight) for name, weight in broken.network.state_dict().items())
    assert all(weight.grad is None for weight in broken.network.parameters())


@pytest.mark.parametrize("kind", [BadLoss, BadGradient])
def test_too_many_bad_steps_in_a_row_end_the_run(corpus, tmp_path, kind):
    with pytest.raises(UserError, match=r"not finite for 2 steps in a row, .*step 4"):
        run(corpus, tmp_path, kind, max_bad_steps=2)


@pytest.mark.parametrize("learnt", [None, slice(5, 9)])
def test_only_targets_to_learn_cost(corpus, learnt):
    batch = next(batches_of(corpus))
    if learnt is not None:
        batch.learn_BN[:] = False
        batch.learn_BN[:, learnt] = True
    logits = torch.randn(*batch.ids_BN.shape, 260)
    log_p = logits.double().log_softmax(-1)
    slow = -sum(float(log_p[b, t - 1, batch.ids_BN[b, t]]) for b, t in batch.learn_BN.nonzero().tolist())
    assert float(target_nats(logits, batch.ids_BN, batch.learn_BN)) == pytest.approx(slow, rel=1e-5)


def test_prompts_are_read_and_not_learnt(text, tmp_path):
    ingest(DataConfig(train=(text,), val_every=10, prompt_field="ask"), tmp_path)
    batches = batches_of(tmp_path, TRAIN.model_copy(update={"row_bytes": 512}))
    for batch in (next(batches) for _ in range(4)):
        assert b"prompt" in decode(batch.ids_BN.flatten().tolist())
        assert b"prompt" not in decode(batch.ids_BN[batch.learn_BN].tolist())


def test_the_entropy_model_learns(corpus, tmp_path):
    task = EntropyTask(EntropyModel(EntropyConfig(dim=16, layers=1, heads=2, ffn_dim=24)), task_of(corpus).held_out)
    before = task.evaluate()["val_bpb"]
    fit(task, Batches(corpus / "train", TRAIN, None), TRAIN.model_copy(update={"lr": 1e-2}), tmp_path, "entropy")
    assert metrics.read(tmp_path / "metrics.jsonl")[-1]["val_bpb"] < before - 0.2


# --------------------------------------------------------------------------------------------------------- optimizer


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("make", [lambda: blt(**SHAPE), lambda: EntropyModel(EntropyConfig(dim=16, layers=1, heads=2))])
def test_every_parameter_is_in_one_group_and_norms_and_embeddings_do_not_decay(optimizer, make):
    network, config = make(), TRAIN.model_copy(update={"optimizer": optimizer, "lr": 1e-3, "hash_lr": 1e-2})
    groups = [group for found in optimizers_of(network, config) for group in found.param_groups]
    of = {id(weight): group for group in groups for weight in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(of) == len(list(network.parameters()))
    for name, weight in network.named_parameters():
        embedding = "embed" in name or "hash" in name
        assert (of[id(weight)]["weight_decay"] == 0) == (embedding or "norm" in name), name
        assert of[id(weight)]["peak"] == (1e-2 if embedding else 1e-3), name


def test_muon_has_the_matrices_inside_blocks():
    network = blt(**SHAPE)
    _, muon, _ = optimizers_of(network, TRAIN.model_copy(update={"optimizer": "muon"}))
    names = {id(weight): name for name, weight in network.named_parameters()}
    found = {names[id(weight)] for weight in muon.param_groups[0]["params"]}
    assert found == {n for n, w in network.named_parameters() if ".blocks." in n and w.ndim == 2}


CORNERS = [  # schedule, and the factor before each of these steps
    ({"schedule": "cosine"}, {0: 0.1, 9: 1.0, 10: 1.0, 55: 0.5, 100: 0.0}),
    ({"schedule": "cosine", "final_lr": 0.1}, {55: 0.55, 100: 0.1}),
    ({"schedule": "wsd"}, {0: 0.1, 9: 1.0, 10: 1.0, 80: 1.0, 90: 0.5, 100: 0.0}),
    ({"schedule": "wsd", "final_lr": 0.1, "decay": 0.5}, {50: 1.0, 75: 0.55, 100: 0.1}),
    ({"schedule": "cosine", "warmup": 0}, {0: 1.0, 100: 0.0}),
    ({"schedule": "cosine", "warmup": 200}, {0: 0.005, 99: 0.5}),
]


@pytest.mark.parametrize(("change", "wanted"), CORNERS, ids=lambda c: str(c)[:40])
def test_the_learning_rate_turns_its_corners(change, wanted):
    config = TrainConfig(**({"steps": 100, "warmup": 10} | change))
    assert {at: lr_factor(at, config) for at in wanted} == {at: pytest.approx(f) for at, f in wanted.items()}


# ---------------------------------------------------------------------------------------------------------- pipeline


KEYS = {"bpb", "gzip_bpb", "xz_bpb", "mean_patch_bytes", "bytes_per_second", "flops_per_byte", "steps", "sample"}


def recipe(text, kind, **change):
    entropy = {
        "entropy": {"dim": 16, "layers": 1, "heads": 2, "ffn_dim": 24, "window": 16},
        "entropy_train": TRAIN.model_dump() | {"steps": 4, "lr": 1e-2},
        "patching": {"kind": "entropy", "target_bytes": 3.0},
    }
    fields = {
        "data": {"train": [text], "val_every": 10},
        "patching": {"kind": "space"},
        "model": {**{n: s.model_dump() for n, s in SHAPE.items()}, "hash": {"rows": 50}, "cross_heads": 2},
        "train": TRAIN.model_dump() | {"steps": 4},
        "report": {"prompt": "the ", "max_bytes": 20},
    }
    return Recipe.model_validate(fields | (entropy if kind == "entropy" else {}) | change)


def contents(folder: Path):
    return {p.relative_to(folder): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module", params=["entropy", "space"])
def trained(request, text, tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("run") / "run", recipe(text, request.param)
    return made, folder, train(made, folder)


def test_a_recipe_ends_in_a_report_and_a_model(trained):
    made, folder, report = trained
    assert report.keys() >= KEYS
    assert ("entropy_model_bpb" in report) == made.patching.needs_entropy
    assert report == json.loads((folder / "report.json").read_text())
    assert report["steps"] == 4
    assert report["sample"].startswith("the ")
    assert 0 < report["bpb"] < 12
    scores = load(folder).score_documents(documents(folder))
    assert report["bpb"] == pytest.approx(sum(s.bits for s in scores) / sum(map(len, documents(folder))))
    if made.patching.needs_entropy:
        assert report["mean_patch_bytes"] == pytest.approx(3.0, rel=0.3)


def documents(folder):
    return [document.data for document in held_out(folder / "corpus")]


def test_what_is_done_stays_done(trained):
    made, folder, report = trained
    before = contents(folder)
    assert train(made, folder) == report
    assert contents(folder) == before


def test_a_run_directory_belongs_to_its_recipe(trained, tmp_path):
    made, folder, _ = trained
    with pytest.raises(UserError, match="another recipe"):
        train(made.model_copy(update={"train": made.train.model_copy(update={"lr": 1.0})}), folder)
    with pytest.raises(UserError, match="run of 4 steps, which is more than 3"):
        train(made.model_copy(update={"train": made.train.model_copy(update={"steps": 3})}), folder)
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(UserError, match="neither empty nor a run directory"):
        train(made, tmp_path)


def test_training_can_start_from_a_model(trained, text, tmp_path):
    made, folder, report = trained
    change = {"train": TRAIN.model_dump() | {"steps": 1, "lr": 1e-12, "init": str(folder)}}
    if made.patching.needs_entropy:
        change |= {"entropy": None, "entropy_train": None, "entropy_init": str(folder)}
        change |= {"patching": {"kind": "entropy", "threshold": load(folder).patcher.rule.threshold}}
    again = train(recipe(text, made.patching.kind, **change), tmp_path / "run")
    assert again["bpb"] == pytest.approx(report["bpb"], abs=1e-4)
    assert not (tmp_path / "run" / "entropy").exists()


def test_a_model_of_another_shape_is_no_start(trained, text, tmp_path):
    _made, folder, _ = trained
    change = {"train": TRAIN.model_dump() | {"init": str(folder)}}
    wider = recipe(text, "space", **change)
    wider = wider.model_copy(update={"model": wider.model.model_copy(update={"slots": 1})})
    with pytest.raises(UserError, match="does not fit") as caught:
        train(wider, tmp_path / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are not told anything")
def test_memory_that_is_freed_is_kept_and_not_asked_for_again():
    script = """
import resource, sys, torch
from bytequilt.train.device import keep_freed_memory
if sys.argv[1] == "kept": keep_freed_memory()
def use(): torch.ones(16 * 2**20)
for _ in range(3): use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(60): use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {
        how: int(subprocess.run([sys.executable, "-c", script, how], capture_output=True, text=True, check=True).stdout)
        for how in ("kept", "given")
    }
    assert faults["kept"] < faults["given"] / 4
