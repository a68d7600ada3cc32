"""Training speed of a BLT beside a BPE transformer of equal FLOPs per byte, and where the time of each goes.

The transformer's shape is searched for: about the proportions of the BLT's latent transformer, and forward FLOPs per
byte within 2 % of the BLT's. Both learn the same number of random bytes a step, in patches and tokens of the mean sizes
given. A step is that of `bytequilt train`: forward, loss, backward, clipping, AdamW. The two take turns in one process,
and so does a forward pass of the BLT's entropy model, which training takes once a byte, beforehand.
"""

import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Literal
from unittest import mock

import peers
import torch
import tyro
from torch import nn
from train_step import Regions, machine, matmul_gflops, random_batch, table

from bytequilt import LM, Patcher, lm
from bytequilt.baselines import baseline
from bytequilt.baselines.baseline import Baseline
from bytequilt.baselines.networks import baseline_flops, equal_stack
from bytequilt.codec import OFFSET, VOCAB_SIZE
from bytequilt.config import BaselineConfig, BLTConfig, EntropyConfig, RuleConfig, StackConfig, TrainConfig
from bytequilt.data.batches import Batch
from bytequilt.evals.timing import Turn, ratios, speeds, timed
from bytequilt.model.blt import BLT
from bytequilt.model.entropy import EntropyModel
from bytequilt.model.flops import blt_flops, entropy_flops, stack_flops
from bytequilt.model.transformer import Transformer
from bytequilt.study.recipe import load_study
from bytequilt.train import tasks
from bytequilt.train.device import keep_freed_memory
from bytequilt.train.loop import Task, step
from bytequilt.train.optim import optimizers_of
from bytequilt.train.rows import Rows


@dataclass(frozen=True)
class Options:
    """What to measure."""

    size: Literal["S", "M", "L", "small"] = "L"
    """Of the study recipe's BLT; or `small` of peers.py."""
    rows: int = 2
    row_bytes: int = 1024
    mean_patch: float = 4.5
    mean_token: float = 3.9
    vocabulary: int = 8192
    threads: int = 1
    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: under autocast."""
    repeats: int = 9
    warmup: int = 2
    """Steps before the measured ones."""
    seed: int = 0
    json: bool = False
    """One JSON document on stdout instead of tables."""


@dataclass(frozen=True)
class Side:
    """One of those that take turns."""

    network: nn.Module
    flops: dict[str, float]
    """Of a forward pass, per byte, by part."""
    turn: Callable[[], int]
    """Does its work, and returns the bytes that it was done for."""
    passes: int = 3
    """What a turn costs, in forward passes."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    report = {"machine": machine(), "command": shlex.join(sys.argv), "options": asdict(options)} | measured(options)
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print(f"# {report['machine']}\n# {report['command']}")
    for name, shape in report["shapes"].items():
        print(f"# {name}: {shape}")
    print(table(report["sides"]))
    for name, value in report["summary"].items():
        print(f"{name}: {value}")
    for name, rows in report["modules"].items():
        print(f"\n{name}\n{table(rows)}")


def measured(options: Options) -> dict[str, Any]:
    """All sides in turn; then the two that learn, by module."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    keep_freed_memory()
    config, entropy = shapes(options.size)
    blt = blt_side(config, options)
    work, vocabulary = sum(blt.flops.values()), options.vocabulary + OFFSET
    stack = equal_stack(work, config.latent, vocabulary, options.mean_token, options.row_bytes)
    sides = {"BLT": blt, "BPE": bpe_side(stack, options), "entropy model, forward": entropy_side(entropy, options)}
    turns: dict[str, list[Turn]] = {name: [] for name in sides}
    peaks = []
    for number in range(-options.warmup, options.repeats):
        taken = {name: turn(side, options) for name, side in sides.items()}
        peaks.append(matmul_gflops() if options.device == "cpu" else 0.0)
        shown = "  ".join(f"{name} {took.seconds:.3f} s" for name, took in taken.items())
        print(f"turn {number + 1:3} {shown}", file=sys.stderr)
        for name in sides if number >= 0 else ():
            turns[name].append(taken[name])
    found = {
        "shapes": {"BLT": config.model_dump(exclude_none=True), "BPE": stack.model_dump(exclude_none=True)},
        "sides": [{"side": name} | side_report(side, turns[name]) for name, side in sides.items()],
        "ratio": ratios(turns["BLT"], turns["BPE"]),
        "summary": summary(turns, sides, max(peaks)),
    }
    return found | {"modules": {name: by_module(sides[name], options) for name in ("BLT", "BPE")}}


def turn(side: Side, options: Options) -> Turn:
    """One turn of a side, the device's work included."""

    def work() -> int:
        size = side.turn()
        wait(options.device)
        return size

    return timed(work)


def wait(device: str) -> None:
    """Until the device has done what it was asked to do."""
    if device != "cpu":
        torch.accelerator.synchronize()


def side_report(side: Side, turns: list[Turn]) -> dict[str, Any]:
    speed, flops = speeds(turns), sum(side.flops.values())
    return {
        "parameters": sum(weight.numel() for weight in side.network.parameters()),
        "kflops_per_byte": flops / 1e3,
        **speed,
        "gflops": side.passes * flops * speed["bytes_per_s"] / 1e9,
    }


