"""The one training loop. It knows no model by name: a batch goes in, nats and bytes come out."""

import ctypes
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..config import TrainConfig, UserError
from ..data.batches import Batch, Batches
from ..view.progress import console, progress
from . import checkpoint
from .metrics import Metrics
from .optim import catch_up, clip_, lr_factor, optimizers, release, set_lr

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of <malloc.h>


class Task(Protocol):
    """What can be trained."""

    network: nn.Module

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Sum of nats over the targets to learn, and numbers to add up and report.

        `bytes` among them says what the targets stand for, an EOS for one; as many as there are where not given.
        """
        ...

    def evaluate(self) -> dict[str, float]:
        """Held-out measurements, such as `val_bpb`."""
        ...


class Diverged(UserError):
    """The loss stayed non-finite."""


class Interrupted(Exception):
    """The run was asked to stop, and has saved where it is."""


@dataclass
class Progress:
    """How far a run is; part of every checkpoint."""

    step: int = 0
    bytes: int = 0
    seconds: float = 0.0
    bad_steps: int = 0
    """Steps in a row that were skipped."""
    skipped: int = 0


def device_of(config: TrainConfig) -> torch.device:
    """The device that a configuration names; `auto` is CUDA where there is one."""
    if config.device != "auto":
        return torch.device(config.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bf16 faster than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and any(f in flags.read_text() for f in ("avx512_bf16", "amx_bf16"))


def uses_bf16(config: TrainConfig) -> bool:
    """Whether training multiplies in bf16 here."""
    return config.precision == "bf16" or (config.precision == "auto" and fast_bf16(device_of(config)))


def keep_freed_memory() -> None:
    """Tell glibc, where that is the C library, to keep what is freed for later use.

    By default it gives large tensors back to the system, and each step pays for new pages: from a tenth to a half of
    its time (docs/results.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 64 << 20)):
            mallopt(option, value)


def fit(task: Task, batches: Batches, config: TrainConfig, folder: Path, stage: str) -> Progress:
    """Train until `config.steps`, going on from the newest checkpoint in `folder/checkpoints/stage`.

    Resuming is exact: on a CPU a run that was interrupted gives the same weights, bit for bit, as one that was not.
    Raises Interrupted after SIGINT or SIGTERM, once a checkpoint is written, and Diverged where the loss stays
    non-finite.
    """
    device, saved = device_of(config), folder / "checkpoints" / stage
    torch.manual_seed(config.seed)
    if device.type == "cpu":
        keep_freed_memory()
    network = task.network.to(device).train()
    found, done = optimizers(network, config), Progress()
    if existing := checkpoint.found(saved):
        state = checkpoint.restore(existing[-1], network, found)
        batches.restore(state["batches"])
        done = Progress(**state["progress"])
    if done.step >= config.steps:
        release(found)
        return done
    arrange(network, config)
    metrics = Metrics(folder / "metrics.jsonl", stage, done.step, config.tracker, config.model_dump())
    bf16 = uses_bf16(config)

    def save() -> None:
        state = {"batches": batches.state(), "progress": vars(done)}
        checkpoint.save(saved, done.step, network, found, state, config.keep)

    columns = ("[bold]{task.fields[bpb]}[/] bpb", "{task.fields[speed]}", "{task.fields[note]}")
    with progress(*columns) as bar, stop_requested() as stop, closing(metrics):
        line = bar.add_task(stage, total=config.steps, completed=done.step, bpb="-", speed="", note="")
        while done.step < config.steps:
            begun, used = time.perf_counter(), time.process_time()
            set_lr(found, factor := lr_factor(done.step, config))
            record = step(task, [next(batches).to(device) for _ in range(config.accumulate)], found, config, bf16)
            seconds, used = time.perf_counter() - begun, time.process_time() - used
            good = record.pop("good")
            done.bad_steps, done.skipped = (0, done.skipped) if good else (done.bad_steps + 1, done.skipped + 1)
            done.step, done.bytes, done.seconds = done.step + 1, done.bytes + record["learnt"], done.seconds + seconds
            speed = record["learnt"] / seconds
            record = {"step": done.step, "bytes": done.bytes, "seconds": round(done.seconds, 3)} | record
            record |= {"lr": config.lr * factor, "bytes_per_second": round(speed, 1), "skipped": done.skipped}
            record["processor_seconds"] = round(used, 4)
            if done.step % config.eval_every == 0 or done.step == config.steps:
                catch_up(found)
                record |= evaluate(task)
                bar.update(line, note=f"held-out {record['val_bpb']:.3f}")
            metrics.log(record)
            if done.bad_steps >= config.max_bad_steps:
                raise Diverged(
                    f"{stage}: loss or gradient not finite for {done.bad_steps} steps in a row, to step {done.step}; "
                    f"lower the learning rate ({config.lr:g}) and start from an earlier checkpoint in {saved}"
                )
            bar.update(line, advance=1, bpb=f"{record['bpb']:.3f}", speed=_speed(speed, record))
            stopping = stop()  # asked once: who stops has saved
            if done.step % config.save_every == 0 or done.step == config.steps or stopping:
                save()
            if stopping and done.step < config.steps:
                raise Interrupted(
                    f"{stage} stopped at step {done.step} of {config.steps}; the same command goes on from there"
                )
    release(found)
    if done.skipped:
        console.print(f"{stage}: {done.skipped} steps were skipped for a loss or gradient that was not finite")
    return done


