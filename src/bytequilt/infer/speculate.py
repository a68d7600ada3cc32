"""Self-speculation: the decoder drafts bytes on a stale latent, and one pass of the whole model verifies them.

BLT-S of Fast BLT (arXiv 2605.08044). Nothing is lost: a draft is accepted as in speculative sampling (Leviathan et al.
2023), so greedy text is the same, and sampled text has the same distribution. Boundaries are the patcher's own.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..codec import EOS, OFFSET
from .session import Session
from .writer import Step, Writer


def speculate(session: Session, writer: Writer, logits: Tensor, most: int) -> Iterator[Step]:
    """Go on with a text after these logits, guessing up to `most` bytes at a time; the session reserves one more.

    Drafts grow longer while they pass, and fall back to what passed.
    """
    length = min(4, most)
    id = writer.draw(logits)
    yield writer.push(id, logits)
    while writer.finish_reason is None:
        ids, drafted, chances = _draft(session, writer, id, min(length, writer.left))
        true = session.verify(torch.tensor(ids), torch.stack(drafted))
        id, steps = _accept(writer, ids[1:], chances, true)
        fed = len(steps)  # the first id and those that passed; the newest one of the text is fed in the next round
        session.crop(len(ids) - fed)
        session.counts.update(drafted=len(chances), accepted=fed - 1)
        length = min(most, length + 2) if fed == len(ids) else max(1, fed - 1)
        yield from steps


def _accept(writer: Writer, guesses: list[int], chances: list[Tensor], true: Tensor) -> tuple[int, list[Step]]:
    """Take the guesses that pass, and one id that is drawn anew: the newest id of the text, and their steps."""
    steps: list[Step] = []
    for guess, before, logits in zip(guesses, chances, true, strict=False):
        now = writer.probabilities(logits)
        if not writer.sampler.accepts(guess, now, before):
            id = writer.sampler.redraw(now, before)
            return id, [*steps, writer.push(id, logits)]
        steps.append(writer.push(guess, logits))
        if writer.finish_reason is not None:
            return guess, steps
    id = writer.draw(true[-1])
    return id, [*steps, writer.push(id, true[-1])]


def _draft(session: Session, writer: Writer, id: int, most: int) -> tuple[list[int], list[Tensor], list[Tensor]]:
    """An id and guesses behind it; the drafted logits after each; and the distribution that each guess came from."""
    ids, drafted, chances, text = [id], [session.draft(id)], [], writer.text
    while len(chances) < most:
        chance = writer.sampler.probabilities(drafted[-1], text, writer.left + 1 - len(ids))
        guess = writer.sampler.draw(chance)
        if guess == EOS:
            break
        ids.append(guess)
        chances.append(chance)
        text += bytes([guess - OFFSET])
        drafted.append(session.draft(guess))
    return ids, drafted, chances
