"""Cuts a text by a patcher into a `PatchedText` for display: as a whole, or part by part in bounded memory."""

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
import torch

from ..codec import encode
from ..config import RuleConfig
from ..patching import rules
from ..patching.kinds import parts, threshold_parts
from ..patching.patcher import CHUNK, Patcher
from .patched import Patch, PatchedText

PART = 65_536
"""Approximate number of bytes per part."""


def patched(patcher: Patcher, data: bytes) -> PatchedText:
    """The patches of a text, and in bits the entropies that opened them."""
    cutter = _Cutter(patcher)
    cutter.feed(data)
    return cutter.take(len(data))[1]


def patched_parts(patcher: Patcher, chunks: Iterable[bytes]) -> Iterator[tuple[int, PatchedText]]:
    """Cut a text that comes in chunks. Yields parts of whole patches: (start of the part in bytes, patched text).

    The parts together have the same patches as `patched` of the whole text. If possible, a part ends with a whole
    character.
    """
    cutter = _Cutter(patcher)
    for chunk in chunks:
        for at in range(0, len(chunk), PART):
            cutter.feed(chunk[at : at + PART])
            if len(cutter.data) >= PART and (end := cutter.border()):
                yield cutter.take(end)
    if cutter.data:
        yield cutter.take(len(cutter.data))


def _by_entropy(rule: RuleConfig) -> RuleConfig:
    """A copy of the rule in which only entropies start patches."""
    return rules.natural(rule).model_copy(update={"after": "", "digits": None})


class _Cutter:
    """Holds the text that is not yet part of a result, with its patch starts and entropies so far."""

    def __init__(self, patcher: Patcher) -> None:
        self.patcher, self.cache = patcher, patcher.cache()
        self.rules = patcher.rule, _by_entropy(patcher.rule)
        self.states = [rules.start(rule, 1, patcher.device) for rule in self.rules]
        self.place, self.data = 0, bytearray()
        self.decided = 0
        """Number of positions, from the first byte of `data`, at which the rule has decided about a patch start. The
        last one is the position after `data`."""
        self.bits: list[float] = []
        """Entropy in bits at each decided position; empty if the rule needs no entropies."""
        self.starts: list[int] = []
        self.opened: list[float | None] = []
        """For each start, the entropy in bits that opened the patch; None if something else did."""
        self.spent = 0
        """Kind `budget`: sum of the entropies of the open patch, the next byte included."""

    def feed(self, data: bytes) -> None:
        """Read the next bytes, in chunks of bounded memory."""
        self.data += data
        for at in range(0, len(data), CHUNK):
            first = not self.decided
            self._decide(encode(data[at : at + CHUNK], bos=first))
            if first:
                self.opened[0] = None  # the BOS, not an entropy, opens the first patch

    def border(self) -> int:
        """A position to end a part: a patch start in the second half of `starts`. ASCII starts are preferred, then
        starts of characters. 0 if there is none."""
        starts = [start for start in self.starts[len(self.starts) // 2 :] if 0 < start < len(self.data)]
        ascii = [start for start in starts if self.data[start] < 0x80]
        whole = [start for start in starts if not 0x80 <= self.data[start] < 0xC0]
        return max(ascii or whole or starts, default=0)

    def take(self, end: int) -> tuple[int, PatchedText]:
        """Remove the text before byte `end` and return it as a part. A patch starts or the text ends at `end`."""
        data, count = bytes(self.data[:end]), sum(start < end for start in self.starts)
        runs = zip(pairwise([*self.starts[:count], end]), self.opened, strict=False)
        patches = tuple(Patch(start, stop - start, data[start:stop], bits) for (start, stop), bits in runs)
        bits = None if self.cache is None else tuple(self.bits[:end])
        limit = None if self.cache is None else self.patcher.rule.threshold_bits
        place = self.place
        self.place, self.data, self.decided, self.bits = (
            place + end,
            self.data[end:],
            self.decided - end,
            self.bits[end:],
        )
        self.starts, self.opened = [start - end for start in self.starts[count:]], self.opened[count:]
        return place, PatchedText(data, patches, limit, bits, summed=self.rules[0].kind == "budget")

    def _decide(self, ids: np.ndarray) -> None:
        ids_N = torch.from_numpy(ids).to(self.patcher.device)
        nats_N = self.patcher.nats_feed(ids_N, self.cache)
        both = [rules.feed(rule, state, ids_N, nats_N) for rule, state in zip(self.rules, self.states, strict=True)]
        self.states = [states_NF[-1:] for _, states_NF in both]
        closes, natural = (closes_N.tolist() for closes_N, _ in both)
        if self.rules[0].kind == "budget" and nats_N is not None:
            natural = self._exceeded(closes, parts(nats_N).tolist())
        bits = None if nats_N is None else (nats_N / math.log(2)).tolist()
        self.bits += bits or []
        for at, closed in enumerate(closes):
            if closed:
                self.starts.append(self.decided + at)
                self.opened.append(bits[at] if bits is not None and natural[at] else None)
        self.decided += len(ids)

    def _exceeded(self, closes: list[bool], costs: list[int]) -> list[bool]:
        """For each new id: True if the entropies of the open patch, with that of the byte after this id, add up to more
        than the budget of the rule. `costs` are the entropies of the bytes after each id, as whole numbers, since the
        rule adds integers. `closes` is True where a patch ends after the id; then the sum starts again."""
        limit, exceeded = threshold_parts(self.rules[0]), []
        for closed, cost in zip(closes, costs, strict=True):
            self.spent += cost
            exceeded.append(self.spent > limit)
            self.spent = cost if closed else self.spent
        return exceeded
