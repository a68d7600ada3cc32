"""Bits per byte: the one function that measures every model here."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..codec import encode
from ..model.blt import BLT
from ..patching.patcher import Patcher
from .session import CHUNK, Session

STREAM = 16_384  # ids after which short documents start a fresh context, so that the latent cache stays small
BATCH = 16_384  # ids of a batch of short texts, padding included
BLOCK = 2**24  # logits that are turned into float64 at once

Feed = Callable[[Tensor], Tensor]
"""Logits (n, V) after each of the ids (n,) that come next; a session's `feed`."""


@dataclass(frozen=True)
class Score:
    """What a text costs under a model."""

    nats: float
    """Sum of -log p over every target: all bytes, and the EOS where it was asked for."""
    bytes: int
    """Bytes of text."""
    greedy: bool = True
    """Whether each target is the likeliest where it stands, so that greedy generation writes them all."""
    patches: int = 0
    """Patches that begin with a byte of the text, or tokens of it; 0 where they were not counted."""

    @classmethod
    def total(cls, scores: "Iterable[Score]") -> Self:
        """What all the texts cost together."""
        scores = list(scores)
        nats, bytes, patches = (sum(getattr(s, field) for s in scores) for field in ("nats", "bytes", "patches"))
        return cls(nats, bytes, all(s.greedy for s in scores), patches)

    @classmethod
    def of(cls, costs_2n: Tensor, bytes: int) -> "Score":
        """The score of a text of so many bytes, from `costs_of` its targets."""
        nats, missed = costs_2n.sum(1).tolist()
        return cls(nats, bytes, not missed)

    @property
    def bits(self) -> float:
        return self.nats / math.log(2)

    @property
    def bits_per_byte(self) -> float:
        """Bits of all targets over bytes of text; infinite for no text."""
        return self.bits / self.bytes if self.bytes else math.inf

    @property
    def patch_bytes(self) -> float:
        """Mean bytes of a patch or token; 0 where they were not counted."""
        return self.bytes / self.patches if self.patches else 0.0


def score_documents(
    fresh: Callable[[], Feed],
    documents: Iterable[bytes],
    advance: Callable[[int], None] = lambda _: None,
    encode: Callable[..., np.ndarray] = encode,
) -> list[Score]:
    """Score each document in its full context, EOS included, in float64.

    `fresh` opens a new context. Documents do not see each other, so short ones share a context one after another;
    a long one goes through in chunks, the cache carrying what came before. `advance` hears of ids done. `encode` makes
    ids of a text, BOS first; those of bytes where not given.
    """
    scores = []
    for stream in _streams(documents):
        feed, ids = fresh(), [encode(d, eos=True) for d in stream]
        whole = torch.cat([torch.from_numpy(i) for i in ids])
        costs_2n = torch.cat(list(_target_costs(feed, whole, advance)), 1)
        for document, own in zip(stream, costs_2n.split([len(i) for i in ids], 1), strict=True):
            scores.append(Score.of(own[:, 1:], len(document)))  # the first is the BOS, which nobody predicts
    return scores


def score_pairs(model: BLT, patcher: Patcher, pairs: Sequence[tuple[bytes, bytes]]) -> list[Score]:
    """What each continuation costs after its context; its EOS is not counted.

    A context that several continuations share is read once. The rest go through the parallel forward, many to a batch,
    unless they are so long that they go through in chunks.
    """
    sharing: dict[bytes, list[int]] = defaultdict(list)
    for place, (context, _) in enumerate(pairs):
        sharing[context].append(place)
    scores = [Score(0.0, 0)] * len(pairs)
    alone = []
    for context, places in sharing.items():
        if len(places) == 1 and sum(map(len, pairs[places[0]])) < BATCH:
            alone += places
            continue
        session = Session(model, patcher)
        last = session.prefill(torch.from_numpy(encode(context)))
        for place in places:
            scores[place] = _continued(session.fork(), last[None], pairs[place][1])
    for batch in batches(alone, [sum(map(len, pair)) for pair in pairs]):
        for place, score in zip(batch, _side_by_side(model, patcher, [pairs[p] for p in batch]), strict=True):
            scores[place] = score
    return scores


def _continued(session: Session, last_1V: Tensor, text: bytes) -> Score:
    """What a text costs that comes next in a session, the logits before which are at hand."""
    ids_n = torch.from_numpy(encode(text, bos=False))
    rest = list(_target_costs(session.feed, ids_n, lambda _: None))
    return Score.of(torch.cat([costs_of(last_1V[: len(ids_n)], ids_n[:1]), *rest], 1), len(text))


def _side_by_side(model: BLT, patcher: Patcher, pairs: list[tuple[bytes, bytes]]) -> list[Score]:
    """What each continuation costs, through one parallel forward."""
    before = [len(context) + 1 for context, _ in pairs]
    rows = [torch.from_numpy(encode(context + continuation)) for context, continuation in pairs]
    ids_BN = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(model.decoder.head.weight.device)
    with torch.inference_mode():
        logits_BNV = model(ids_BN, patcher(ids_BN))
    each = zip(logits_BNV, rows, before, strict=True)
    costs = [costs_of(logits[begin - 1 : len(ids) - 1], ids[begin:]) for logits, ids, begin in each]
    return [Score.of(cost, len(continuation)) for cost, (_, continuation) in zip(costs, pairs, strict=True)]


def batches(places: list[int], lengths: list[int], limit: int = BATCH) -> Iterator[list[int]]:
    """Texts of like length together, so many that with their padding they have at most so many ids, or one text."""
    batch: list[int] = []
    for place in sorted(places, key=lambda p: lengths[p]):
        if batch and (len(batch) + 1) * (lengths[place] + 1) > limit:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def nats_of(logits_nV: Tensor, targets_n: Tensor) -> Tensor:
    """-log p of each target, float64, on the CPU."""
    rows = max(1, BLOCK // logits_nV.shape[-1])
    blocks = zip(logits_nV.split(rows), targets_n.to(logits_nV.device).split(rows), strict=True)
    costs = [F.cross_entropy(logits.double(), targets, reduction="none") for logits, targets in blocks]
    return torch.cat(costs).cpu() if costs else torch.zeros(0, dtype=torch.float64)


def costs_of(logits_nV: Tensor, targets_n: Tensor) -> Tensor:
    """-log p of each target, and 1 where another id is likelier: (2, n) float64, on the CPU."""
    missed_n = logits_nV.argmax(-1).cpu() != targets_n.cpu()
    return torch.stack([nats_of(logits_nV, targets_n), missed_n.double()])


def _streams(documents: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Documents in groups of about STREAM ids; one at least, however long."""
    group, size = [], 0
    for document in documents:
        if group and size + len(document) > STREAM:
            yield group
            group, size = [], 0
        group.append(document)
        size += len(document) + 2
    if group:
        yield group


def _target_costs(feed: Feed, ids_n: Tensor, advance: Callable[[int], None]) -> Iterator[Tensor]:
    """`costs_of` each id given those before it, piece by piece; zero for the first of all."""
    yield torch.zeros(2, 1, dtype=torch.float64)
    for begin in range(0, len(ids_n), CHUNK):
        part, targets = ids_n[begin : begin + CHUNK], ids_n[begin + 1 : begin + CHUNK + 1]
        yield costs_of(feed(part)[: len(targets)], targets)
        advance(len(part))