def summary(turns: dict[str, list[Turn]], sides: dict[str, Side], peak: float) -> dict[str, str]:
    """Ratios of turns that stood next to each other."""
    slower: dict[str, list[float]] = {"seconds": [], "processor": [], "scored": []}
    for blt, bpe, entropy in zip(*turns.values(), strict=True):
        cost = {name: took.seconds / took.bytes for name, took in (("blt", blt), ("bpe", bpe), ("e", entropy))}
        slower["seconds"].append(cost["bpe"] / cost["blt"])
        slower["processor"].append(bpe.processor / bpe.bytes * blt.bytes / blt.processor)
        slower["scored"].append(cost["bpe"] / (cost["blt"] + cost["e"]))
    shown = {name: f"{statistics.median(x):.3f} ({min(x):.3f} to {max(x):.3f})" for name, x in slower.items()}
    flops = {name: sum(side.flops.values()) for name, side in sides.items()}
    return {
        "speed, BLT / BPE": shown["seconds"],
        "in processor seconds": shown["processor"],
        "with the entropies of each byte computed too": shown["scored"],
        "FLOPs per byte, BLT / BPE": f"{flops['BLT'] / flops['BPE']:.4f}",
    } | ({"matrix-product peak, GFLOP/s": f"{peak:.1f}"} if peak else {})


# ------------------------------------------------------------------------------------------------------------- sides


def shapes(size: str) -> tuple[BLTConfig, EntropyConfig]:
    """The BLT of that size, and its entropy model."""
    if size == "small":
        return peers.SMALL, peers.SMALL_ENTROPY
    study = load_study("study")
    network = study.network("blt-entropy", size)
    assert isinstance(network, BLTConfig)
    assert study.entropy is not None
    return network, study.entropy


def blt_side(config: BLTConfig, options: Options) -> Side:
    ids_BN, closes_BN = random_batch(options.rows, options.row_bytes, options.mean_patch)
    batch = Batch.of(ids_BN, closes_BN, torch.ones_like(closes_BN))
    model = LM(BLT(config), Patcher(RuleConfig(kind="byte")))  # the patches are those of the batch
    task = tasks.LanguageTask(model, [])
    return learner(task, batch, blt_parts(config, options), options)


def bpe_side(stack: StackConfig, options: Options) -> Side:
    vocabulary = Lengths(options.vocabulary, options.mean_token)
    tokens = round(options.row_bytes / options.mean_token)
    ids_BN = torch.randint(OFFSET, vocabulary.size, (options.rows, tokens))
    ids_BN[:, 0] = 1
    nothing = torch.zeros_like(ids_BN, dtype=torch.bool)
    batch = Batch.of(ids_BN, nothing, ~nothing)
    config = BaselineConfig(stack=stack, vocabulary=vocabulary.size, token_bytes=options.mean_token)
    model = Baseline(Transformer(stack, vocabulary.size), vocabulary, config)
    return learner(tasks.LanguageTask(model, []), batch, bpe_parts(config, options), options)


def entropy_side(config: EntropyConfig, options: Options) -> Side:
    network, ids_BN = EntropyModel(config), random_batch(options.rows, options.row_bytes, options.mean_patch)[0]
    network, ids_BN = network.to(options.device).eval(), ids_BN.to(options.device)

    @torch.no_grad()
    def turn() -> int:
        network(ids_BN)
        return ids_BN.numel()

    flops = entropy_flops(config, options.row_bytes) / options.row_bytes
    return Side(network, {"entropy model": flops}, turn, passes=1)


def learner(task: Task, batch: Batch, flops: dict[str, float], options: Options) -> Side:
    """A side that takes training steps on one batch."""
    train = TrainConfig(steps=1, rows=options.rows, row_bytes=options.row_bytes, lr=1e-4)
    found = optimizers_of(task.network.to(options.device).train(), train)
    bf16 = options.precision == "bf16"
    return Side(task.network, flops, lambda: step(task, [batch], found, train, bf16)["learnt"])


@dataclass(frozen=True)
class Lengths:
    """A vocabulary of which only the sizes of its tokens are known: so many bytes in the mean."""

    ranks: int
    mean: float

    @property
    def size(self) -> int:
        return self.ranks + OFFSET

    def text(self, id: int) -> bytes:
        return b" " * (int((id + 1) * self.mean) - int(id * self.mean)) if id >= OFFSET else b""


# ------------------------------------------------------------------------------------------------------------- FLOPs


def blt_parts(config: BLTConfig, options: Options) -> dict[str, float]:
    """FLOPs per byte of a forward pass, by the parts that are timed."""
    ids, patches = float(options.row_bytes), options.row_bytes / options.mean_patch
    whole, found = blt_flops(config, ids, patches), {}
    for name, positions in (("encoder", ids), ("latent", patches), ("decoder", ids)):
        found |= stack_parts(f"{name} ", getattr(config, name), positions)
    found["head, loss"] = 2 * config.decoder.dim * VOCAB_SIZE * ids
    found["patch reads bytes"] = whole["encoder"] - stack_flops(config.encoder, ids)
    found["latent projection"] = whole["latent"] - stack_flops(config.latent, patches)
    found["byte reads patch"] = whole["decoder"] - stack_flops(config.decoder, ids) - found["head, loss"]
    return {name: value / ids for name, value in found.items() if value}


