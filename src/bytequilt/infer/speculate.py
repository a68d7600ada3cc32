"""Self-speculation: the decoder drafts bytes from the latent of the last complete patch, and one pass of the whole
model verifies them.

This is BLT-S of Fast BLT (arXiv 2605.08044). Drafts are accepted as in speculative sampling (Leviathan et al. 2023), so
greedy text is unchanged and sampled text keeps its distribution. The patcher still decides all boundaries.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..codec import EOS, encode
from .batcher import logprobs_of
from .sampler import Past, Sampler, accepted, drawn, redrawn
from .sampling import Sampling
from .session import Session
from .writer import NOTHING, Meter, Step, Writer


def speculate(session: Session, prompt: bytes, sampling: Sampling, draft: int) -> Iterator[Step]:
    """Generate after a prompt with drafts of up to `draft` bytes. The session needs a reserve of `draft` + 1.

    A draft grows by two bytes after a full success; otherwise it shrinks to the number of bytes that were accepted. The
    last step has statistics.
    """
    ids = encode(prompt)
    text = _Speculation(session, Writer(ids[1:].tolist(), sampling))
    if text.writer.finish_reason is not None:
        yield NOTHING
        return
    meter = Meter()
    logits_V = session.prefill(torch.from_numpy(ids))
    meter.prompted(_counts(session))
    for step in text.steps(logits_V, draft):
        last = step.finish_reason is not None
        yield replace(step, stats=meter.stats(text.writer, _counts(session), session.rows[0].closed)) if last else step


def _counts(session: Session) -> Counter[str]:
    return session.counts + Counter(patches=session.text_patches)


class _Speculation:
    """One text: drafts and verification take turns."""

    def __init__(self, session: Session, writer: Writer) -> None:
        self.session, self.writer = session, writer
        self.sampler = Sampler([writer.sampling], session.device)

    def steps(self, logits_V: Tensor, draft: int) -> Iterator[Step]:
        """Generate from the logits (V,) after the prompt."""
        session, length = self.session, min(4, draft)
        id = self.draw(logits_V)
        yield self.push(id, logits_V)
        while self.writer.finish_reason is None:
            guesses, drafted, chances = self.guess(id, min(length, self.writer.past.left))
            ids = [id, *guesses][: len(drafted)]  # a guessed EOS was not fed
            true = session.verify(torch.tensor(ids), torch.stack(drafted))
            id, passed, steps = self.accept(guesses, chances, true)
            session.crop(len(ids) - len(steps))  # the newest id of the text is fed in the next round
            session.counts.update(drafted=len(guesses), accepted=passed)
            length = min(draft, length + 2) if passed == len(guesses) else max(1, passed)
            yield from steps

    def accept(self, guesses: list[int], chances: list[Tensor], true: Tensor) -> tuple[int, int, list[Step]]:
        """Accept guesses up to the first rejected one, then draw one more id. Returns the newest id, the number of
        accepted guesses, and all steps. `chances` are the distributions of the guesses, `true` the true logits."""
        steps: list[Step] = []
        for guess, before_V, logits_V in zip(guesses, chances, true, strict=False):
            now_V = self.probabilities(logits_V, self.writer.past)
            if not accepted(guess, now_V, before_V, self.writer.random):
                id = redrawn(now_V, before_V, self.writer.random)
                return id, len(steps), [*steps, self.push(id, logits_V)]
            steps.append(self.push(guess, logits_V))
            if self.writer.finish_reason is not None:
                return guess, len(steps), steps
        id = self.draw(true[-1])
        return id, len(steps), [*steps, self.push(id, true[-1])]

    def guess(self, id: int, most: int) -> tuple[list[int], list[Tensor], list[Tensor]]:
        """Guess up to `most` ids after an id, until EOS. Returns the guesses, the draft logits after each fed id, and
        the distribution of each guess."""
        guesses, drafted, chances, past = [], [self.session.draft(id)], [], self.writer.past
        while len(guesses) < most:
            chances.append(self.probabilities(drafted[-1], past))
            guesses.append(int(drawn(chances[-1][None], [self.writer.random.random()])))
            if guesses[-1] in (EOS, -1):
                break
            past = past.after(guesses[-1])
            drafted.append(self.session.draft(guesses[-1]))
        return guesses, drafted, chances

    def probabilities(self, logits_V: Tensor, past: Past) -> Tensor:
        return self.sampler.probabilities(logits_V[None], [past])[0]

    def draw(self, logits_V: Tensor) -> int:
        return int(self.sampler.draw(logits_V[None], [self.writer.past], [self.writer.random]))

    def push(self, id: int, logits_V: Tensor) -> Step:
        told = self.sampler.report(logits_V[None], torch.tensor([id], device=logits_V.device)).tolist()[0]
        return self.writer.push(id, *logprobs_of(told)) if self.sampler.tells else self.writer.push(id)
