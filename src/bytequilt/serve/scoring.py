"""What a model gives each byte of a text that is already there, in pieces between which others take their steps."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..codec import EOS, OFFSET, encode
from ..infer.sampler import TEXT_ONLY
from ..infer.session import Session

CHUNK = 512  # ids of one piece, as of one piece of a prompt in the batcher

Top = tuple[tuple[int | None, float], ...]
"""The likeliest bytes and their log-probabilities; None stands for the end of the text."""


class Entry(NamedTuple):
    """A byte, or the end of the text, where a text stands."""

    byte: int | None
    logprob: float
    top: Top


@dataclass(frozen=True)
class Scored:
    """A text under a model."""

    entries: list[Entry]
    """One for each byte."""
    end: Entry
    """That the text ends here."""


def score(session: Session, text: bytes, top: int) -> Generator[None, None, Scored]:
    """Score a text in a fresh session, with the `top` likeliest beside each byte."""
    ids_n, entries = torch.from_numpy(encode(text, eos=True)), []
    for begin in range(0, len(ids_n) - 1, CHUNK):
        part = ids_n[begin : begin + CHUNK]
        targets = ids_n[begin + 1 : begin + CHUNK + 1]
        logits_nV = session.feed(part)[: len(targets)]
        entries += _entries(logits_nV.float().log_softmax(-1).cpu(), targets, top)
        yield
    return Scored(entries[:-1], entries[-1])


def _entries(logprobs_nV: Tensor, targets_n: Tensor, top: int) -> list[Entry]:
    """One for each target. Special ids that no text has are no alternatives."""
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
