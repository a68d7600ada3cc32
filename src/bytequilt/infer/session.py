"""A session: ids in, logits out, each computed once. The cached twin of the full forward."""

import torch
from torch import Tensor

from ..codec import OFFSET
from ..model.blt import BLT
from ..model.cache import EncoderCache, StackCache
from ..model.entropy import entropy
from ..model.segments import Patches
from ..patching import rules
from ..patching.patcher import Patcher


class Session:
    """Runs a BLT over one text that arrives in pieces of any size.

    The latent transformer sees each patch once, when it is complete. Byte states of the open patch are held until then.
    """

    def __init__(self, model: BLT, patcher: Patcher) -> None:
        self.model, self.patcher = model, patcher
        config, self.device = model.config, next(model.parameters()).device
        self.rule = rules.Stream(patcher.rule)
        self.entropy = patcher.model.cache() if patcher.rule.needs_entropy else None
        self.encoder = EncoderCache(config.encoder, device=self.device)
        self.latent = StackCache(config.latent, device=self.device)
        self.decoder = StackCache(config.decoder, device=self.device)
        self.open_ids = torch.zeros(1, 0, dtype=torch.long, device=self.device)
        self.open_states: list[Tensor] = []
        self.newest: Tensor | None = None
        """Latent (1, 1, D) of the last complete patch."""
        self.text_patches = 0
        """Patches so far that begin with a byte of text, the open one among them."""
        self.closed = False

    @torch.no_grad()
    def feed(self, ids_n: Tensor) -> Tensor:
        """Logits (n, V) after each of the ids (n,) int64; the first id ever fed is BOS."""
        ids_BN = ids_n.to(self.device)[None]
        if not ids_BN.numel():
            return torch.zeros(0, self.model.decoder.head.out_features, device=self.device)
        closes_BN = self._closes(ids_BN)
        states = self.model.encoder(ids_BN, self.encoder)
        latents, read_BN = self._latents(ids_BN, closes_BN, states)
        return self.model.decoder(states[-1], latents, read_BN, ids_BN, self.decoder)[0]

    def _closes(self, ids_BN: Tensor) -> Tensor:
        """Which of the new ids close their patch: (1, n)."""
        nats = [None] * ids_BN.shape[1]
        if self.entropy is not None:
            with torch.autocast(self.device.type, enabled=False):
                nats = entropy(self.patcher.model(ids_BN, self.entropy))[0].tolist()
        closed = [self.rule.feed(id, nat) for id, nat in zip(ids_BN[0].tolist(), nats, strict=True)]
        begins = [self.closed, *closed[:-1]]
        self.text_patches += sum(start and id >= OFFSET for id, start in zip(ids_BN[0].tolist(), begins, strict=True))
        self.closed = closed[-1]
        return torch.tensor([closed], device=self.device)

    def _latents(self, ids_BN: Tensor, closes_BN: Tensor, states: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Latents of the last complete patch and of those that these ids complete, and which of them each id reads."""
        held = self.open_ids.shape[1]
        if held:
            ids_BN = torch.cat([self.open_ids, ids_BN], 1)
            closes_BN = torch.cat([torch.zeros_like(self.open_ids, dtype=torch.bool), closes_BN], 1)
            states = [torch.cat([before, new], 1) for before, new in zip(self.open_states, states, strict=True)]
        patches = Patches.from_closes(ids_BN, closes_BN)
        complete = patches.count - int(not closes_BN[0, -1])
        slots = self.model.encoder.patch(states, patches)[:, :complete]
        latents = slots.new_zeros(1, 1, self.model.config.latent.dim) if self.newest is None else self.newest
        if complete:
            opens_BP = patches.opens_BP(ids_BN)[:, :complete]
            latents = torch.cat([latents, self.model.latent(slots, opens_BP, self.latent)], 1)
        self.newest = latents[:, -1:]
        open = int((patches.of_byte_BN < complete).sum())
        self.open_ids, self.open_states = ids_BN[:, open:], [state[:, open:] for state in states]
        return latents, patches.read_BN[:, held:] + 1
