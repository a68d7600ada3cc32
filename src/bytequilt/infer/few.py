"""Drafted bytes and their patches through compiled steps: a few positions of one text as the rows of one product."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..model.rows import rows_of

if TYPE_CHECKING:
    from .session import Session


def decode_few(session: "Session", closes_N: Tensor, waiting: int, true: int) -> Tensor:
    """Logits (N - true, V) after the newest bytes of row 0, of which the first to close a patch is number `true`.

    The encoder has read all N, the decoder those before it; `waiting` bytes before them lie in the open patch.
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