def bpe_parts(config: BaselineConfig, options: Options) -> dict[str, float]:
    tokens = options.row_bytes / options.mean_token
    assert config.stack is not None
    found = stack_parts("", config.stack, tokens)
    head = baseline_flops(config, options.row_bytes)["head"]
    return {name: value / options.row_bytes for name, value in found.items()} | {"head, loss": head}


def stack_parts(prefix: str, stack: StackConfig, positions: float) -> dict[str, float]:
    forward = 6 * stack.layers * positions * stack.dim * stack.hidden_dim
    return {f"{prefix}attention": stack_flops(stack, positions) - forward, f"{prefix}feed-forward": forward}


# --------------------------------------------------------------------------------------------------------- by module


class Marks(Regions):
    """Regions in processor seconds on a CPU, which other work disturbs less, and by the clock on another device."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.clock = time.process_time if device == "cpu" else time.perf_counter
        self.restart()

    def restart(self) -> None:
        self.seconds, self.inside, self.since = {}, [], self.clock()

    def count(self) -> None:
        wait(self.device)
        now, part = self.clock(), self.inside[-1] if self.inside else ("other", "")
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.since
        self.since = now


def by_module(side: Side, options: Options) -> list[dict[str, Any]]:
    """Each part's seconds in the median of further steps, its share of them and of the FLOPs, and GFLOP/s."""
    marks, runs = Marks(options.device), []
    patched: list[tuple[Any, str, str]] = [
        (lm, "target_nats", "head, loss"),
        (baseline, "target_nats", "head, loss"),
        (nn.utils, "clip_grad_norm_", "clip, AdamW"),
        (torch.optim.AdamW, "step", "clip, AdamW"),
        (Rows, "step", "clip, AdamW"),
    ]
    with ExitStack() as restored:
        for owner, method, name in patched:
            restored.enter_context(mock.patch.object(owner, method, getattr(owner, method)))
            marks.watch(owner, method, name)
        watch(marks, side.network)
        for number in range(-options.warmup, options.repeats):
            marks.restart()
            size = side.turn()
            marks.count()
            runs += [marks.seconds] * (number >= 0)
    return rows_of(runs, {name: size * flops for name, flops in side.flops.items()})


def watch(marks: Marks, network: Any) -> None:
    """Marks the parts of a BLT or of a transformer; what a block adds to attention is counted as feed-forward."""
    if isinstance(network, BLT):
        stacks = {f"{name} ": getattr(network, name).stack for name in ("encoder", "latent", "decoder")}
        parts = [(network.encoder.embed, "forward", "embedding"), (network.encoder, "patch", "patch reads bytes")]
        parts += [(cross, "forward", "byte reads patch") for cross in network.decoder.cross]
        parts += [(network.encoder.hash, "forward", "hash look-up")] if network.encoder.hash else []
        parts.append((network.decoder, "patch_inputs", "byte reads patch"))
        parts.append((network.latent.project, "forward", "latent projection"))
    else:
        stacks, parts = {"": network.stack}, [(network.embed, "forward", "embedding")]
    last = network.decoder if isinstance(network, BLT) else network
    parts += [(last.norm, "forward", "head, loss"), (last.head, "forward", "head, loss")]
    for prefix, stack in stacks.items():
        for block in stack.blocks:
            parts += [(block, "forward", f"{prefix}feed-forward"), (block.attention, "forward", f"{prefix}attention")]
    for owner, method, name in parts:
        marks.watch(owner, method, name)


def rows_of(runs: list[dict[tuple[str, str], float]], flops: dict[str, float]) -> list[dict[str, Any]]:
    """A line for each part, largest first, and one for the whole step."""
    parts = {part for run in runs for part in run}
    seconds = {part: statistics.median(run.get(part, 0.0) for run in runs) for part in parts}
    total, rows = sum(seconds.values()), []
    for name in {name for name, _ in parts}:
        ways = {way: seconds.get((name, way), 0.0) for way in ("forward", "backward", "")}
        rows.append(row_of(name, ways, flops.get(name, 0.0), total, sum(flops.values())))
    rows.sort(key=lambda row: -row["time_share"])
    whole = {way: sum(time for (_, w), time in seconds.items() if w == way) for way in ("forward", "backward", "")}
    return [*rows, row_of("whole step", whole, sum(flops.values()), total, sum(flops.values()))]


def row_of(name: str, ways: dict[str, float], flops: float, total: float, work: float) -> dict[str, Any]:
    seconds = sum(ways.values())
    return {
        "part": name,
        "forward_ms": 1e3 * ways["forward"],
        "backward_ms": 1e3 * ways["backward"],
        "time_share": seconds / total,
        "flops_share": flops / work,
        "gflops": 3 * flops / seconds / 1e9 if flops else None,
    }


if __name__ == "__main__":
    main()
