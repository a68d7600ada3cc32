"""The one training loop. It knows no model by name: a batch goes in, nats come out."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..config import TrainConfig, UserError
from ..data.batches import Batch
from ..view.progress import console, progress
from . import checkpoint
from .arrange import arrange
from .device import device_of, keep_freed_memory, uses_bf16
from .metrics import Metrics
from .optim import catch_up, clip_, lr_factor, optimizers, release, set_lr
from .signals import stop_requested


class Task(Protocol):
    """What can be trained."""

    @property
    def network(self) -> nn.Module: ...

    def bytes_of(self, batch: Batch) -> int:
        """Bytes that the targets of a batch on the CPU stand for, an EOS for one."""
        ...

    def loss(self, batch: Batch) -> Tensor:
        """Sum of nats over the targets to learn. It does not read the device."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Held-out measurements, such as `val_bpb`."""
        ...


class Source(Protocol):
    """Where batches come from, as `Batches`."""

    def __next__(self) -> Batch: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...


class Diverged(UserError):
    """The loss stayed non-finite."""


class Interrupted(Exception):
    """The run was asked to stop, and has saved where it is."""


@dataclass
class Progress:
    """How far a run is; part of every checkpoint."""

    step: int = 0
    bytes: int = 0
    """Learnt: those of skipped steps do not count."""
    seconds: float = 0.0
    bad_steps: int = 0
    """Steps in a row that were skipped."""
    skipped: int = 0


def fit(task: Task, batches: Source, config: TrainConfig, folder: Path, stage: str) -> Progress:
    """Train until `config.steps`, going on from the newest checkpoint in `folder/checkpoints/stage`.

    Resuming is exact: on a CPU a run that was interrupted gives the same weights, bit for bit, as one that was not.
    Raises Interrupted after SIGINT or SIGTERM, once a checkpoint is written, and Diverged where the loss stays
    non-finite.
    """
    training = Training.begun(task, batches, config, folder, stage)
    done = training.done
    if done.step < config.steps:
        arrange(task.network, config)
        metrics = Metrics(folder / "metrics.jsonl", stage, done.step, config.tracker, config.model_dump())
        columns = ("[bold]{task.fields[bpb]}[/] bpb", "{task.fields[speed]}", "{task.fields[note]}")
        with progress(*columns) as bar, stop_requested() as stop, closing(metrics):
            line = bar.add_task(stage, total=config.steps, completed=done.step, bpb="-", speed="", note="")
            for record in training.records(stop):
                metrics.log(record)
                note = {"note": f"held-out {record['val_bpb']:.3f}"} if "val_bpb" in record else {}
                bar.update(line, advance=1, bpb=f"{record['bpb']:.3f}", speed=_speed(record), **note)
    release(training.optimizers)
    if done.skipped:
        console.print(f"{stage}: {done.skipped} steps were skipped for a loss or gradient that was not finite")
    return done