def step(
    task: Task, batches: list[Batch], found: list[torch.optim.Optimizer], config: TrainConfig, bf16: bool
) -> dict[str, Any]:
    """One optimizer step over some batches; it changes nothing where the loss or the gradient is not finite."""
    targets = max(1, sum(int(batch.learn_BN.sum()) for batch in batches))  # rows of prompts alone have none
    nats, numbers = 0.0, {}
    for batch in batches:
        with torch.autocast(batch.ids_BN.device.type, torch.bfloat16, enabled=bf16):
            loss, extra = task.loss(batch)
        (loss / targets).backward()
        nats += float(loss.detach())
        numbers = {name: numbers.get(name, 0.0) + value for name, value in extra.items()}
    norm = float(clip_(task.network, found, config.clip))
    good = math.isfinite(nats) and math.isfinite(norm)
    if good:
        for optimizer in found:
            optimizer.step()
    for optimizer in found:
        optimizer.zero_grad()
    learnt = int(numbers.get("bytes", targets))
    record = {
        "good": good,
        "bpb": round(nats / learnt / math.log(2), 5),
        "targets": targets,
        "learnt": learnt,
        "grad_norm": round(norm, 4),
    }
    if numbers.get("patches"):
        record["mean_patch"] = round(numbers["ids"] / numbers["patches"], 3)
    return record


def evaluate(task: Task) -> dict[str, float]:
    """Held-out measurements, with the network as it is used and then as it was."""
    task.network.eval()
    found = task.evaluate()
    task.network.train()
    return found


def arrange(network: nn.Module, config: TrainConfig) -> None:
    """Recomputation and compilation of transformer blocks, applied from outside."""
    from torch.utils.checkpoint import checkpoint as recompute

    from ..model.layers import Block

    def recomputed(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args: recompute(forward, *args, use_reentrant=False)

    for block in (m for m in network.modules() if isinstance(m, Block)):
        if config.compile:
            block.compile(dynamic=False)
        if config.checkpoint_activations:
            block.forward = recomputed(block.forward)  # type: ignore[method-assign]


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM has asked us to stop; a second one stops at once."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        console.print("stopping after this step")

    heard = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, ask) for number in heard}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _speed(bytes_per_second: float, record: dict[str, Any]) -> str:
    patch = f"  patch {record['mean_patch']:.2f}" if "mean_patch" in record else ""
    return f"{bytes_per_second / 1000:.1f} kB/s{patch}"
