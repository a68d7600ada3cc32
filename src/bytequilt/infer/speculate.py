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
        guesses, drafted, chances = _draft(session, writer, id, min(length, writer.left))
        ids = [id, *guesses][: len(drafted)]  # an EOS is guessed, and not fed
        true = session.verify(torch.tensor(ids), torch.stack(drafted))
        id, passed, steps = _accept(writer, guesses, chances, true)
        session.crop(len(ids) - len(steps))  # the newest id of the text is fed in the next round, if there is one
        session.counts.update(drafted=len(guesses), accepted=passed)
        length = min(most, length + 2) if passed == len(guesses) else max(1, passed)
        yield from steps


def _accept(writer: Writer, guesses: list[int], chances: list[Tensor], true: Tensor) -> tuple[int, int, list[Step]]:
    """Take the guesses that pass, and an id that is drawn anew: the newest id, how many passed, and all steps."""
    steps: list[Step] = []
    for guess, before, logits in zip(guesses, chances, true, strict=False):
        now = writer.probabilities(logits)
        if not writer.sampler.accepts(guess, now, before):
            id = writer.sampler.redraw(now, before)
            return id, len(steps), [*steps, writer.push(id, logits)]
        steps.append(writer.push(guess, logits))
        if writer.finish_reason is not None:
            return guess, len(steps), steps
    id = writer.draw(true[-1])
    return id, len(steps), [*steps, writer.push(id, true[-1])]


def _draft(session: Session, writer: Writer, id: int, most: int) -> tuple[list[int], list[Tensor], list[Tensor]]:
    """Guesses behind an id, the last of which may be EOS; the logits drafted; and where each guess was drawn from."""
    guesses, drafted, chances, text = [], [session.draft(id)], [], writer.text
    while len(guesses) < most:
        chances.append(writer.sampler.probabilities(drafted[-1], text, writer.left - len(guesses)))
        guesses.append(writer.sampler.draw(chances[-1]))
        if guesses[-1] == EOS:
            break
        text += bytes([guesses[-1] - OFFSET])
        drafted.append(session.draft(guesses[-1]))
    return guesses, drafted, chances
