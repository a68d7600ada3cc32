"""The training loop. It knows only the `Task` protocol: a batch goes in, a loss in nats comes out."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..config import TrainConfig, UserError
from ..data.batches import Batch
from ..view.progress import console, progress
from . import checkpoint
from .device import arrange, device_of, keep_freed_memory, uses_bf16
from .metrics import Metrics
from .optim import catch_up, clip_, lr_factor, optimizers_of, release, row_optimizers, set_lr
from .parallel import check_parallel, fill, is_sharded, spread, sum_gradients
from .saver import Saver, restore
from .world import ALONE, Interrupted, World, stop_requested


class Task(Protocol):
    """The protocol of what `fit` can train."""

    @property
    def network(self) -> nn.Module: ...

    def bytes_of(self, batch: Batch) -> int:
        """Number of bytes that the targets of a batch represent; an EOS counts as one."""

    def loss(self, batch: Batch) -> Tensor:
        """Sum of nats over the targets of a batch. It must not copy values from the device to the host."""

    def evaluate(self) -> dict[str, float]:
        """Measurements on held-out text, such as `val_bpb`."""


class Source(Protocol):
    """The protocol of a source of batches, such as `Batches`."""

    def __next__(self) -> Batch: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...


class Diverged(UserError):
    """The loss or gradient was not finite for too many steps in a row."""


@dataclass
class Progress:
    """The progress of a training; it is saved in every checkpoint."""

    step: int = 0
    bytes: int = 0
    """Number of bytes trained on, without skipped steps."""
    seconds: float = 0.0
    bad_steps: int = 0
    """Number of consecutive steps skipped until now."""
    skipped: int = 0


def fit(task: Task, batches: Source, config: TrainConfig, folder: Path, stage: str, world: World = ALONE) -> Progress:
    """Train until `config.steps`, starting from the newest checkpoint in `folder/checkpoints/stage` if there is one.

    With several processes, each one calls this with the same network and its own share of the batches. On a CPU, an
    interrupted and resumed run gives bit for bit the same weights as an uninterrupted run. Raises Interrupted after
    SIGINT or SIGTERM, when a checkpoint is written, and Diverged if the loss stays non-finite.
    """
    training = Training.begun(task, batches, config, folder, stage, world)
    done = training.done
    if done.step < config.steps:
        arrange(task.network, config)
        columns = ("[bold]{task.fields[bpb]}[/] bpb", "{task.fields[speed]}", "{task.fields[note]}")
        with progress(*columns) as bar, stop_requested() as stop, ExitStack() as stack:
            log = None
            if world.first:
                options = config.tracker, config.model_dump()
                log = stack.enter_context(closing(Metrics(folder / "metrics.jsonl", stage, done.step, *options))).log
            line = bar.add_task(stage, total=config.steps, completed=done.step, bpb="-", speed="", note="")
            for record in training.records(stop):
                if log is not None:
                    log(record)
                measured = record.get("val_bpb", record.get("val_bpb_row"))
                note = {} if measured is None else {"note": f"held-out {measured:.3f}"}
                bar.update(line, advance=1, bpb=f"{record['bpb']:.3f}", speed=_speed(record), **note)
    release(training.optimizers)
    if done.skipped:
        console.print(f"{stage}: {done.skipped} steps were skipped because loss or gradient was not finite")
    return done


@dataclass
class Training:
    """The state of a training in progress; `fit` runs its steps."""

    task: Task
    batches: Source
    config: TrainConfig
    saved: Path
    """Folder of the checkpoints of this stage."""
    stage: str
    optimizers: list[torch.optim.Optimizer]
    done: Progress
    world: World = ALONE

    @classmethod
    def begun(
        cls, task: Task, batches: Source, config: TrainConfig, folder: Path, stage: str, world: World = ALONE
    ) -> "Training":
        """Start a training, or resume it from its newest checkpoint."""
        check_parallel(config, world)
        device, saved = device_of(config), folder / "checkpoints" / stage
        torch.manual_seed(config.seed)
        if device.type == "cpu":
            keep_freed_memory()
        network = task.network.train()
        spread(network, config, world, device.type)
        if any(weight.is_meta for weight in network.parameters()):
            fill(network, device.type)
            torch.manual_seed(config.seed)
        elif not is_sharded(network):
            network.to(device)
        training = cls(task, batches, config, saved, stage, optimizers_of(network, config), Progress(), world)
        world.wait()  # another process may still be renaming a checkpoint
        if existing := checkpoint.finished(saved):
            state = restore(existing[-1], network, training.optimizers)
            batches.restore(state["batches"])
            training.done = Progress(**state["progress"])
        world.wait()
        return training

    def records(self, stop: Callable[[], bool]) -> Iterator[dict[str, Any]]:
        """Run steps and yield the metrics of each, until `config.steps` or until `stop()` is true."""
        config, done = self.config, self.done
        bf16 = uses_bf16(config, self.task.network)
        saver = Saver(self.saved, self.task.network, self.optimizers, config.keep, self.world)
        while done.step < config.steps:
            record = self._step(bf16)
            last = done.step == config.steps
            if done.step % config.eval_every == 0 or last:
                catch_up(self.optimizers)
                self.task.network.eval()
                record |= self.task.evaluate()
                self.task.network.train()
            yield record
            self._check(record)
            # both are agreed in one all-reduce; a process that stops has saved a checkpoint
            stopping, parts = self.world.total([stop(), saver.part_written()])
            if parts == self.world.size:
                saver.publish()
            if done.step % config.save_every == 0 or last or stopping:
                saver.save(done.step, {"batches": self.batches.state(), "progress": asdict(done)})
            if last or stopping:
                saver.publish()
            if stopping and not last:
                raise Interrupted(
                    f"{self.stage} stopped at step {done.step} of {config.steps}; the same command goes on from there"
                )

    def _step(self, bf16: bool) -> dict[str, Any]:
        config, done = self.config, self.done
        begun, used = time.perf_counter(), time.process_time()
        set_lr(self.optimizers, factor := lr_factor(done.step, config))
        micro = [next(self.batches) for _ in range(config.accumulate // self.world.size)]
        record = step(self.task, micro, self.optimizers, config, bf16, self.world)
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

    def _check(self, record: dict[str, Any]) -> None:
        """Raises Diverged where steps have failed in a row, or the model gives no finite numbers any more."""
        done, config = self.done, self.config
        if math.isnan(record.get("val_bpb", record.get("val_bpb_row", 0.0))):
            raise Diverged(
                f"{self.stage}: after step {done.step} the loss of held-out text is no number; lower the "
                f"learning rate ({config.lr:g}) and start anew"
            )
        if done.bad_steps >= config.max_bad_steps:
            raise Diverged(
                f"{self.stage}: loss or gradient not finite for {done.bad_steps} steps in a row, to step {done.step}; "
                f"lower the learning rate ({config.lr:g}) and start from an earlier checkpoint in {self.saved}"
            )


def step(
    task: Task,
    batches: list[Batch],
    chosen: list[torch.optim.Optimizer],
    config: TrainConfig,
    bf16: bool,
    world: World = ALONE,
) -> dict[str, Any]:
    """One optimizer step on the gradients accumulated over `batches`. If the loss or the gradient norm is not finite,
    the weights do not change. Loss and norm are copied from the device together, once per step."""
    device = next(task.network.parameters()).device
    targets, learnt, ids, patches = counted(task, batches, world)
    costs = []
    for batch in batches:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = task.loss(batch.to(device))
        (loss / targets).backward()
        costs.append(loss.detach().float())
    sum_gradients(task.network, row_optimizers(chosen), world)
    norm = clip_(task.network, chosen, config.clip)
    cost = world.sum_(torch.stack(costs).sum())
    nats, norm = torch.stack([cost, norm.float()]).tolist()
    good = math.isfinite(nats) and math.isfinite(norm)
    for optimizer in chosen:
        if good:
            optimizer.step()
        optimizer.zero_grad()
    record = {
        "good": good,
        "bpb": round(nats / learnt / math.log(2), 5),
        "targets": targets,
        "learnt": learnt,
        "grad_norm": round(norm, 4),
    }
    return record | {"mean_patch": round(ids / patches, 3)} if patches else record


def counted(task: Task, batches: list[Batch], world: World) -> tuple[int, int, int, int]:
    """Totals over the batches of all processes: targets, bytes of the targets, bytes of text, patches."""
    columns = [(batch.targets, task.bytes_of(batch), batch.ids, batch.patches) for batch in batches]
    targets, learnt, ids, patches = world.total([sum(column) for column in zip(*columns, strict=True)])
    return max(1, targets), max(1, learnt), ids, patches  # rows that contain only prompts have no targets


def _speed(record: dict[str, Any]) -> str:
    patch = f"  patch {record['mean_patch']:.2f}" if "mean_patch" in record else ""
    return f"{record['bytes_per_second'] / 1000:.1f} kB/s{patch}"
