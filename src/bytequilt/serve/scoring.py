"""Scores a given text: the log-probability of each byte. It works in pieces; other texts make steps between them."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..codec import EOS, OFFSET, encode
from ..infer.batcher import PREFILL
from ..infer.sampler import TEXT_ONLY
from ..infer.session import Session

Top = tuple[tuple[int | None, float], ...]
"""(byte, log-probability) of the most likely bytes. None as a byte stands for the end of the text."""


class Entry(NamedTuple):
    """One position of a text: the byte, its log-probability, and the most likely bytes at this position, which may
    include the byte itself. `byte` is None at the end of the text."""

    byte: int | None
    logprob: float
    top: Top


@dataclass(frozen=True)
class Scored:
    """The log-probabilities of a text."""

    entries: list[Entry]
    """One entry for each byte."""
    end: Entry
    """The entry for the end of the text after the last byte."""


def score(session: Session, text: bytes, top: int) -> Generator[None, None, Scored]:
    """Score a text with a fresh session. Each entry lists the `top` most likely bytes."""
    ids_n, entries = torch.from_numpy(encode(text, eos=True)), []
    for begin in range(0, len(ids_n) - 1, PREFILL):
        part = ids_n[begin : begin + PREFILL]
        targets = ids_n[begin + 1 : begin + PREFILL + 1]
        logits_nV = session.feed(part)[: len(targets)]
        entries += _entries(logits_nV.float().log_softmax(-1).cpu(), targets, top)
        yield
    return Scored(entries[:-1], entries[-1])


def _entries(logprobs_nV: Tensor, targets_n: Tensor, top: int) -> list[Entry]:
    """One entry for each target. Special ids that cannot occur in a text are not listed."""
    logprobs_nV = logprobs_nV + TEXT_ONLY
    own = logprobs_nV.gather(1, targets_n[:, None])[:, 0].tolist()
    values, places = logprobs_nV.topk(top)
    tops = [
        tuple((_byte(id), value) for id, value in zip(ids, row, strict=True))
        for ids, row in zip(places.tolist(), values.tolist(), strict=True)
    ]
    return [Entry(_byte(id), p, best) for id, p, best in zip(targets_n.tolist(), own, tops, strict=True)]


def _byte(id: int) -> int | None:
    return None if id == EOS else id - OFFSET
