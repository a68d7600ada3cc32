"""Sampling: draws the next ids of several texts from their logits, in one batch on the device of the logits.

Each text has its own random number generator (Python's Mersenne Twister) and takes one uniform number per draw. The
drawn id is the first one whose cumulative probability exceeds the number. So a seed gives the same bytes on any device,
in a batch or alone.
"""

import math
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor
from torch.nn import functional as F

from ..codec import EOS, OFFSET, VOCAB_SIZE
from .sampling import Sampling
from .utf8 import ALLOWED, only, state_of

REPEATS = 64  # the repetition penalty applies to this many newest ids
BELOW_ONE = 1 - 2**-20  # largest uniform number used; a number that rounds to 1 in fp32 would select no id
LEAST, MOST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
BIAS = 1e30  # largest logit bias: it works like infinity, but stays finite in fp32 under every penalty
FAILED = -1  # stands for an id if the logits are NaN or infinite
TEXT_ONLY = only([EOS, *range(OFFSET, VOCAB_SIZE)])
"""(V,): 0 for bytes and EOS, minus infinity for the other special ids, which are never drawn."""


@dataclass
class Past:
    """The history of one text, as far as sampling options depend on it."""

    recent: list[int]
    """The newest ids of prompt and generated text, at most REPEATS."""
    left: int
    """Number of bytes that may still be generated."""
    counts: Counter[int] = field(default_factory=Counter)
    """How often each id has been generated."""

    def push(self, id: int, bytes: int = 1) -> None:
        """Record a drawn id. `bytes` is the number of bytes that it stands for."""
        self.recent = [*self.recent[1 - REPEATS :], id]
        self.left -= bytes
        self.counts[id] += 1

    def after(self, id: int) -> "Past":
        """A copy with one more id recorded."""
        past = Past(self.recent, self.left, self.counts.copy())
        past.push(id)
        return past


Filter = Callable[[Tensor, Sequence[Past]], Tensor]
"""Maps logits (R, V) to new logits (R, V). An id with logit minus infinity is never drawn."""


class Sampler:
    """Draws ids for a fixed list of texts, one row of logits per text."""

    def __init__(
        self, samplings: Sequence[Sampling], device: torch.device | str = "cpu", vocabulary: int = VOCAB_SIZE
    ) -> None:
        self.samplings, self.device = samplings, device
        self.text_only = F.pad(TEXT_ONLY, (0, vocabulary - VOCAB_SIZE)).to(device)
        self.greedy = [s.temperature == 0 for s in samplings]
        self.greedy_R = torch.tensor(self.greedy, device=device)
        self.filters = list(self._filters())
        self.told = max(s.top_logprobs for s in samplings)
        self.tells = self.told > 0 or any(s.logprobs for s in samplings)

    def filtered(self, logits_RV: Tensor, pasts: Sequence[Past]) -> Tensor:
        """The logits (R, V) fp32 after all sampling options are applied."""
        logits_RV = logits_RV.float() + self.text_only
        for change in self.filters:
            logits_RV = change(logits_RV, pasts)
        return logits_RV

    def probabilities(self, logits_RV: Tensor, pasts: Sequence[Past]) -> Tensor:
        """The distributions (R, V) of the next ids. With temperature 0, one id has probability 1."""
        logits_RV = self.filtered(logits_RV, pasts)
        certain_RV = F.one_hot(logits_RV.argmax(-1), logits_RV.shape[1]).float()
        return torch.where(self.greedy_R[:, None], certain_RV, logits_RV.softmax(-1))

    def draw(self, logits_RV: Tensor, pasts: Sequence[Past], randoms: Sequence[Random]) -> Tensor:
        """Draw the next ids (R,) int64. An id is FAILED if its logits are unusable. Nothing is copied to the host."""
        logits_RV = self.filtered(logits_RV, pasts)
        if all(self.greedy):
            best_R, ids_R = logits_RV.max(-1)
            return torch.where(best_R.abs() < torch.inf, ids_R, FAILED)
        ids_R = drawn(logits_RV.softmax(-1), [random.random() for random in randoms])
        if any(self.greedy):
            ids_R = torch.where(self.greedy_R & (ids_R != FAILED), logits_RV.argmax(-1), ids_R)
        return ids_R

    def report(self, logits_RV: Tensor, ids_R: Tensor) -> Tensor:
        """Log-probabilities before sampling options: (R, 1 + 2 * told) int64. A row holds that of the drawn id, the
        `told` likeliest bytes, and their log-probabilities.

        A float32 is stored as its bits, so that one int64 tensor carries ids and log-probabilities to the host.
        """
        log_p_RV = logits_RV.float().log_softmax(-1)
        own_R1 = log_p_RV.gather(1, ids_R.clamp(min=0)[:, None])
        top = log_p_RV[:, OFFSET:].topk(self.told)
        return torch.cat([_bits(own_R1), top.indices, _bits(top.values)], 1)

    def _filters(self) -> "list[Filter]":
        """The filters that these texts need, in the order in which they apply."""
        filters: list[Filter] = []
        if any(s.logit_bias for s in self.samplings):
            bias_RV = self._column("temperature").new_zeros(len(self.samplings), len(self.text_only))
            for row, sampling in enumerate(self.samplings):
                for byte, value in (sampling.logit_bias or {}).items():
                    bias_RV[row, byte + OFFSET] = min(max(value, -BIAS), BIAS)
            filters.append(lambda logits, pasts: logits + bias_RV)
        if any(s.frequency_penalty or s.presence_penalty for s in self.samplings):
            filters.append(self._count_penalised)
        if any(s.utf8 for s in self.samplings):
            filters.append(self._valid_utf8)
        if any(s.repetition_penalty != 1 for s in self.samplings):
            filters.append(self._repetition_penalised)
        if any(t not in (0, 1) for t in (s.temperature for s in self.samplings)):
            filters.append(self._cooled())
        if any(s.top_k for s in self.samplings):
            filters.append(self._top_k)
        if any(s.top_p < 1 for s in self.samplings):
            p_R1 = self._column("top_p")
            p_R1 = p_R1.masked_fill(p_R1 == 1, 2)  # a rounded sum may reach 1 before the last id
            filters.append(lambda logits, pasts: _top_p(logits, p_R1))
        if any(s.min_p for s in self.samplings):
            least_R1 = self._column("min_p")
            filters.append(lambda logits, pasts: _min_p(logits, least_R1))
        return filters

    def _cooled(self) -> Filter:
        """Divides logits, less the largest, by the temperature: a very low temperature would overflow otherwise."""
        heat_R1 = self._column("temperature")
        heat_R1 = heat_R1.masked_fill(heat_R1 == 0, 1)
        return lambda logits, pasts: (logits - logits.amax(-1, keepdim=True)) / heat_R1

    def _column(self, name: str) -> Tensor:
        """One option of all texts as (R, 1) fp32. Values other than 0 do not round to 0, and none is infinite."""
        values = [float(getattr(s, name)) for s in self.samplings]
        fitting = [math.copysign(min(max(abs(value), LEAST), MOST), value) if value else 0.0 for value in values]
        return torch.tensor(fitting, device=self.device)[:, None]

    def _count_penalised(self, logits_RV: Tensor, pasts: Sequence[Past]) -> Tensor:
        counts_RV = torch.zeros(logits_RV.shape)
        for row, past in enumerate(pasts):
            if past.counts:
                counts_RV[row, list(past.counts)] = torch.tensor([float(n) for n in past.counts.values()])
        counts_RV = counts_RV.to(self.device)
        often, once = self._column("frequency_penalty"), self._column("presence_penalty")
        return logits_RV - often * counts_RV - once * (counts_RV > 0)

    def _valid_utf8(self, logits_RV: Tensor, pasts: Sequence[Past]) -> Tensor:
        asked = [s.utf8 for s in self.samplings]
        states = [state_of(_bytes(p.recent), p.left) if utf8 else 0 for utf8, p in zip(asked, pasts, strict=True)]
        allowed_RV = ALLOWED.to(self.device)[torch.tensor(states, device=self.device)]
        return torch.where(torch.tensor(asked, device=self.device)[:, None], logits_RV + allowed_RV, logits_RV)

    def _repetition_penalised(self, logits_RV: Tensor, pasts: Sequence[Past]) -> Tensor:
        recent = [(past.recent + [0] * REPEATS)[:REPEATS] for past in pasts]  # padding with id 0 is safe: never drawn
        recent_RK = torch.tensor(recent, device=self.device)
        penalty = self._column("repetition_penalty")
        before = logits_RV.gather(1, recent_RK)
        return logits_RV.scatter(1, recent_RK, torch.where(before > 0, before / penalty, before * penalty))

    def _top_k(self, logits_RV: Tensor, pasts: Sequence[Past]) -> Tensor:
        count = logits_RV.shape[1]
        kept = [min(s.top_k or count, count) for s in self.samplings]
        least = logits_RV.topk(max(kept)).values.gather(1, torch.tensor(kept, device=self.device)[:, None] - 1)
        return logits_RV.masked_fill(logits_RV < least, -torch.inf)


