"""A training step of a BLT, ours beside Hugging Face's: bytes per second and peak memory, and where our time goes.

Both sides are the `small` shape of `peers.py` with the same weights, the same random bytes and the same patches, given
from outside. A step is forward, loss and backward, with `--optimizer` AdamW too. Each side lives in a process of its
own; they take steps in turn, so that what else the machine does falls on both alike. On a machine that is busy,
processor seconds say more than the clock does.
"""

import json
import multiprocessing
import os
import platform
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import tyro

# torch is imported in the child processes alone: what a parent holds would count in the peak memory of its children.


@dataclass(frozen=True)
class Options:
    """What to measure."""

    sides: tuple[Literal["ours", "theirs"], ...] = ("ours", "theirs")
    """Which implementations take part."""
    rows: int = 4
    row_bytes: int = 2048
    one_row: bool = False
    """Also measure ours with the same bytes in a single row: how flat the cost per byte is."""
    mean_patch: float = 4.5
    threads: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: under autocast."""
    checkpoint_activations: bool = False
    """Recompute transformer blocks in the backward pass."""
    optimizer: bool = False
    """Count a step of fused AdamW in."""
    repeats: int = 7
    warmup: int = 2
    """Steps before the measured ones."""
    seed: int = 0
    profile: bool = False
    """Instead, time ours by module, beside the matrix-product peak of the machine in the same run."""
    json: bool = False
    """One JSON document on stdout instead of a table."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    report = {"machine": machine(), "command": shlex.join(sys.argv), "options": asdict(options)}
    report |= profiled(options) if options.profile else measured(options)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print(f"# {report['machine']}\n# {report['command']}\n# {sizes(options)}")
        print(table(report["modules"] if options.profile else report["sides"]))
        for name, value in report["summary"].items():
            print(f"{name}: {value}")


# -------------------------------------------------------------------------------------------------------- comparison


def measured(options: Options) -> dict[str, Any]:
    """Runs all sides in turn and reports each one's speed and memory, and their ratios."""
    shapes = {side: (side, options.rows, options.row_bytes) for side in options.sides}
    if options.one_row:
        shapes["ours, one row"] = ("ours", 1, options.rows * options.row_bytes)
    with workers(serve, {name: (*shape, options) for name, shape in shapes.items()}) as pipes:
        ready = {name: receive(pipe) for name, pipe in pipes.items()}
        steps: dict[str, list[dict[str, float]]] = {name: [] for name in pipes}
        for number in range(-options.warmup, options.repeats):
            for name, pipe in pipes.items():
                pipe.send("step")
                taken = receive(pipe)
                print(f"step {number + 1:3} {name:14} {taken['seconds']:8.3f} s", file=sys.stderr)
                if number >= 0:
                    steps[name].append(taken)
        for name, pipe in pipes.items():
            pipe.send("end")
            ready[name] |= receive(pipe)
    sides = [{"side": name, **side_report(ready[name], taken, options)} for name, taken in steps.items()]
    return {"sides": sides, "summary": ratios({side["side"]: side for side in sides})}


def side_report(ends: dict[str, float], steps: list[dict[str, float]], options: Options) -> dict[str, Any]:
    speeds = [options.rows * options.row_bytes / step["seconds"] for step in steps]
    return {
        "bytes_per_s": statistics.median(speeds),
        "min": min(speeds),
        "max": max(speeds),
        "forward_s": statistics.median(step["forward"] for step in steps),
        "backward_s": statistics.median(step["backward"] for step in steps),
        "cpu_s": statistics.median(step["cpu"] for step in steps),
        "peak_mib": ends["peak_mib"],
        "before_mib": ends["before_mib"],
        "loss": steps[0]["loss"],
    }


