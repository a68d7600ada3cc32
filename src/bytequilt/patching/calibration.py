"""Calibration: the threshold that gives patches of a wanted mean length on a sample of text."""

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

TOLERANCE = 0.05  # a mean patch further from its target than this is not what was asked for


@dataclass(frozen=True)
class Calibration:
    """What calibration found, and on how much text."""

    threshold: float
    """In nats: of the entropy, of its rise for kind `monotonic`, of the sum of a patch for kind `budget`."""
    mean_patch_bytes: float
    sample_bytes: int

    @property
    def threshold_bits(self) -> float:
        return self.threshold / math.log(2)


def calibrated(rule: RuleConfig, ids_1N: Tensor, nats_1N: Tensor, target: float) -> tuple[RuleConfig, Calibration]:
    """The rule with the threshold whose patches of a row of documents are closest to `target` bytes in the mean.

    The patch of a BOS, or of an EOS alone, does not count. Raises UserError where no threshold comes within 5 %.
    """
    field = "rise" if rule.kind == "monotonic" else "threshold"
    total = int((ids_1N >= OFFSET).sum())

    def with_threshold(threshold: float) -> RuleConfig:
        return rule.model_copy(update={field: threshold})

    def mean_bytes(threshold: float) -> float:
        start_1N = rules.patches(with_threshold(threshold), ids_1N, nats_1N).start_BN
        return total / int((start_1N & (ids_1N >= OFFSET)).sum())

    steps = _Steps(rule, nats_1N)
    first = bisect_left(
        range(len(steps) - 1), target, key=lambda i: mean_bytes(steps[i])
    )  # it grows with the threshold
    best = min((steps[i] for i in (first - 1, first) if i >= 0), key=lambda t: abs(mean_bytes(t) - target))
    reached = mean_bytes(best)
    if abs(reached / target - 1) > TOLERANCE:
        raise UserError(
            f"a mean of {target:g} bytes per patch is out of reach: on this text the patcher gives "
            f"{mean_bytes(-math.inf):.2f} to {mean_bytes(math.inf):.2f}, and {reached:.2f} comes nearest"
        )
    return with_threshold(best), Calibration(best, reached, total)


class _Steps:
    """Thresholds in rising order, one for each way in which a rule can cut a row of entropies."""

    def __init__(self, rule: RuleConfig, nats_1N: Tensor) -> None:
        if rule.kind == "budget":  # every whole number of parts, from less than nothing to all that there is
            self.values, self.count = None, int(parts(nats_1N).sum()) + 2
            return
        values = (nats_1N.diff(dim=1) if rule.kind == "monotonic" else nats_1N).unique()
        between = (values[1:] + values[:-1]) / 2  # far from either, so that rounding moves no boundary
        self.values = torch.cat([values[:1] - 1, between, values[-1:]])
        self.count = len(self.values)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> float:
        return (index - 1) / SUM_SCALE if self.values is None else float(self.values[index])


def first_bytes(documents: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """The first `limit` bytes of these documents, the last of them cut to fit; no more documents are asked for."""
    left = limit
    for document in documents:
        yield document[:left]
        left -= len(document)
        if left <= 0:
            return
