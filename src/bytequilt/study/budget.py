"""What training costs, and how many steps a budget pays for."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..baselines.baseline import Baseline
from ..config import TrainConfig, UserError
from ..data.batches import Batch
from ..lm import LM
from ..train.device import uses_bf16
from ..train.loop import Task, step
from ..train.optim import optimizers

GRAIN = 32  # bytes to which sizes of contexts are rounded up where FLOPs are counted
WARMUP, TIMED = 3, 10  # steps before, and steps of, a measurement of speed
PILOT = 64  # batches that tell the mean size of patches or tokens


@dataclass(frozen=True)
class BudgetUse:
    """Counts of some batches: how many there are, and their bytes, units and ids."""

    batches: int = 0
    bytes: int = 0
    """Bytes of text."""
    units: int = 0
    """Patches or tokens of that text."""
    ids: int = 0
    """Ids of that text: bytes or tokens."""

    @property
    def unit_bytes(self) -> float:
        """Mean bytes of a patch or a token."""
        return self.bytes / self.units

    @property
    def id_bytes(self) -> float:
        """Mean bytes of an id: 1 for a model that reads bytes."""
        return self.bytes / self.ids


def count_batches(model: LM | Baseline, batches: Iterable[Batch], enough: Callable[[BudgetUse], bool]) -> BudgetUse:
    """Count what the next batches hold until it is enough; at least one batch."""
    use = BudgetUse()
    for batch in batches:
        size, units = model.units(batch)
        use = BudgetUse(use.batches + 1, use.bytes + size, use.units + units, use.ids + batch.ids)
        if enough(use):
            break
    return use


def training_flops(flops: dict[str, float]) -> float:
    """FLOPs of training on a byte: three forward passes, but one of an entropy model, which is trained beforehand."""
    entropy = flops.get("entropy", 0.0)
    return 3 * (flops["total"] - entropy) + entropy


def mean_flops(model: LM | Baseline, unit_bytes: float, sizes: Sequence[float]) -> dict[str, float]:
    """Forward FLOPs per byte by part: the mean over the bytes of contexts of these sizes in bytes."""
    weights, parts = defaultdict[float, float](float), defaultdict[str, float](float)
    for size in sizes:
        weights[GRAIN * -(-size // GRAIN)] += size
    total = sum(weights.values())
    for size, weight in weights.items():
        for name, value in model.flops(unit_bytes, size).items():
            parts[name] += value * weight / total
    return dict(parts)


@dataclass(frozen=True)
class Budget:
    """An amount of FLOPs, bytes or seconds, and the model that is trained with it."""

    unit: str
    amount: float
    model: LM | Baseline
    batches: Callable[[], Any]
    """Gives an iterator over the batches from their start."""
    train: TrainConfig
    """Its `steps` are not read: they are what is looked for."""
    sample: Sequence[bytes]
    """Documents whose lengths are those of the training text."""

    def flops_per_byte(self, use: BudgetUse) -> float:
        """Training FLOPs of a byte, in rows of the length that is trained."""
        row_bytes = self.train.row_bytes * use.id_bytes
        return training_flops(mean_flops(self.model, use.unit_bytes, _pieces(self.sample, row_bytes)))

    def steps(self, task: Task) -> int:
        """Steps that the budget pays for. Batches are counted one by one, since they are not equally full.

        Raises UserError for a budget below one step.
        """
        accumulate = self.train.accumulate
        if self.unit == "seconds":
            steps = int(self.amount / step_seconds(task, self.batches(), self.train))
            if steps < 1:
                raise UserError(f"a budget of {self.amount:.3g} seconds is below one step")
            return steps
        use, cost = count_batches(self.model, self.batches(), lambda use: use.batches >= PILOT), 1.0
        for _ in range(2 if self.unit == "flops" else 1):  # the cost of a byte depends on the batches, a little
            cost = self.flops_per_byte(use) if self.unit == "flops" else 1.0
            use = count_batches(self.model, self.batches(), lambda use, cost=cost: use.bytes * cost >= self.amount)
        steps, least = round(use.batches / accumulate), use.bytes * cost
        if steps < 1 or (use.batches <= accumulate and least > self.amount):
            raise UserError(f"a budget of {self.amount:.3g} {self.unit} is below one step, {least:.3g}")
        return steps

    def use(self, steps: int) -> BudgetUse:
        """What so many steps hold."""
        return count_batches(self.model, self.batches(), lambda use: use.batches >= steps * self.train.accumulate)


def _pieces(sample: Sequence[bytes], row_bytes: float) -> list[float]:
    """Sizes of the pieces that rows of so many bytes hold of documents."""
    return [min(row_bytes, len(text) - at) for text in sample for at in np.arange(0, max(1, len(text)), row_bytes)]


def step_seconds(task: Task, batches: Iterator[Batch], train: TrainConfig) -> float:
    """Median seconds of a step on this machine; the weights are put back as they were."""
    before = {name: weight.clone() for name, weight in task.network.state_dict().items()}
    optimizer, seconds, bf16 = optimizers(task.network, train), [], uses_bf16(train, task.network)
    for _ in range(WARMUP + TIMED):
        begun = time.perf_counter()
        step(task, [next(batches) for _ in range(train.accumulate)], optimizer, train, bf16)
        seconds.append(time.perf_counter() - begun)
    task.network.load_state_dict(before)
    return statistics.median(seconds[WARMUP:])
