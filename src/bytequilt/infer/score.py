"""Bits per byte: the one function that measures every model here."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..codec import OFFSET, VOCAB_SIZE, encode
from ..config import as_whole
from ..model.blt import BLT
from ..patching.patcher import Patcher
from .session import CHUNK, Session

BATCH = 16_384  # ids of a batch of texts side by side, padding included: at most so many logits are in memory
LONG = 8_192  # ids from which on a text goes through in chunks, the cache carrying what came before
WAITING = 262_144  # ids of documents that are collected, so that those of like length come together
BLOCK = 2**24  # logits that are turned into float64 at once


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
    def of(cls, costs_2n: Tensor, bytes: int, patches: int = 0) -> "Score":
        """The score of a text of so many bytes, from `costs_of` its targets."""
        nats, missed = costs_2n.sum(1).tolist()
        return cls(nats, bytes, not missed, patches)

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


class Scorer(Protocol):
    """A language model that can be scored. V: its vocabulary."""

    vocabulary: int

    def encode(self, text: bytes, *, bos: bool = True, eos: bool = False) -> np.ndarray:
        """Ids (n,) int64 of a text."""
        ...

    def side_by_side(self, ids_BN: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (B, N, V) of rows padded with zeros, and the ids (B, N) that begin a patch, if there are patches."""
        ...

    def context(self) -> Callable[[Tensor], tuple[Tensor, int]]:
        """An empty context: what its next ids (n,) give, logits (n, V) and how many patches begin among them."""
        ...


class BLTScorer:
    """A BLT with its patcher."""

    vocabulary = VOCAB_SIZE

    def __init__(self, model: BLT, patcher: Patcher) -> None:
        self.model, self.patcher, self.device = model, patcher, model.decoder.head.weight.device

    def encode(self, text: bytes, *, bos: bool = True, eos: bool = False) -> np.ndarray:
        return encode(text, bos=bos, eos=eos)

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
    """A network over ids without patches, which has a cache."""

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
    """Ids that are read from an empty context on, and from which on they count."""

    ids_n: Tensor
    begin: int = 1
    """Place of the first id that is a target."""
    bytes: int = 0
    """Bytes of text among the targets."""


def score_documents(
    scorer: Scorer,
    documents: Iterable[bytes],
    advance: Callable[[int], None] = lambda _: None,
    context: int | None = None,
) -> list[Score]:
    """Score each document, EOS included, in float64; documents do not see each other.

    Each is read in its full context, which takes time that grows as the square of its patches. With a `context` of so
    many ids a longer document is cut into windows of that size, each of which reads the second half of the window
    before it again and scores only what is new. `advance` is called with the number of ids just scored, BOS included.
    """
    context = None if context is None else as_whole("context", context, 2)
    scores: list[Score] = []
    for group in _groups(documents):
        cut = [_windows(scorer, document, context) for document in group]
        parts = iter(score_pieces(scorer, [piece for pieces in cut for piece in pieces], advance))
        for document, pieces in zip(group, cut, strict=True):
            scores.append(replace(Score.total(next(parts) for _ in pieces), bytes=len(document)))
    return scores


def score_pieces(
    scorer: Scorer, pieces: Sequence[Piece], advance: Callable[[int], None] = lambda _: None
) -> list[Score]:
    """What the targets of each piece cost: short ones side by side, long ones chunk by chunk."""
    scores = [Score(0.0, 0)] * len(pieces)
    lengths = [len(piece.ids_n) for piece in pieces]
    short = [place for place, length in enumerate(lengths) if length < LONG]
    for batch in batches(short, lengths, max(1, BATCH * VOCAB_SIZE // scorer.vocabulary)):
        for place, score in zip(batch, _side_by_side(scorer, [pieces[place] for place in batch]), strict=True):
            scores[place] = score
        advance(sum(_targets(pieces[place]) for place in batch))
    for place, length in enumerate(lengths):
        if length >= LONG:
            scores[place] = _in_chunks(scorer, pieces[place], advance)
    return scores


def score_pairs(model: BLT, patcher: Patcher, pairs: Sequence[tuple[bytes, bytes]]) -> list[Score]:
    """What each continuation costs after its context; its EOS is not counted.

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
    """Score a text that continues a session of one row, given the logits after its last id."""
    ids_n, before = torch.from_numpy(encode(text, bos=False)), session.text_patches
    costs = [costs_of(last_1V[: len(ids_n)], ids_n[:1])]
    for begin in range(0, len(ids_n), CHUNK):
        part, targets = ids_n[begin : begin + CHUNK], ids_n[begin + 1 : begin + CHUNK + 1]
        costs.append(costs_of(session.feed(part)[: len(targets)], targets))
    return Score.of(torch.cat(costs, 1), len(text), session.text_patches - before)


def batches(places: list[int], lengths: list[int], limit: int = BATCH) -> Iterator[list[int]]:
    """Group texts of similar length so that rows x longest <= `limit` ids, or one text a group."""
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
    if logits_nV.device.type == "mps":  # knows no float64
        logits_nV = logits_nV.cpu()
    rows = max(1, BLOCK // logits_nV.shape[-1])
    blocks = zip(logits_nV.split(rows), targets_n.to(logits_nV.device).split(rows), strict=True)
    costs = [F.cross_entropy(logits.double(), targets, reduction="none") for logits, targets in blocks]
    return torch.cat(costs).cpu() if costs else torch.zeros(0, dtype=torch.float64)


def costs_of(logits_nV: Tensor, targets_n: Tensor) -> Tensor:
    """-log p of each target, and 1 where another id is likelier: (2, n) float64, on the CPU."""
    missed_n = logits_nV.argmax(-1).cpu() != targets_n.cpu()
    return torch.stack([nats_of(logits_nV, targets_n), missed_n.double()])


def _windows(scorer: Scorer, document: bytes, context: int | None) -> list[Piece]:
    """A document as one piece, or as windows of so many ids after their BOS that overlap by half."""
    ids_n = torch.from_numpy(scorer.encode(document, eos=True))
    if context is None or len(ids_n) <= context + 1:
        return [Piece(ids_n)]
    bos, half = ids_n[:1], context // 2
    pieces = [Piece(ids_n[: context + 1])]
    done = context + 1
    while done < len(ids_n):
        end = min(len(ids_n), done + context - half)
        pieces.append(Piece(torch.cat([bos, ids_n[done - half : end]]), half + 1))
        done = end
    return pieces


def _groups(documents: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Documents in their order, so many at a time that their ids are few; one at least."""
    group: list[bytes] = []
    size = 0
    for document in documents:
        if group and size + len(document) > WAITING:
            yield group
            group, size = [], 0
        group.append(document)
        size += len(document) + 2
    if group:
        yield group


def _targets(piece: Piece) -> int:
    return len(piece.ids_n) - piece.begin + (piece.begin == 1)


@torch.inference_mode()
def _side_by_side(scorer: Scorer, pieces: Sequence[Piece]) -> list[Score]:
    """Pieces as the rows of one parallel forward."""
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
    """One piece through a cache, so that memory is bounded; its patches all count."""
    feed, ids_n, patches = scorer.context(), piece.ids_n, 0
    costs = [torch.zeros(2, 1, dtype=torch.float64)]
    for begin in range(0, len(ids_n), CHUNK):
        part, targets = ids_n[begin : begin + CHUNK], ids_n[begin + 1 : begin + CHUNK + 1]
        logits_nV, started = feed(part)
        costs.append(costs_of(logits_nV[: len(targets)], targets))
        patches += started
        advance(len(part))
    return Score.of(torch.cat(costs, 1)[:, piece.begin :], piece.bytes, patches)