def drawn(chances_RV: Tensor, uniforms: Sequence[float]) -> Tensor:
    """Draw ids (R,) from distributions (R, V) with one uniform number per row. A distribution need not sum to 1. An id
    is FAILED if the sum is 0 or NaN."""
    sums_RV = chances_RV.cumsum(-1)
    total_R1 = sums_RV[:, -1:]
    share_R1 = torch.tensor([[min(uniform, BELOW_ONE)] for uniform in uniforms], device=chances_RV.device)
    ids_R = torch.searchsorted(sums_RV, share_R1 * total_R1, right=True)[:, 0]
    return torch.where(total_R1[:, 0] > 0, ids_R, FAILED)


def accepted(id: int, true_V: Tensor, drafted_V: Tensor, random: Random) -> bool:
    """Speculative sampling (Leviathan et al. 2023): True if an id drawn from the distribution `drafted_V` is accepted
    as a draw from `true_V`."""
    return random.random() * float(drafted_V[id]) < float(true_V[id])


def redrawn(true_V: Tensor, drafted_V: Tensor, random: Random) -> int:
    """Draw an id in place of a rejected one. The result of `accepted` and `redrawn` together is distributed as
    `true_V`."""
    missing_V = (true_V - drafted_V).clamp(min=0)
    chances_V = missing_V if missing_V.any() else true_V  # equal distributions reject an id only by rounding
    return int(drawn(chances_V[None], [random.random()]))


def number(bits: int) -> float:
    """The float32 number with these bits."""
    return struct.unpack("<f", struct.pack("<i", bits))[0]


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.int32).long()


def _bytes(ids: list[int]) -> bytes:
    return bytes(id - OFFSET for id in ids[-4:] if id >= OFFSET)


def _top_p(logits_RV: Tensor, p_R1: Tensor) -> Tensor:
    ordered, index = logits_RV.sort(descending=True)
    chances = ordered.softmax(-1)
    before = chances.cumsum(-1) - chances
    return logits_RV.masked_fill(
        torch.zeros_like(before, dtype=torch.bool).scatter(1, index, before >= p_R1), -torch.inf
    )


def _min_p(logits_RV: Tensor, least_R1: Tensor) -> Tensor:
    chances = logits_RV.softmax(-1)
    return logits_RV.masked_fill(chances < least_R1 * chances.amax(-1, keepdim=True), -torch.inf)
