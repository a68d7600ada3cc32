"""Calibration: find the threshold that gives patches of a wanted mean length on a sample of text."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..codec import OFFSET
from ..config import RuleConfig, UserError
from . import rules
from .kinds import SUM_SCALE, parts

TOLERANCE = 0.05  # largest relative difference between the target and the mean patch length reached


@dataclass(frozen=True)
class Calibration:
    """The result of a calibration, and the size of its sample."""

    threshold: float
    """In nats. It limits the entropy, for kind `monotonic` the rise of the entropy, for kind `budget` the sum over a
    patch."""
    mean_patch_bytes: float
    sample_bytes: int

    @property
    def threshold_bits(self) -> float:
        return self.threshold / math.log(2)


def calibrated(rule: RuleConfig, ids_1N: Tensor, nats_1N: Tensor, target: float) -> tuple[RuleConfig, Calibration]:
    """The rule with the threshold that gives mean patches closest to `target` bytes on a row of documents.

    Raises UserError if no threshold comes within 5 % of the target.
    """

    def with_threshold(threshold: float) -> RuleConfig:
        return rule.model_copy(update={rule.limit: threshold})

    def mean(threshold: float) -> float:
        return mean_bytes(with_threshold(threshold), ids_1N, nats_1N)

    steps = _Steps(rule, nats_1N)
    first = bisect_left(range(len(steps) - 1), target, key=lambda i: mean(steps[i]))  # it grows with the threshold
    best = min((steps[i] for i in (first - 1, first) if i >= 0), key=lambda t: abs(mean(t) - target))
    reached = mean(best)
    if abs(reached / target - 1) > TOLERANCE:
        raise UserError(
            f"a mean of {target:g} bytes per patch is out of reach: on this text, the mean can be "
            f"{mean(-math.inf):.2f} to {mean(math.inf):.2f}, and {reached:.2f} comes nearest"
        )
    return with_threshold(best), Calibration(best, reached, int((ids_1N >= OFFSET).sum()))


def mean_bytes(rule: RuleConfig, ids_1N: Tensor, nats_1N: Tensor | None) -> float:
    """Mean bytes per patch on a row of documents. The patch of a BOS, and an EOS that is a patch by itself, are not
    counted."""
    start_1N, text_1N = rules.patches(rule, ids_1N, nats_1N).start_BN, ids_1N >= OFFSET
    return int(text_1N.sum()) / int((start_1N & text_1N).sum())


class _Steps:
    """All thresholds that give different patches for a row of entropies, in rising order."""

    def __init__(self, rule: RuleConfig, nats_1N: Tensor) -> None:
        # every multiple of 1 / SUM_SCALE nats, from a negative one to the sum of all entropies
        if rule.kind == "budget":
            self.values, self.count = None, int(parts(nats_1N).sum()) + 2
            return
        values = (nats_1N.diff(dim=1) if rule.kind == "monotonic" else nats_1N).unique()
        between = (values[1:] + values[:-1]) / 2  # midpoints between entropies, so that rounding moves no boundary
        self.values = torch.cat([values[:1] - 1, between, values[-1:]])
        self.count = len(self.values)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> float:
        return (index - 1) / SUM_SCALE if self.values is None else float(self.values[index])


def first_bytes(documents: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """The first `limit` bytes of the documents, the last one cut to fit. Later documents are not read."""
    left = limit
    for document in documents:
        yield document[:left]
        left -= len(document)
        if left <= 0:
            return