@dataclass
class Training:
    """A training under way: what `fit` goes through step by step."""

    task: Task
    batches: Source
    config: TrainConfig
    saved: Path
    """Where its checkpoints are."""
    stage: str
    optimizers: list[torch.optim.Optimizer]
    done: Progress

    @classmethod
    def begun(cls, task: Task, batches: Source, config: TrainConfig, folder: Path, stage: str) -> "Training":
        """A fresh one, or as the newest checkpoint has it."""
        device, saved = device_of(config), folder / "checkpoints" / stage
        torch.manual_seed(config.seed)
        if device.type == "cpu":
            keep_freed_memory()
        network = task.network.to(device).train()
        training = cls(task, batches, config, saved, stage, optimizers(network, config), Progress())
        if existing := checkpoint.found(saved):
            state = checkpoint.restore(existing[-1], network, training.optimizers)
            batches.restore(state["batches"])
            training.done = Progress(**state["progress"])
        return training

    def records(self, stop: Callable[[], bool]) -> Iterator[dict[str, Any]]:
        """What each step gave, until the last, or until there is a reason to stop."""
        config, done = self.config, self.done
        bf16 = uses_bf16(config, self.task.network)
        while done.step < config.steps:
            record = self._step(bf16)
            last = done.step == config.steps
            if done.step % config.eval_every == 0 or last:
                catch_up(self.optimizers)
                record |= evaluate(self.task)
            yield record
            self._check()
            stopping = stop()  # asked once: who stops has saved
            if done.step % config.save_every == 0 or last or stopping:
                self.save()
            if stopping and not last:
                raise Interrupted(
                    f"{self.stage} stopped at step {done.step} of {config.steps}; the same command goes on from there"
                )

    def save(self) -> None:
        """Write a checkpoint."""
        state = {"batches": self.batches.state(), "progress": asdict(self.done)}
        checkpoint.save(self.saved, self.done.step, self.task.network, self.optimizers, state, self.config.keep)

    def _step(self, bf16: bool) -> dict[str, Any]:
        config, done = self.config, self.done
        begun, used = time.perf_counter(), time.process_time()
        set_lr(self.optimizers, factor := lr_factor(done.step, config))
        micro = [next(self.batches) for _ in range(config.accumulate)]
        record = step(self.task, micro, self.optimizers, config, bf16)
        seconds, used = time.perf_counter() - begun, time.process_time() - used
        good = record.pop("good")
        done.step, done.seconds = done.step + 1, done.seconds + seconds
        done.bytes += record["learnt"] if good else 0
        done.bad_steps, done.skipped = (0, done.skipped) if good else (done.bad_steps + 1, done.skipped + 1)
        record = {"step": done.step, "bytes": done.bytes, "seconds": round(done.seconds, 3)} | record
        return record | {
            "lr": config.lr * factor,
            "bytes_per_second": round(record["learnt"] / seconds, 1),
            "skipped": done.skipped,
            "processor_seconds": round(used, 4),
        }

    def _check(self) -> None:
        done, config = self.done, self.config
        if done.bad_steps >= config.max_bad_steps:
            raise Diverged(
                f"{self.stage}: loss or gradient not finite for {done.bad_steps} steps in a row, to step {done.step}; "
                f"lower the learning rate ({config.lr:g}) and start from an earlier checkpoint in {self.saved}"
            )


def step(
    task: Task, batches: list[Batch], chosen: list[torch.optim.Optimizer], config: TrainConfig, bf16: bool
) -> dict[str, Any]:
    """One optimizer step over some batches; it changes nothing where the loss or the gradient is not finite.

    The device is read once: for the loss and the norm of the gradient together.
    """
    device = next(task.network.parameters()).device
    targets = max(1, sum(batch.targets for batch in batches))  # rows of prompts alone have none
    costs = []
    for batch in batches:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = task.loss(batch.to(device))
        (loss / targets).backward()
        costs.append(loss.detach().float())
    norm = clip_(task.network, chosen, config.clip)
    nats, norm = torch.stack([torch.stack(costs).sum(), norm.float()]).tolist()
    good = math.isfinite(nats) and math.isfinite(norm)
    for optimizer in chosen:
        if good:
            optimizer.step()
        optimizer.zero_grad()
    learnt = max(1, sum(task.bytes_of(batch) for batch in batches))
    record = {
        "good": good,
        "bpb": round(nats / learnt / math.log(2), 5),
        "targets": targets,
        "learnt": learnt,
        "grad_norm": round(norm, 4),
    }
    if patches := sum(batch.patches for batch in batches):
        record["mean_patch"] = round(sum(batch.ids for batch in batches) / patches, 3)
    return record


def evaluate(task: Task) -> dict[str, float]:
    """Held-out measurements, with the network as it is used and then as it was."""
    task.network.eval()
    measured = task.evaluate()
    task.network.train()
    return measured


def _speed(record: dict[str, Any]) -> str:
    patch = f"  patch {record['mean_patch']:.2f}" if "mean_patch" in record else ""
    return f"{record['bytes_per_second'] / 1000:.1f} kB/s{patch}"
