"""Bits per byte: the one function that measures every model here."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..codec import encode
from ..model.blt import BLT
from ..patching.patcher import Patcher
from .session import CHUNK, Session

STREAM = 16_384  # ids after which short documents start a fresh context, so that the latent cache stays small
BATCH = 16_384  # ids of a batch of short texts, padding included

Feed = Callable[[Tensor], Tensor]
"""Logits (n, V) after each of the ids (n,) that come next; a session's `feed`."""


@dataclass(frozen=True)
class Score:
    """What a text costs under a model."""

    nats: float
    """Sum of -log p over every target: all bytes, and the EOS where it was asked for."""
    bytes: int
    """Bytes of text."""

    @property
    def bits(self) -> float:
        return self.nats / math.log(2)

    @property
    def bits_per_byte(self) -> float:
        """Bits of all targets over bytes of text; infinite for no text."""
        return self.bits / self.bytes if self.bytes else math.inf

    def __add__(self, other: "Score") -> "Score":
        return Score(self.nats + other.nats, self.bytes + other.bytes)


def score_documents(
    fresh: Callable[[], Feed], documents: Iterable[bytes], advance: Callable[[int], None] = lambda _: None
) -> list[Score]:
    """Score each document in its full context, EOS included, in float64.

    `fresh` opens a new context. Documents do not see each other, so short ones share a context one after another;
    a long one goes through in chunks, the cache carrying what came before. `advance` hears of bytes done.
    """
    scores = []
    for stream in _streams(documents):
        feed, ids = fresh(), [encode(d, eos=True) for d in stream]
        whole = torch.cat([torch.from_numpy(i) for i in ids])
        nats = torch.cat(list(_target_nats(feed, whole, advance)))
        for document, own in zip(stream, nats.split([len(i) for i in ids]), strict=True):
            scores.append(Score(float(own[1:].sum()), len(document)))  # the first is the BOS, which nobody predicts
    return scores


def score_pairs(model: BLT, patcher: Patcher, pairs: Sequence[tuple[bytes, bytes]]) -> list[Score]:
    """What each continuation costs after its context; its EOS is not counted.

    A context that several continuations share is read once. The rest go through the parallel forward, many to a batch,
    unless they are so long that they go through in chunks.
    """
    sharing: dict[bytes, list[int]] = defaultdict(list)
    for place, (context, _) in enumerate(pairs):
        sharing[context].append(place)
    nats = [0.0] * len(pairs)
    alone = []
    for context, places in sharing.items():
        if len(places) == 1 and sum(map(len, pairs[places[0]])) < BATCH:
            alone += places
            continue
        session = Session(model, patcher)
        last = session.prefill(torch.from_numpy(encode(context)))
        for place in places:
            nats[place] = _continued(session.fork(), last[None], encode(pairs[place][1], bos=False))
    for batch in _batches(alone, [sum(map(len, pair)) for pair in pairs]):
        for place, cost in zip(batch, _side_by_side(model, patcher, [pairs[p] for p in batch]), strict=True):
            nats[place] = cost
    return [Score(cost, len(continuation)) for cost, (_, continuation) in zip(nats, pairs, strict=True)]


def _continued(session: Session, last_1V: Tensor, ids: np.ndarray) -> float:
    """-log p of ids that come next in a session, the logits before which are at hand."""
    ids_n = torch.from_numpy(ids)
    rest = torch.cat(list(_target_nats(session.feed, ids_n, lambda _: None)))
    return float(_nats(last_1V[: len(ids_n)], ids_n[:1]).sum() + rest.sum())


def _side_by_side(model: BLT, patcher: Patcher, pairs: list[tuple[bytes, bytes]]) -> list[float]:
    """-log p of each continuation, through one parallel forward."""
    before = [len(context) + 1 for context, _ in pairs]
    rows = [torch.from_numpy(encode(context + continuation)) for context, continuation in pairs]
    ids_BN = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(model.decoder.head.weight.device)
    with torch.inference_mode():
        logits_BNV = model(ids_BN, patcher(ids_BN))
    each = zip(logits_BNV, rows, before, strict=True)
    return [float(_nats(logits[begin - 1 : len(ids) - 1], ids[begin:]).sum()) for logits, ids, begin in each]


def _batches(places: list[int], lengths: list[int]) -> Iterator[list[int]]:
    """Texts of like length together, so many that with their padding they have at most BATCH ids."""
    batch: list[int] = []
    for place in sorted(places, key=lambda p: lengths[p]):
        if batch and (len(batch) + 1) * (lengths[place] + 1) > BATCH:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _nats(logits_nV: Tensor, targets_n: Tensor) -> Tensor:
    """-log p of each target, float64, on the CPU."""
    log_p = logits_nV.double().log_softmax(-1)
    return -log_p.gather(1, targets_n.to(log_p.device)[:, None])[:, 0].cpu()


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


def _target_nats(feed: Feed, ids_n: Tensor, advance: Callable[[int], None]) -> Iterator[Tensor]:
    """-log p of each id given those before it, float64, piece by piece; zero for the first of all."""
    yield torch.zeros(1, dtype=torch.float64)
    for begin in range(0, len(ids_n), CHUNK):
        part, targets = ids_n[begin : begin + CHUNK], ids_n[begin + 1 : begin + CHUNK + 1]
        yield _nats(feed(part)[: len(targets)], targets)
        advance(len(part))
