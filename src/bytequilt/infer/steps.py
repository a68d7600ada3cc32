"""One step of some rows through each network: in PyTorch anywhere, compiled where that is asked for."""

from typing import Protocol

import torch
from torch import Tensor

from ..model.blt import BLT
from ..model.cache import StackCache
from ..model.encoder_cache import EncoderCache
from ..model.ngram import NgramCache
from ..model.rows import Rows
from ..patching.patcher import Patcher


class Steps(Protocol):
    """Functions that take n rows of caches one position further, and one that takes a row several."""

    def nats(self, ids_n: Tensor, cache: StackCache | NgramCache | None, rows: Rows, text: bool) -> Tensor | None:
        """Entropies (n,) after the next id of some rows, where the rule needs them; `text`: no id is a BOS."""
        ...

    def nats_feed(
        self, ids_N: Tensor, cache: StackCache | NgramCache | None, rows: Rows, single: bool
    ) -> Tensor | None:
        """The same (N,) after each of the next ids of one row; `single`: no id is a BOS but the row's first of all."""
        ...

    def encode(self, ids_n: Tensor, cache: EncoderCache, rows: Rows, opens_n: Tensor | None) -> Tensor:
        """Byte states (n, d) of the next id of some rows; the cache keeps what patches read.

        `opens_n` says which ids are a BOS, None that none is.
        """
        ...

    def patch(
        self, bytes: EncoderCache, latents: StackCache, rows: Rows, lengths: list[int], opens_n: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Latents (n, D) of the newest patch, `lengths` bytes long, of each row; and what bytes read of it (n, ...)."""
        ...

    def decode(self, x_nd: Tensor, patch_R: Tensor, cache: StackCache, rows: Rows, opens_n: Tensor | None) -> Tensor:
        """Logits (n, V) of the next byte of some rows, each of which reads its own patch; `x_nd` is overwritten."""
        ...


def steps_of(model: BLT, patcher: Patcher, native: bool) -> Steps:
    """The steps of a model and its patcher: compiled where `native` says so."""
    if not native:
        return TorchSteps(model, patcher)
    from ..native.steps import CompiledSteps

    return CompiledSteps(model, patcher)


class TorchSteps:
    """The steps of the networks themselves."""

    def __init__(self, model: BLT, patcher: Patcher) -> None:
        self.model, self.patcher = model, patcher

    def nats(self, ids_n: Tensor, cache: StackCache | NgramCache | None, rows: Rows, text: bool) -> Tensor | None:
        return self.patcher.nats_step(ids_n, cache, rows, text)

    def nats_feed(
        self, ids_N: Tensor, cache: StackCache | NgramCache | None, rows: Rows, single: bool
    ) -> Tensor | None:
        return self.patcher.nats_feed(ids_N, cache, rows, single)

    def encode(self, ids_n: Tensor, cache: EncoderCache, rows: Rows, opens_n: Tensor | None) -> Tensor:
        return self.model.encoder.step(ids_n, cache, rows, opens_n)[-1]

    def patch(
        self, bytes: EncoderCache, latents: StackCache, rows: Rows, lengths: list[int], opens_n: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        longest, absent_nL = max(lengths), None
        states = bytes.states.newest(rows, rows.take(bytes.stack.position_R), longest)
        if min(lengths) < longest:
            missing_n1 = torch.tensor([[longest - length] for length in lengths], device=rows.index.device)
            absent_nL = torch.arange(longest, device=rows.index.device) < missing_n1
        slots_nX = self.model.encoder.step_patch(states, absent_nL)
        latent_nD = self.model.latent.step(slots_nX, latents.step(rows, opens_n))
        return latent_nD, self.model.decoder.read(latent_nD[:, None])[:, 0]

    def decode(self, x_nd: Tensor, patch_R: Tensor, cache: StackCache, rows: Rows, opens_n: Tensor | None) -> Tensor:
        return self.model.decoder.step(x_nd, rows.take(patch_R), cache.step(rows, opens_n))
