"""Verification of drafted bytes with compiled steps: a few positions of one text are rows of one matrix product."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..model.rows import rows_of

if TYPE_CHECKING:
    from .session import Session


def decode_few(session: "Session", closes_N: Tensor, waiting: int, true: int) -> Tensor:
    """True logits (N - true, V) of row 0 after the last N - true of its N newest bytes.

    Byte number `true` is the first of the N that closes a patch. Encoder and decoder have read all N bytes as drafts;
    the decoder reads again from byte `true` on. The open patch has `waiting` bytes before the N.
    """
    from ..native.steps import CompiledSteps

    steps, rows, count = session.steps, rows_of((0,), session.device), len(closes_N)
    assert isinstance(steps, CompiledSteps)
    session.decoder.crop(0, count - true)
    begin, first = session.encoder.stack.lengths[0] - count, session.latent.lengths[0]
    ends = [begin + place + 1 for place, closes in enumerate(closes_N.tolist()) if closes]
    lengths = [end - before for before, end in zip([begin - waiting, *ends], ends, strict=False)]
    latent_nD, read_nX = steps.patches(session.encoder, session.latent, rows, ends, lengths)
    session.counts["latent_calls"] += 1
    session.counts["decoder_calls"] += 1
    kept = session.reserve + 1
    columns = torch.arange(first, first + len(ends))[-kept:] % kept
    session.latents_RKD[0, columns] = latent_nD[-kept:]
    session.patch_R[0] = read_nX[-1].view(session.patch_R.shape[1:])
    x_nd = session.encoder.states.newest(rows, rows.take(session.encoder.stack.position_R), count - true)[-1][0]
    return steps.decode_bytes(x_nd, read_nX[closes_N.cumsum(0)[true:] - 1], session.decoder, rows)
