"""Training cost of a model, and the number of steps that a budget pays for."""

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
from ..model.flops import entropy_flops
from ..train.device import uses_bf16
from ..train.loop import Task, step
from ..train.optim import optimizers_of
from .corpus import SAMPLE
from .recipe import Contender, Study

GRAIN = 32  # lengths of contexts are rounded up to a multiple of this many bytes when FLOPs are counted
WARMUP, TIMED = 3, 10  # untimed and timed steps of a speed measurement
PILOT = 64  # number of batches from which the mean size of patches or tokens is measured


def entropy_ids(study: Study) -> int:
    """Number of ids, nearly all of them bytes, that the study's entropy model is trained on."""
    config = study.entropy_train
    assert config is not None
    return config.steps * config.accumulate * config.rows * config.row_bytes


def entropy_cost(study: Study) -> float:
    """FLOPs of training the study's entropy model: three forward passes over all of its rows."""
    return 3 * _flops_per_id(study) * entropy_ids(study)


def table_cost(study: Study) -> float:
    """FLOPs of filling an n-gram table: one forward pass of the entropy model over a sample of the text."""
    return _flops_per_id(study) * SAMPLE


def patcher_cost(study: Study, model: Contender) -> float:
    """FLOPs of making what gives a model its entropies."""
    return entropy_cost(study) + (table_cost(study) if model.ngram_patcher else 0.0)


def _flops_per_id(study: Study) -> float:
    config, shape = study.entropy_train, study.entropy
    assert config is not None
    assert shape is not None
    return entropy_flops(shape, config.row_bytes) / config.row_bytes


@dataclass(frozen=True)
class BudgetUse:
    """Totals over some batches."""

    batches: int = 0
    bytes: int = 0
    """Bytes of text."""
    units: int = 0
    """Number of patches or tokens."""
    ids: int = 0
    """Number of ids: bytes, or tokens."""

    @property
    def unit_bytes(self) -> float:
        """Mean bytes per patch or token."""
        return self.bytes / self.units

    @property
    def id_bytes(self) -> float:
        """Mean bytes per id; 1 for a model that reads bytes."""
        return self.bytes / self.ids


def count_batches(model: LM | Baseline, batches: Iterable[Batch], enough: Callable[[BudgetUse], bool]) -> BudgetUse:
    """Number of batches, bytes, units and ids, counted until `enough` is true of these totals or the batches end. At
    least one batch is counted if there is any."""
    use = BudgetUse()
    for batch in batches:
        size, units = model.units(batch)
        use = BudgetUse(use.batches + 1, use.bytes + size, use.units + units, use.ids + batch.ids)
        if enough(use):
            break
    return use


def training_flops(flops: dict[str, float]) -> float:
    """Training FLOPs per byte: three times the forward pass, but only once for the entropy model, which is already
    trained."""
    entropy = flops.get("entropy", 0.0)
    return 3 * (flops["total"] - entropy) + entropy


def mean_flops(model: LM | Baseline, unit_bytes: float, sizes: Sequence[float]) -> dict[str, float]:
    """Forward FLOPs per byte by module, averaged over documents of these sizes in bytes, weighted by size."""
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
    """A limit in FLOPs, bytes or seconds for training one model."""

    unit: str
    amount: float
    model: LM | Baseline
    batches: Callable[[], Any]
    """Returns a new iterator over the training batches."""
    train: TrainConfig
    """Training options; `steps` is ignored, because it is to be computed."""
    sample: Sequence[bytes]
    """Documents with the length distribution of the training text."""

    def flops_per_byte(self, use: BudgetUse) -> float:
        """Training FLOPs per byte, for rows of the trained length."""
        row_bytes = self.train.row_bytes * use.id_bytes
        return training_flops(mean_flops(self.model, use.unit_bytes, _pieces(self.sample, row_bytes)))

    def steps(self, task: Task) -> int:
        """Number of steps that the budget pays for. Batches are counted one by one, because they contain different
        numbers of bytes. Raises UserError if the budget does not pay for one step."""
        accumulate = self.train.accumulate
        if self.unit == "seconds":
            steps = int(self.amount / step_seconds(task, self.batches(), self.train))
            if steps < 1:
                raise UserError(f"a budget of {self.amount:.3g} seconds is below the cost of one step")
            return steps
        use, cost = count_batches(self.model, self.batches(), lambda use: use.batches >= PILOT), 1.0
        for _ in range(2 if self.unit == "flops" else 1):  # FLOPs per byte depend slightly on the batches counted
            cost = self.flops_per_byte(use) if self.unit == "flops" else 1.0
            use = count_batches(self.model, self.batches(), lambda use, cost=cost: use.bytes * cost >= self.amount)
        steps, least = round(use.batches / accumulate), use.bytes * cost
        if steps < 1 or (use.batches <= accumulate and least > self.amount):
            raise UserError(f"a budget of {self.amount:.3g} {self.unit} is below one step, {least:.3g} {self.unit}")
        return steps

    def use(self, steps: int) -> BudgetUse:
        """Totals over the batches of `steps` steps."""
        return count_batches(self.model, self.batches(), lambda use: use.batches >= steps * self.train.accumulate)


def _pieces(sample: Sequence[bytes], row_bytes: float) -> list[float]:
    """Sizes of the pieces into which rows of `row_bytes` bytes divide the documents."""
    return [min(row_bytes, len(text) - at) for text in sample for at in np.arange(0, max(1, len(text)), row_bytes)]


def step_seconds(task: Task, batches: Iterator[Batch], train: TrainConfig) -> float:
    """Median seconds per step on this machine; afterwards the weights are restored."""
    before = {name: weight.clone() for name, weight in task.network.state_dict().items()}
    optimizer, seconds, bf16 = optimizers_of(task.network, train), [], uses_bf16(train, task.network)
    for _ in range(WARMUP + TIMED):
        begun = time.perf_counter()
        step(task, [next(batches) for _ in range(train.accumulate)], optimizer, train, bf16)
        seconds.append(time.perf_counter() - begun)
    task.network.load_state_dict(before)
    return statistics.median(seconds[WARMUP:])
