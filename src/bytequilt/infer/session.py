"""A session: ids in, logits out, each computed once. The cached twin of the full forward."""

import copy
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from ..codec import BOS, VOCAB_SIZE
from ..config import UserError
from ..model.blt import BLT
from ..model.cache import Gathered, Tape
from ..model.segments import Patches
from ..patching.patcher import Patcher
from .row import Row

CHUNK = 4096  # ids of one parallel pass over a long text


class Session:
    """Runs a BLT over a text that arrives in pieces of any size, or over several that take their steps together.

    The latent transformer sees each patch once, when it is complete. What windows still show of the past is kept, and
    one entry of the latent transformer for each patch; the rest is forgotten.
    """

    def __init__(self, model: BLT, patcher: Patcher, reserve: int = 0) -> None:
        """An empty text, which can be cropped back by up to `reserve` bytes at any time."""
        if not isinstance(reserve, int) or reserve < 0:
            raise UserError(f"reserve must be a whole number of at least 0, not {reserve!r}")
        self.model, self.patcher, self.reserve = model, patcher, reserve
        self.device = next(model.parameters()).device
        self.rows = [Row(model, patcher, reserve)]
        self.scorer = patcher.cache(reserve)
        self.encoder = model.encoder.cache(reserve)
        self.decoder = model.decoder.cache(reserve)
        self.states = [Tape(1) for _ in model.encoder.reading]
        """Byte states (rows, bytes, d) that patches read, back to the first byte of the longest open patch."""
        self.patch_axis = model.decoder.patch_axis
        self.undecided = 0
        """Bytes that were drafted and are not verified yet."""
        self.counts = Counter[str]()
        """So far: `latent_calls`, `decoder_calls`, and bytes `drafted` and `accepted`."""
        self.reads = self._nothing()
        """What the decoder reads of the last complete patch of each row."""

    @property
    def text_patches(self) -> int:
        """Patches so far that begin with a byte of text, open ones among them."""
        return sum(row.text_patches for row in self.rows)

    @torch.inference_mode()
    def feed(self, ids_n: Tensor) -> Tensor:
        """Logits (n, V) after each of the ids (n,) int64 of one text; the first id ever fed is BOS."""
        if len(ids_n) == 1:
            return self.step(ids_n)
        self._alone()
        ids_BN = ids_n.to(self.device)[None]
        if not ids_BN.numel():
            return torch.zeros(0, VOCAB_SIZE, device=self.device)
        self._keep(self.model.encoder(ids_BN, self.encoder))
        held, closed = self.rows[0].held, self._decide(ids_BN)
        return self._decode(ids_BN, closed, held)

    def prefill(self, ids_n: Tensor) -> Tensor:
        """Logits (V,) after the last of these ids, one at least, fed in pieces so that memory is bounded."""
        for part in ids_n.split(CHUNK):
            logits_nV = self.feed(part)
        return logits_nV[-1]

    @torch.inference_mode()
    def step(self, ids_R: Tensor) -> Tensor:
        """Logits (R, V) after the next id (R,) int64 of each text."""
        ids, ids_R = ids_R.tolist(), ids_R.to(self.device)
        opens = [id == BOS for id in ids]
        if any(opens):
            self._complete([r for r, row in enumerate(self.rows) if opens[r] and row.held])
        states = self.model.encoder.step(ids_R, self.encoder)
        self._keep([x_Rd[:, None] for x_Rd in states])
        nats = self.patcher.step(ids_R, self.scorer)
        closed = [row.decide(id, nat) for row, id, nat in zip(self.rows, ids, nats, strict=True)]
        self._complete([r for r, closes in enumerate(closed) if closes])
        self.counts["decoder_calls"] += 1
        return self.model.decoder.step(states[-1], self.reads, opens, self.decoder)

    # ------------------------------------------------------------------------------------------------- several texts

    @torch.inference_mode()
    def join(self, other: "Session") -> None:
        """Put the texts of another session of the same model behind these; the other one is used up.

        Raises ValueError where their reserves differ.
        """
        if self.reserve != other.reserve:
            raise ValueError(f"sessions of reserves {self.reserve} and {other.reserve} cannot join")
        self._retain()
        other._retain()
        self.rows += other.rows
        if self.scorer is not None:
            self.scorer.join(other.scorer)
        self.encoder.join(other.encoder)
        self.decoder.join(other.decoder)
        for mine, theirs in zip(self.states, other.states, strict=True):
            mine.join(theirs, 0)
        self.reads = torch.cat([self.reads, other.reads], self.patch_axis - 1)

    @torch.inference_mode()
    def select(self, rows: list[int]) -> None:
        """Keep these texts alone, in this order."""
        index = torch.tensor(rows, device=self.device)
        self.rows = [self.rows[row] for row in rows]
        for cache in (self.scorer, self.encoder, self.decoder):
            if cache is not None:
                cache.select(rows)
        for tape in self.states:
            tape.select(0, index)
        self.reads = self.reads.index_select(self.patch_axis - 1, index)

    # ------------------------------------------------------------------------------------------------ going elsewhere

    @torch.inference_mode()
    def fork(self) -> Self:
        """An independent session that has read the same."""
        shared = (self.model, self.patcher)
        return copy.deepcopy(self, {id(thing): thing for thing in shared})

    def save(self, path: str | Path) -> None:
        """Write what this session has read to a file; `LM.restore` goes on from there, in another process too."""
        from .saved import save

        save(self, path)

    @torch.inference_mode()
    def crop(self, count: int) -> None:
        """Take back the newest `count` bytes of one text. Raises UserError where that is more than reserved or fed."""
        self._alone()
        row = self.rows[0]
        if not 0 <= count < len(row.marks):
            raise UserError(
                f"cannot take back {count} bytes: this session reserved {self.reserve}, and can go back "
                f"{len(row.marks) - 1}; make it with a larger reserve"
            )
        if not count:
            return
        for cache in (self.scorer, self.encoder, self.decoder, *self.states, row):
            if cache is not None:
                cache.crop(count)
        self.reads = self.model.decoder.read(row.latents.last(1)) if row.patches else self._nothing()

    @torch.inference_mode()
    def trim(self) -> None:
        """Hold no more memory than what is kept: before saving, or a long wait."""
        self._retain()
        latents = [tape for row in self.rows for tape in (row.latent, row.latents)]
        for past in (self.scorer, self.encoder, self.decoder, *self.states, *latents):
            if past is not None:
                past.trim()

    # ------------------------------------------------------------------------------------------------------- drafting

    @torch.inference_mode()
    def draft(self, id: int) -> Tensor:
        """Logits (V,) after an id, as if it closed no patch: neither entropy model nor latent transformer run."""
        self._alone()
        opens, ids_R = [id == BOS], torch.tensor([id], device=self.device)
        states = self.model.encoder.step(ids_R, self.encoder)
        self._keep([x_Rd[:, None] for x_Rd in states])
        self.undecided += 1
        self.counts["decoder_calls"] += 1
        return self.model.decoder.step(states[-1], self.reads, opens, self.decoder)[0]

    @torch.inference_mode()
    def verify(self, ids_n: Tensor, drafted_nV: Tensor) -> Tensor:
        """The true logits (n, V) after ids that were drafted; those before the first boundary were true already."""
        ids_BN = ids_n.to(self.device)[None]
        held, closed = self.rows[0].held, self._decide(ids_BN)
        self.undecided = 0
        if not any(closed):
            return drafted_nV
        true = closed.index(True)
        self.decoder.crop(len(closed) - true)
        return torch.cat([drafted_nV[:true], self._decode(ids_BN, closed, held, true)])

    # ---------------------------------------------------------------------------------------------------- the passes

    def _alone(self) -> None:
        if len(self.rows) != 1:
            raise ValueError(f"a session of {len(self.rows)} texts takes steps, and nothing else")

    @torch.inference_mode()
    def _nothing(self) -> Tensor:
        """What there is to read before the first patch."""
        weight = self.model.decoder.head.weight
        return self.model.decoder.read(weight.new_zeros(1, 1, self.model.config.latent.dim))

    def _keep(self, states: Sequence[Tensor]) -> None:
        """Put byte states behind those that wait for the end of their patch."""
        self._retain()
        for tape, x_BNd in zip(self.states, states, strict=True):
            tape.append(x_BNd)

    def _retain(self) -> None:
        wanted = max(row.wanted for row in self.rows) + self.undecided
        for tape in self.states:
            tape.keep = wanted

    def _decide(self, ids_BN: Tensor) -> list[bool]:
        """Which of the new ids of the one text close their patch."""
        nats = self.patcher.feed(ids_BN, self.scorer)
        return [self.rows[0].decide(id, nat) for id, nat in zip(ids_BN[0].tolist(), nats, strict=True)]

    def _decode(self, ids_BN: Tensor, closed: list[bool], held: int, begin: int = 0) -> Tensor:
        """Logits after the new ids of the one text from `begin` on, `held` bytes of whose first patch came before."""
        row, states = self.rows[0], [tape.last(held + len(closed)) for tape in self.states]
        whole_BN = torch.cat([ids_BN.new_zeros(1, held), ids_BN], 1)  # of what is held only this counts: no BOS
        patches = Patches.from_closes(whole_BN, torch.tensor([[False] * held + closed], device=self.device))
        complete, reads = patches.count - (row.held > 0), self.reads
        if complete:
            slots_BPD = self.model.encoder.patch(states, patches)[:, :complete]
            latent_BPD = self.model.latent(slots_BPD, patches.opens_BP(whole_BN)[:, :complete], row.latent)
            self.counts["latent_calls"] += 1
            row.latents.append(latent_BPD)
            reads = torch.cat([reads, self.model.decoder.read(latent_BPD)], self.patch_axis)
            self.reads = reads.narrow(self.patch_axis, complete, 1).clone()
        self.counts["decoder_calls"] += 1
        read_BN = patches.read_BN[:, held + begin :] + 1  # the one before these comes first
        return self.model.decoder(states[-1][:, held + begin :], reads, read_BN, ids_BN[:, begin:], self.decoder)[0]

    def _complete(self, rows: list[int]) -> None:
        """Run the newest patches of these texts through the latent transformer, all of them in one call."""
        if not rows:
            return
        ended = [self.rows[row] for row in rows]
        slots = [
            self.model.encoder.step_patch([tape.last(row.length)[r] for tape in self.states])
            for r, row in zip(rows, ended, strict=True)
        ]
        opens = [row.rule.place == 0 for row in ended]
        caches = [row.latent for row in ended]
        latent_RD = self.model.latent.step(
            torch.stack(slots), opens, caches[0] if len(caches) == 1 else Gathered(caches)
        )
        self.counts["latent_calls"] += 1
        for row, latent in zip(ended, latent_RD, strict=True):
            row.latents.append(latent[None, None])
        reads = self.model.decoder.read(latent_RD[:, None])
        if len(rows) == len(self.rows):
            self.reads = reads
        else:
            self.reads.index_copy_(self.patch_axis - 1, torch.tensor(rows, device=self.device), reads)
