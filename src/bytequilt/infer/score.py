"""Bits per byte: the one function that measures every model here."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..codec import encode

CHUNK = 4096  # ids of one forward pass
STREAM = 16_384  # ids after which short documents start a fresh context, so that the latent cache stays small

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
        log_p = feed(part)[: len(targets)].double().log_softmax(-1)
        yield -log_p.gather(1, targets.to(log_p.device)[:, None])[:, 0].cpu()
        advance(len(part))