def ratios(sides: dict[str, dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if {"ours", "theirs"} <= sides.keys():
        ours, theirs = sides["ours"], sides["theirs"]
        found["speed, ours / theirs"] = round(ours["bytes_per_s"] / theirs["bytes_per_s"], 3)
        found["processor seconds, theirs / ours"] = round(theirs["cpu_s"] / ours["cpu_s"], 3)
        found["peak memory, ours / theirs"] = round(ours["peak_mib"] / theirs["peak_mib"], 3)
        grown = [side["peak_mib"] - side["before_mib"] for side in (ours, theirs)]
        found["memory of a step beyond what was held before, ours / theirs"] = round(grown[0] / grown[1], 3)
        found["difference of the losses of the first step"] = abs(ours["loss"] - theirs["loss"])
    if {"ours", "ours, one row"} <= sides.keys():
        flat = sides["ours"]["bytes_per_s"] / sides["ours, one row"]["bytes_per_s"]
        found["cost per byte, one row / several rows"] = round(flat, 3)
        flat = sides["ours, one row"]["cpu_s"] / sides["ours"]["cpu_s"]
        found["processor seconds, one row / several rows"] = round(flat, 3)
    return found


@contextmanager
def workers(run: Callable[..., None], jobs: dict[str, tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """One process for each job, which runs with a pipe and the job's arguments, and our end of it; gone at the end."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name, arguments in jobs.items():
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=run, args=(theirs, *arguments), daemon=True))
        processes[-1].start()
        theirs.close()
    try:
        yield pipes
    finally:
        for process in processes:
            process.terminate()
            process.join()


def receive(pipe: Any) -> dict[str, float]:
    try:
        return pipe.recv()
    except EOFError:
        sys.exit("a side ended early; its error stands above")


def serve(pipe: Any, side: str, rows: int, row_bytes: int, options: Options) -> None:
    """In a child process: takes a step whenever asked, and tells the peak memory at the end."""
    import torch

    torch.set_num_threads(options.threads)
    task = Task(side, rows, row_bytes, options)
    pipe.send({"before_mib": peak_mib()})
    while pipe.recv() == "step":
        pipe.send(task.step())
    pipe.send({"peak_mib": peak_mib()})


def peak_mib() -> float:
    unit = 2**20 if platform.system() == "Darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


class Task:
    """A network of one side, its batch, and its training step."""

    def __init__(self, side: str, rows: int, row_bytes: int, options: Options) -> None:
        import peers
        import torch

        from bytequilt import LM, Patcher
        from bytequilt.config import RuleConfig, TrainConfig
        from bytequilt.data.batches import Batch
        from bytequilt.evals.peers import hugging_face, lengths_with_next
        from bytequilt.model.blt import BLT
        from bytequilt.train.device import arrange

        torch.manual_seed(options.seed)
        self.network: Any = BLT(peers.SMALL)  # the same seed, so the same weights on both sides
        self.options = options
        ids_BN, closes_BN = random_batch(rows, row_bytes, options.mean_patch)
        self.batch = Batch.of(ids_BN, closes_BN, torch.ones_like(closes_BN))
        self.lengths_BP = lengths_with_next(ids_BN, closes_BN)
        self.loss: Callable[[], Any] = self.our_loss
        if side == "theirs":
            self.network = hugging_face(LM(self.network, Patcher(RuleConfig(kind="byte"))))  # patches are given
            self.loss = self.their_loss
            if options.checkpoint_activations:
                self.network.gradient_checkpointing_enable()
        elif options.checkpoint_activations:
            arrange(self.network, TrainConfig(steps=1, checkpoint_activations=True))
        self.network.train()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), fused=True) if options.optimizer else None

    def our_loss(self) -> Any:
        from bytequilt.model.loss import target_nats
        from bytequilt.model.segments import Patches

        patches = Patches.from_closes(self.batch.ids_BN, self.batch.closes_BN)
        nats = target_nats(self.network(self.batch.ids_BN, patches), self.batch.ids_BN, self.batch.learn_BN)
        return nats / self.batch.learn_BN[:, 1:].sum()

    def their_loss(self) -> Any:
        ids_BN = self.batch.ids_BN
        return self.network(ids_BN, patch_lengths=self.lengths_BP, labels=ids_BN, use_cache=False).loss

    def step(self) -> dict[str, float]:
        import torch

        begun, cpu = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.options.precision == "bf16"):
            loss = self.loss()
        between = time.perf_counter()
        loss.backward()
        if self.optimizer:
            self.optimizer.step()
        self.network.zero_grad(set_to_none=True)
        ended = time.perf_counter()
        times = {"seconds": ended - begun, "forward": between - begun, "backward": ended - between}
        times["cpu"] = time.process_time() - cpu
        return times | {"loss": float(loss.detach())}


def random_batch(rows: int, row_bytes: int, mean_patch: float) -> tuple[Any, Any]:
    """Random bytes behind a BOS, and after which ids a patch closes: always after the BOS, then with equal odds."""
    import torch

    ids_BN = torch.randint(4, 260, (rows, row_bytes))
    ids_BN[:, 0] = 1
    closes_BN = torch.rand(rows, row_bytes) < 1 / mean_patch
    closes_BN[:, 0] = True
    return ids_BN, closes_BN


# ----------------------------------------------------------------------------------------------------------- profile


class Regions:
    """Time of named parts of a network, forward and backward. Parts may lie in each other; time goes to the innermost.

    Backward ends in a part that has no inputs to pass gradients to, such as an embedding.
    """

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], float] = {}
        self.inside: list[tuple[str, str]] = []
        self.since = time.perf_counter()

    def enter(self, name: str, way: str) -> None:
        self.count()
        self.inside.append((name, way))

    def leave(self, name: str, way: str) -> None:
        self.count()
        # Backward may close parts in another order than it opened them.
        self.inside.reverse()
        self.inside.remove((name, way))
        self.inside.reverse()

    def count(self) -> None:
        now = time.perf_counter()
        part = self.inside[-1] if self.inside else ("other", "")
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.since
        self.since = now

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Has the time of `owner.method` counted under this name."""
        import torch
        from torch.utils._pytree import tree_flatten, tree_unflatten

        regions, called = self, getattr(owner, method)

        class Mark(torch.autograd.Function):
            """Leaves tensors as they are; its backward calls `at`."""

            @staticmethod
            def forward(ctx: Any, at: Callable[[], None], *tensors: Any) -> Any:
                ctx.at = at
                return tuple(t.view_as(t) for t in tensors)

            @staticmethod
            def backward(ctx: Any, *gradients: Any) -> Any:
                ctx.at()
                return None, *gradients

        def marked(tree: Any, at: Callable[[], None]) -> Any:
            leaves, spec = tree_flatten(tree)
            places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
            for place, tensor in zip(places, Mark.apply(at, *(leaves[i] for i in places)), strict=True):
                leaves[place] = tensor
            return tree_unflatten(leaves, spec)

        def timed(*args: Any) -> Any:
            regions.enter(name, "forward")
            args = marked(args, lambda: regions.leave(name, "backward"))
            out = marked(called(*args), lambda: regions.enter(name, "backward"))
            regions.leave(name, "forward")
            return out

        setattr(owner, method, timed)


def profiled(options: Options) -> dict[str, Any]:
    """Time and achieved GFLOP/s of our modules, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=serve_profile, args=(theirs, options), daemon=True)
    process.start()
    theirs.close()
    found = receive(pipe)
    process.join()
    return found


def serve_profile(pipe: Any, options: Options) -> None:
    import torch

    torch.set_num_threads(options.threads)
    task = Task("ours", options.rows, options.row_bytes, options)
    regions = watched(task)
    runs, peaks = [], []
    for number in range(-options.warmup, options.repeats):
        regions.seconds, regions.inside, regions.since = {}, [], time.perf_counter()
        task.step()
        regions.count()
        peaks.append(matmul_gflops())
        if number >= 0:
            runs.append(regions.seconds)
    peak = max(peaks)
    rows = module_rows(task, runs, peak)
    summary = {
        "matrix-product peak, GFLOP/s": round(peak, 1),
        "its spread over the run": f"{min(peaks):.1f} to {peak:.1f}",
    }
    pipe.send({"modules": rows, "peak_gflops": peak, "summary": summary})


def watched(task: Task) -> Regions:
    """Marks the parts of our network; attention and feed-forward of each stack apart."""
    regions, network = Regions(), task.network
    regions.watch(network.encoder.embed, "forward", "embedding, hash")
    regions.watch(network.encoder.hash, "forward", "embedding, hash")
    for name in ("encoder", "latent", "decoder"):
        for block in getattr(network, name).stack.blocks:
            regions.watch(block, "forward", f"{name} norms, sums")
            regions.watch(block.attention, "forward", f"{name} attention")
            regions.watch(block.feed_forward, "forward", f"{name} feed-forward")
    regions.watch(network.encoder, "patch", "patch reads bytes")
    for cross in network.decoder.cross:
        regions.watch(cross, "forward", "byte reads patch")
    for part in ("norm", "head"):
        regions.watch(getattr(network.decoder, part), "forward", "head")
    from bytequilt.model import loss

    regions.watch(loss, "target_nats", "loss")
    return regions


def matmul_gflops(size: int = 1024) -> float:
    """fp32 product of square matrices, the best of a few."""
    import torch

    a, b = torch.randn(size, size), torch.randn(size, size)
    out, best = torch.empty(size, size), float("inf")
    for _ in range(6):
        begun = time.perf_counter()
        torch.mm(a, b, out=out)
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best / 1e9


def module_rows(task: Task, runs: list[dict[tuple[str, str], float]], peak: float) -> list[dict[str, Any]]:
    """One line a part: median seconds forward and backward, share of the step, GFLOP/s and fraction of the peak."""
    work = useful_gflop(task)
    total = sum(
        statistics.median(run.get(part, 0.0) for run in runs) for part in {part for run in runs for part in run}
    )
    rows = []
    for name in dict.fromkeys([*work, *(name for run in runs for name, _ in run)]):
        way = {w: statistics.median(run.get((name, w), 0.0) for run in runs) for w in ("forward", "backward", "")}
        seconds = sum(way.values())
        gflops = 3 * work[name] / seconds if work.get(name) else None
        rows.append(
            {
                "part": name,
                "forward_s": way["forward"] or None,
                "backward_s": way["backward"] or None,
                "share": seconds / total,
                "gflops": gflops,
                "of_peak": gflops / peak if gflops else None,
            }
        )
    gflops = 3 * sum(work.values()) / total
    whole = {"part": "whole step", "forward_s": sum(r["forward_s"] or 0 for r in rows), "share": 1.0, "gflops": gflops}
    whole |= {"backward_s": sum(r["backward_s"] or 0 for r in rows), "of_peak": gflops / peak}
    return [*rows, {key: whole[key] for key in rows[0]}]


def useful_gflop(task: Task) -> dict[str, float]:
    """GFLOP of a forward pass by part: products, and keys that a query may see."""
    from bytequilt.model.flops import blt_flops, stack_flops

    config, rows, ids = task.network.config, *task.batch.ids_BN.shape
    patches = task.lengths_BP.shape[1]
    whole = blt_flops(config, ids, patches)
    found = {}
    for name, positions in (("encoder", ids), ("latent", patches), ("decoder", ids)):
        stack = getattr(config, name)
        forward = 6 * stack.layers * positions * stack.dim * stack.hidden_dim
        found[f"{name} attention"] = stack_flops(stack, positions) - forward
        found[f"{name} feed-forward"] = forward
    head = 2 * config.decoder.dim * 260 * ids
    local = {name: stack_flops(getattr(config, name), ids) for name in ("encoder", "decoder")}
    found["patch reads bytes"] = whole["encoder"] - local["encoder"]
    project = 2 * config.latent.dim * config.slots * config.decoder.dim * patches
    found["byte reads patch"] = whole["decoder"] - local["decoder"] - head - project
    found["head"] = head
    return {name: rows * flops / 1e9 for name, flops in found.items()}


# ------------------------------------------------------------------------------------------------------------ output


def machine() -> str:
    name = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file():
        models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0] if models else name
    try:
        theirs = f", transformers {version('transformers')}"
    except PackageNotFoundError:
        theirs = ""
    return f"{name}, {os.cpu_count()} cores, {platform.system()}, torch {version('torch')}{theirs}"


def sizes(options: Options) -> str:
    parts = ["forward", "loss", "backward"] + ["AdamW"] * options.optimizer
    return (
        f"small (37.7 M parameters, entropy model left out), {options.rows} x {options.row_bytes} random bytes, "
        f"mean patch {options.mean_patch}, {options.threads} thread(s), {options.precision}, "
        f"{', '.join(parts)}{', activations recomputed' if options.checkpoint_activations else ''}, "
        f"median of {options.repeats} after {options.warmup}"
    )


def table(rows: list[dict[str, Any]]) -> str:
    cells = [list(rows[0])] + [[shown(name, value) for name, value in row.items()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        first, *rest = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *rest]))
    return "\n".join(lines)


def shown(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    if name in ("share", "of_peak"):
        return f"{value:.1%}"
    return f"{value:.0f}" if name.endswith("mib") or name in ("bytes_per_s", "min", "max") else f"{value:.3f}"


if __name__ == "__main__":
    main()
