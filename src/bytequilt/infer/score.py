"""Bits per byte. Every model of the package is scored by this module."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..codec import OFFSET, VOCAB_SIZE, encode, grouped
from ..config import as_whole
from ..model.blt import BLT
from ..patching.patcher import Patcher
from .session import CHUNK, Session

BATCH = 16_384  # largest number of ids in a batch, padding included; limits the memory of logits
CACHED = 4096  # the same on a CPU, where the activations of larger batches do not fit into its caches
LONG = 8_192  # a text of at least this many ids is read in chunks with a cache
WAITING = 262_144  # bytes of documents that are collected first, so that documents of similar length share a batch
BLOCK = 2**24  # largest number of logits that are converted to float64 at once


@dataclass(frozen=True)
class Score:
    """The negative log-likelihood of a text under a model."""

    nats: float
    """Sum of -log p over all targets: the ids of the text, and the EOS if it is scored."""
    bytes: int
    """Number of bytes of text."""
    greedy: bool = True
    """True if every target is the likeliest id at its position: greedy generation would then write the text."""
    patches: int = 0
    """Number of patches (or tokens) that begin in the text; 0 if they were not counted."""

    @classmethod
    def total(cls, scores: "Iterable[Score]") -> Self:
        """The sum of the scores of several texts."""
        scores = list(scores)
        nats, bytes, patches = (sum(getattr(s, field) for s in scores) for field in ("nats", "bytes", "patches"))
        return cls(nats, bytes, all(s.greedy for s in scores), patches)

    @classmethod
    def of(cls, costs_2n: Tensor, bytes: int, patches: int = 0) -> "Score":
        """The score of a text of `bytes` bytes from the result of `costs_of` for its targets."""
        nats, missed = costs_2n.sum(1).tolist()
        return cls(nats, bytes, not missed, patches)

    @property
    def bits(self) -> float:
        return self.nats / math.log(2)

    @property
    def bits_per_byte(self) -> float:
        """Bits of all targets divided by bytes of text; infinite for an empty text."""
        return self.bits / self.bytes if self.bytes else math.inf

    @property
    def patch_bytes(self) -> float:
        """Mean bytes per patch or token; 0 if they were not counted."""
        return self.bytes / self.patches if self.patches else 0.0


class Scorer(Protocol):
    """The protocol of a language model that can be scored. V is its vocabulary size."""

    vocabulary: int
    device: torch.device

    def encode(self, text: bytes, *, bos: bool = True, eos: bool = False) -> np.ndarray:
        """The ids (n,) int64 of a text."""

    def side_by_side(self, ids_BN: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (B, N, V) of ids (B, N) padded with 0; and (B, N), true where an id begins a patch, or None."""

    def context(self) -> Callable[[Tensor], tuple[Tensor, int]]:
        """Start an empty context. The returned function feeds the next ids (n,). It returns their logits (n, V) and the
        number of patches that begin in them."""


class BLTScorer:
    """Scores a BLT with its patcher."""

    vocabulary = VOCAB_SIZE

    def __init__(self, model: BLT, patcher: Patcher) -> None:
        self.model, self.patcher, self.device = model, patcher, model.decoder.head.weight.device
        self.encode = encode

    def side_by_side(self, ids_BN: Tensor) -> tuple[Tensor, Tensor | None]:
        ids_BN = ids_BN.to(self.device)
        patches = self.patcher(ids_BN)
        return self.model(ids_BN, patches), patches.start_BN & (ids_BN >= OFFSET)

    def context(self) -> Callable[[Tensor], tuple[Tensor, int]]:
        session = Session(self.model, self.patcher)

        def feed(ids_n: Tensor) -> tuple[Tensor, int]:
            before = session.text_patches
            return session.feed(ids_n), session.text_patches - before

        return feed


