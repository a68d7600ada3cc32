"""The steps of a session in PyTorch."""

import torch
from torch import Tensor

from ..model.blt import BLT
from ..model.cache import StackCache
from ..model.encoder_cache import EncoderCache
from ..model.ngram import NgramCache
from ..model.rows import Rows
from ..patching.patcher import Patcher


class TorchSteps:
    """The steps in PyTorch, by the step functions of the networks. `CompiledSteps` has the same methods."""

    few = False
    """True if `decode_few` can use these steps."""
    all_rows = False
    """True if a step writes to the caches of all rows, whichever rows it is for."""

    def __init__(self, model: BLT, patcher: Patcher) -> None:
        self.model, self.patcher, self.nats_feed = model, patcher, patcher.nats_feed

    def nats(self, ids_n: Tensor, cache: StackCache | NgramCache | None, rows: Rows, text: bool) -> Tensor | None:
        """Entropies in nats (n,) after the next id of each row; see `Patcher.nats_step`."""
        return self.patcher.nats_step(ids_n, cache, rows, text)

    def encode(self, ids_n: Tensor, cache: EncoderCache, rows: Rows, opens_n: Tensor | None) -> Tensor:
        """Byte states (n, d) of the next id of each row. The cache also keeps the states that patches attend to.

        `opens_n` is True where a new document starts; None means that none does.
        """
        return self.model.encoder.step(ids_n, cache, rows, opens_n)[-1]

    def patch(
        self, bytes: EncoderCache, latents: StackCache, rows: Rows, lengths: list[int], opens_n: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Process the newest patch of each row; `lengths` are the patches' lengths in bytes. Returns latents (n, D)
        and the decoder's inputs from them (n, ...)."""
        longest, absent_nL = max(lengths), None
        states = bytes.states.newest(rows, rows.take(bytes.stack.position_R), longest)
        if min(lengths) < longest:
            missing_n1 = torch.tensor([[longest - length] for length in lengths], device=rows.index.device)
            absent_nL = torch.arange(longest, device=rows.index.device) < missing_n1
        slots_nX = self.model.encoder.step_patch(states, absent_nL)
        latent_nD = self.model.latent.step(slots_nX, latents.step(rows, opens_n))
        return latent_nD, self.model.decoder.patch_inputs(latent_nD[:, None])[:, 0]

    def decode(self, x_nd: Tensor, patch_R: Tensor, cache: StackCache, rows: Rows, opens_n: Tensor | None) -> Tensor:
        """Logits (n, V) from byte states (n, d). A row reads its entry of `patch_R`, the decoder's input from the
        row's last patch. `x_nd` may be overwritten."""
        return self.model.decoder.step(x_nd, rows.take(patch_R), cache.step(rows, opens_n))