class NetworkScorer:
    """Scores a network without patches: `network(ids, cache)` gives logits, `network.cache()` an empty cache."""

    def __init__(self, network: Any, vocabulary: int = VOCAB_SIZE, encode: Callable[..., np.ndarray] = encode) -> None:
        self.network, self.vocabulary, self.encode = network, vocabulary, encode
        self.device = next(network.parameters()).device

    def side_by_side(self, ids_BN: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.network(ids_BN.to(self.device)), None

    def context(self) -> Callable[[Tensor], tuple[Tensor, int]]:
        cache = self.network.cache()
        return lambda ids_n: (self.network(ids_n.to(self.device)[None], cache)[0], 0)


@dataclass(frozen=True)
class Piece:
    """Ids that are read from an empty context; the ids from index `begin` on are targets, which are scored."""

    ids_n: Tensor
    begin: int = 1
    """Index of the first target."""
    bytes: int = 0
    """Number of bytes of text in the targets."""


def score_documents(
    scorer: Scorer,
    documents: Iterable[bytes],
    advance: Callable[[int], None] = lambda _: None,
    context: int | None = None,
) -> list[Score]:
    """Score each document by itself, EOS included; sums are in float64.

    Without `context`, a document is read whole, which takes time in proportion to the square of its patches. With it, a
    longer document is cut into windows of `context` ids that overlap by half: each id is scored once, in the first
    window that has it. `advance` is called with the number of ids just scored, BOS included.
    """
    context = None if context is None else as_whole("context", context, 2)
    scores: list[Score] = []
    for group in grouped(documents, WAITING):
        cut = [_windows(scorer, document, context) for document in group]
        parts = iter(score_pieces(scorer, [piece for pieces in cut for piece in pieces], advance))
        for document, pieces in zip(group, cut, strict=True):
            scores.append(replace(Score.total(next(parts) for _ in pieces), bytes=len(document)))
    return scores


def score_pieces(
    scorer: Scorer, pieces: Sequence[Piece], advance: Callable[[int], None] = lambda _: None
) -> list[Score]:
    """Score the targets of each piece: short pieces in padded batches, long pieces in chunks with a cache."""
    scores = [Score(0.0, 0)] * len(pieces)
    lengths = [len(piece.ids_n) for piece in pieces]
    short = [place for place, length in enumerate(lengths) if length < LONG]
    room = min(BATCH, CACHED) if scorer.device.type == "cpu" else BATCH
    for batch in batches(short, lengths, max(1, room * VOCAB_SIZE // scorer.vocabulary)):
        for place, score in zip(batch, _side_by_side(scorer, [pieces[place] for place in batch]), strict=True):
            scores[place] = score
        asked = (pieces[place] for place in batch)
        advance(sum(len(piece.ids_n) - piece.begin + (piece.begin == 1) for piece in asked))
    for place, length in enumerate(lengths):
        if length >= LONG:
            scores[place] = _in_chunks(scorer, pieces[place], advance)
    return scores


def score_pairs(model: BLT, patcher: Patcher, pairs: Sequence[tuple[bytes, bytes]]) -> list[Score]:
    """Score each continuation after its context, for (context, continuation) pairs. No EOS is scored.

    A context that several continuations share is read once.
    """
    sharing: dict[bytes, list[int]] = defaultdict(list)
    for place, (context, _) in enumerate(pairs):
        sharing[context].append(place)
    scores = [Score(0.0, 0)] * len(pairs)
    alone = []
    for context, places in sharing.items():
        if len(places) == 1:
            alone += places
            continue
        session = Session(model, patcher)
        last_V = session.prefill(torch.from_numpy(encode(context)))
        for place in places:
            scores[place] = score_continuation(session.fork(), last_V[None], pairs[place][1])
    whole = [(torch.from_numpy(encode(b"".join(pairs[place]))), *map(len, pairs[place])) for place in alone]
    pieces = [Piece(ids, before + 1, after) for ids, before, after in whole]
    for place, score in zip(alone, score_pieces(BLTScorer(model, patcher), pieces), strict=True):
        scores[place] = score
    return scores


@torch.inference_mode()
def score_continuation(session: Session, last_1V: Tensor, text: bytes) -> Score:
    """Score a text that continues a session of one row. `last_1V` are the logits after the session's last id."""
    ids_n, before = torch.from_numpy(encode(text, bos=False)), session.text_patches
    costs = [costs_of(last_1V[: len(ids_n)], ids_n[:1])]
    for begin in range(0, len(ids_n), CHUNK):
        part, targets = ids_n[begin : begin + CHUNK], ids_n[begin + 1 : begin + CHUNK + 1]
        costs.append(costs_of(session.feed(part)[: len(targets)], targets))
    return Score.of(torch.cat(costs, 1), len(text), session.text_patches - before)


def batches(places: list[int], lengths: list[int], limit: int) -> Iterator[list[int]]:
    """Group `places` by similar length, so that a padded batch has at most `limit` ids. A longer text is alone."""
    batch: list[int] = []
    for place in sorted(places, key=lambda p: lengths[p]):
        if batch and (len(batch) + 1) * (lengths[place] + 1) > limit:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def nats_of(logits_nV: Tensor, targets_n: Tensor) -> Tensor:
    """-log p of each target (n,): (n,) float64, on the CPU."""
    if logits_nV.device.type == "mps":  # has no float64
        logits_nV = logits_nV.cpu()
    rows = max(1, BLOCK // logits_nV.shape[-1])
    blocks = zip(logits_nV.split(rows), targets_n.to(logits_nV.device).split(rows), strict=True)
    costs = [F.cross_entropy(logits.double(), targets, reduction="none") for logits, targets in blocks]
    return torch.cat(costs).cpu() if costs else torch.zeros(0, dtype=torch.float64)


def costs_of(logits_nV: Tensor, targets_n: Tensor) -> Tensor:
    """(2, n) float64, on the CPU: -log p of each target, and 1 if another id is likelier, else 0."""
    missed_n = logits_nV.argmax(-1).cpu() != targets_n.cpu()
    return torch.stack([nats_of(logits_nV, targets_n), missed_n.double()])


def _windows(scorer: Scorer, document: bytes, context: int | None) -> list[Piece]:
    """A document as one piece, or as windows of BOS and `context` ids that overlap by half."""
    ids_n = torch.from_numpy(scorer.encode(document, eos=True))
    if context is None or len(ids_n) <= context + 1:
        return [Piece(ids_n)]
    bos, half = ids_n[:1], context // 2
    pieces, done = [Piece(ids_n[: context + 1])], context + 1
    while done < len(ids_n):
        end = min(len(ids_n), done + context - half)
        pieces.append(Piece(torch.cat([bos, ids_n[done - half : end]]), half + 1))
        done = end
    return pieces


@torch.inference_mode()
def _side_by_side(scorer: Scorer, pieces: Sequence[Piece]) -> list[Score]:
    """Score pieces as the rows of one padded batch."""
    ids_BN = torch.nn.utils.rnn.pad_sequence([piece.ids_n for piece in pieces], batch_first=True)
    logits_BNV, starts_BN = scorer.side_by_side(ids_BN)
    costs_2n = costs_of(logits_BNV[:, :-1].flatten(0, 1), ids_BN[:, 1:].flatten())
    costs_B2N = costs_2n.unflatten(1, (len(pieces), -1)).transpose(0, 1)
    starts_BN = torch.zeros_like(ids_BN) if starts_BN is None else starts_BN.cpu()
    scores = []
    for piece, costs, starts in zip(pieces, costs_B2N, starts_BN, strict=True):
        own = slice(piece.begin, len(piece.ids_n))
        scores.append(Score.of(costs[:, own.start - 1 : own.stop - 1], piece.bytes, int(starts[own].sum())))
    return scores


@torch.inference_mode()
def _in_chunks(scorer: Scorer, piece: Piece, advance: Callable[[int], None]) -> Score:
    """Score one piece in chunks with a cache, so that memory is bounded. Only its targets count for patches."""
    feed, ids_n, costs, patches, own = scorer.context(), piece.ids_n, [], 0, piece.begin if piece.begin > 1 else 0
    size = CHUNK if scorer.device.type == "cpu" else BATCH
    for begin, end in pairwise([*range(0, own, size), *range(own, len(ids_n), size), len(ids_n)]):
        targets = ids_n[begin + 1 : end + 1]
        logits_nV, started = feed(ids_n[begin:end])
        costs.append(costs_of(logits_nV[: len(targets)], targets))
        if begin >= own:
            patches += started
            advance(end - begin)
    return Score.of(torch.cat(costs, 1)[:, piece.begin - 1 :], piece.bytes, patches)
