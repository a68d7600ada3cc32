"""A session: incremental inference with caches. It gives the logits of the full forward, and reads each id once."""

import copy
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ..codec import BOS, VOCAB_SIZE
from ..config import UserError, as_kind, as_whole
from ..model.blt import BLT
from ..model.rows import Rows, plain, restored, rows_of
from ..model.segments import Patches, check_ids
from ..patching.patcher import Patcher
from . import saved
from .boundaries import Boundaries
from .few import decode_few
from .row import Row
from .steps import steps_of

CHUNK = 4096  # largest number of ids per parallel pass over a long text; bounds memory


class Session:
    """Runs a BLT over texts that arrive in pieces of any size. Each text has one row, independent of the others.

    The latent transformer reads each patch once, when the patch is complete. Its KV cache has one entry per patch. Of
    the bytes, only those inside the attention windows and in the open patch are kept.
    """

    def __init__(self, model: BLT, patcher: Patcher, reserve: int = 0, rows: int = 1, native: bool = False) -> None:
        """Create empty texts. The newest `reserve` bytes of a text can be removed at any time (`crop`).

        With `native`, single steps are compiled on a CPU, in fp32 or int8, and recorded as CUDA graphs on a GPU.
        """
        reserve, rows = as_whole("reserve", reserve, 0, 2**20), as_whole("rows", rows, 1, 2**16)
        as_kind("model", model, BLT), as_kind("patcher", patcher, Patcher)
        weight = model.decoder.norm.weight
        self.model, self.patcher, self.reserve, self.device = model, patcher, reserve, weight.device
        self.rows = [Row(reserve) for _ in range(rows)]
        self.steps = steps_of(model, patcher, rows, native)
        self.boundaries = Boundaries(patcher, self.steps, rows, reserve, self.device)
        self.encoder, self.decoder = model.encoder.cache(rows, reserve), model.decoder.cache(rows, reserve)
        self.latent = model.latent.stack.cache(rows, reserve)
        kept = reserve + 1 if reserve else 0
        self.latents_RKD = torch.zeros(rows, kept, model.config.latent.dim, device=self.device, dtype=weight.dtype)
        """Ring buffer of the newest latents: that of patch i is in column i mod K."""
        self.patch_R = self._before_the_first().repeat_interleave(rows, 0)
        """The decoder's input from the last complete patch of each row: `decoder.patch_inputs` of its latent."""
        self.undecided = 0
        """Number of drafted bytes that are not verified yet."""
        self.counts = Counter[str]()
        """Totals so far: `latent_calls`, `decoder_calls`, and numbers of bytes `drafted` and `accepted`."""

    @property
    def text_patches(self) -> int:
        """Number of patches of all rows that begin with a byte of text, open patches included."""
        return sum(row.text_patches for row in self.rows)

    @torch.inference_mode()
    def feed(self, ids_n: Tensor, row: int = 0) -> Tensor:
        """Feed the next ids (n,) int64 of one text. Returns logits (n, V). The first id of a text must be BOS."""
        check_ids(ids_n, 1)
        if not len(ids_n):
            return torch.zeros(0, VOCAB_SIZE, device=self.device)
        if len(ids_n) == 1:
            return self.step(ids_n, [row])
        text, rows, ids_BN = self.rows[row], self._at([row]), ids_n.to(self.device)[None]
        waiting, before = text.open_bytes, text.patches
        single = not bool((ids_BN[0, 0 if text.ids else 1 :] == BOS).any())
        closes_N = self._decide(ids_BN, row, single)
        self.encoder.states.make_room(max(waiting, text.needed_states), self.encoder.stack.lengths)
        earlier = self.encoder.states.newest(rows, rows.take(self.encoder.stack.position_R), waiting)
        states = self.model.encoder(ids_BN, self.encoder, rows, single)
        self.encoder.states.extend(row, states, text.ids)
        whole = [torch.cat(pair, 1) for pair in zip(earlier, states, strict=True)]
        return self._decode(row, whole, ids_BN, closes_N, text.patches - before, single)

    def prefill(self, ids_n: Tensor, row: int = 0) -> Tensor:
        """Feed the next ids (n,) in pieces of bounded memory, n > 0. Returns the logits (V,) after the last one."""
        for part in ids_n.split(CHUNK):
            logits_nV = self.feed(part, row)
        return logits_nV[-1]

    @torch.inference_mode()
    def step(self, ids_n: Tensor | Sequence[int], rows: Sequence[int] | None = None) -> Tensor:
        """Feed one id (n,) int64 to each of these rows (rising order), or to all rows. Returns logits (n, V).

        Python numbers are the fastest form of ids: a tensor must be copied to the host, which looks for BOS.
        """
        rows = range(len(self.rows)) if rows is None else rows
        if not isinstance(ids_n, Tensor):
            given_n = torch.tensor(ids_n, device=self.device)
            closes_n = self.lookahead(given_n, rows, text=BOS not in ids_n)
            return self.advance(given_n, ids_n, closes_n.tolist(), rows)
        ids_n = ids_n.to(self.device)
        closes_n = self.lookahead(ids_n, rows)
        ids, closed = torch.stack([ids_n, closes_n]).tolist()
        return self.advance(ids_n, ids, closed, rows)

    def lookahead(self, ids_n: Tensor, rows: Sequence[int], text: bool = False) -> Tensor:
        """First half of a step: (n,) int64, 1 for each next id (n,) that closes its patch. Nothing is copied to the
        host. `advance` must follow with the same ids, both under `torch.inference_mode`. `text` promises no BOS.
        """
        places = [self.rows[row].ids for row in rows]
        return self.boundaries.step(ids_n, self._at(rows), places, text).long()

    def advance(self, ids_n: Tensor, ids: Sequence[int], closed: Sequence[int], rows: Sequence[int]) -> Tensor:
        """Second half of a step: logits (n, V). `ids` and `closed` are host copies of the ids and of `lookahead`."""
        selected = self._at(rows)
        texts = [self.rows[row] for row in rows]
        opens = [id == BOS and text.ids > 0 for id, text in zip(ids, texts, strict=True)]
        opens_n = torch.tensor(opens, device=self.device) if any(opens) else None
        if opens_n is not None:  # a BOS ends the patch before it
            cut = [row for row, open, text in zip(rows, opens, texts, strict=True) if open and text.open_bytes]
            self._complete(cut, [False] * len(cut))
        self._make_room(texts)
        x_nd = self.steps.encode(ids_n, self.encoder, selected, opens_n)
        for text, id, closes in zip(texts, ids, closed, strict=True):
            text.push(id, bool(closes))
        ended = [place for place, closes in enumerate(closed) if closes]
        self._complete([rows[place] for place in ended], [opens[place] for place in ended])
        self.counts["decoder_calls"] += 1
        return self.steps.decode(x_nd, self.patch_R, self.decoder, selected, opens_n)

    @torch.inference_mode()
    def clear(self, row: int) -> None:
        """Empty a row, so that a new text can start in it."""
        self.rows[row] = Row(self.reserve)
        for part in (self.boundaries, self.encoder, self.latent, self.decoder):
            part.clear(row)
        self.patch_R[row] = self._before_the_first()[0]

    @torch.inference_mode()
    def fork(self) -> Self:
        """An independent copy of this session, texts included. Model, patcher and steps are shared. On a GPU, a session
        and its forks must therefore be used by one thread."""
        shared = (self.model, self.patcher, self.steps)
        return copy.deepcopy(self, {id(thing): thing for thing in shared})

    @torch.inference_mode()
    def crop(self, count: int, row: int = 0) -> None:
        """Remove the newest `count` ids of a text. Raises UserError if the text is shorter or `reserve` is smaller."""
        text, count = self.rows[row], as_whole("count", count, 0)
        if count >= len(text.marks):
            raise UserError(
                f"cannot take back {count} bytes: this session reserved {self.reserve}, and can go back "
                f"{len(text.marks) - 1}; make it with a larger reserve"
            )
        if not count:
            return
        before, kept = text.patches, self.reserve + 1
        text.crop(count)
        self.boundaries.crop(row, count, text.ids)
        self.encoder.crop(row, count)
        self.decoder.crop(row, count)
        self.latent.crop(row, before - text.patches)
        latent_11D = self.latents_RKD[row, (text.patches - 1) % kept][None, None]
        patch = self.model.decoder.patch_inputs(latent_11D)[:, 0] if text.patches else self._before_the_first()
        self.patch_R[row] = patch[0]

    def save(self, path: str | Path) -> None:
        """Write the state of this session to a file. `LM.restore` continues from it, in another process too."""
        saved.write(path, self.state(), saved.fingerprint(self.model, self.patcher))

    @classmethod
    @torch.inference_mode()
    def restore(cls, model: BLT, patcher: Patcher, path: str | Path, native: bool = False) -> Self:
        """Read a saved session. Raises UserError if the file is not one, is damaged, or belongs to another model."""
        state = saved.read(path, saved.fingerprint(model, patcher))
        with saved.told_as_damage(path):
            session = cls(model, patcher, state["reserve"], len(state["rows"]), native)
            session.load(state)
        return session

    def state(self) -> dict[str, Any]:
        """A copy of the content of the session as a dictionary of tensors and plain values, for saving."""
        return {
            "reserve": self.reserve,
            "rows": [row.state() for row in self.rows],
            "counts": dict(self.counts),
            "encoder": self.encoder.state(),
            "latent": self.latent.state(),
            "decoder": self.decoder.state(),
            "boundaries": self.boundaries.state(),
            "latents": self.latents_RKD.clone(),
            "patch": self.patch_R.clone(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Copy a state of the same reserve and number of rows. Raises ValueError or KeyError if it is wrong."""
        for name in ("boundaries", "encoder", "latent", "decoder"):
            getattr(self, name).load(state[name])
        room = self.encoder.states.data_SRLd.shape[2]
        caches = zip(self.encoder.stack.lengths, self.latent.lengths, strict=True)
        for row, saved_row, lengths in zip(self.rows, state["rows"], caches, strict=True):
            row.load(saved_row, *lengths, room)
        self.counts = Counter(dict(zip(state["counts"], plain(list(state["counts"].values()), int), strict=True)))
        self.latents_RKD = restored(state, "latents", self.latents_RKD)
        self.patch_R = restored(state, "patch", self.patch_R)

    @torch.inference_mode()
    def draft(self, id: int) -> Tensor:
        """Draft logits (V,) after an id of row 0, as if the id closed no patch. Only encoder and decoder run."""
        rows, ids_R = self._at([0]), torch.tensor([id], device=self.device)
        self._make_room(self.rows[:1])
        opens_R = ids_R == BOS if id == BOS else None
        x_1d = self.steps.encode(ids_R, self.encoder, rows, opens_R)
        self.undecided += 1
        self.counts["decoder_calls"] += 1
        return self.steps.decode(x_1d, self.patch_R, self.decoder, rows, opens_R)[0]

    @torch.inference_mode()
    def verify(self, ids_n: Tensor, drafted_nV: Tensor) -> Tensor:
        """The true logits (n, V) after drafted ids. Draft logits before the first patch end are true already."""
        text, rows, ids_BN = self.rows[0], self._at([0]), ids_n.to(self.device)[None]
        waiting, before, self.undecided = text.open_bytes, text.patches, 0
        closes_N = self._decide(ids_BN, 0, False)
        if text.patches == before:
            return drafted_nV
        true = int(closes_N.long().argmax())
        if self.steps.few and not bool((ids_n == BOS).any()):
            return torch.cat([drafted_nV[:true], decode_few(self, closes_N, waiting, true)])
        states = self.encoder.states.newest(rows, rows.take(self.encoder.stack.position_R), waiting + len(ids_n))
        self.decoder.crop(0, len(ids_n) - true)
        decoded = self._decode(0, states, ids_BN, closes_N, text.patches - before, False, true)
        return torch.cat([drafted_nV[:true], decoded])

    def _make_room(self, texts: Sequence[Row]) -> None:
        """Make room for the states of the next byte of these texts."""
        texts = self.rows if self.steps.all_rows else texts
        room = max(text.needed_states for text in texts) + self.undecided + 1
        self.encoder.states.make_room(room, self.encoder.stack.lengths)

    def _at(self, rows: Sequence[int]) -> Rows:
        return rows_of(tuple(rows), self.device)

    @torch.inference_mode()
    def _before_the_first(self) -> Tensor:
        """The decoder's input before the first patch (that of a latent of zeros), for one row."""
        weight = self.model.decoder.norm.weight
        return self.model.decoder.patch_inputs(weight.new_zeros(1, 1, self.model.config.latent.dim))[:, 0]

    def _decide(self, ids_BN: Tensor, row: int, single: bool) -> Tensor:
        """Find which of the next ids (1, N) of a row close their patch: (N,) bool. Also updates the row's counts."""
        text = self.rows[row]
        closes_N = self.boundaries.feed(ids_BN[0], row, self._at([row]), text.ids, single)
        ids, closed = torch.stack([ids_BN[0], closes_N.long()]).cpu().numpy()
        text.feed(ids, closed > 0)
        return closes_N

    def _decode(
        self,
        row: int,
        states: Sequence[Tensor],
        ids_BN: Tensor,
        closes_N: Tensor,
        complete: int,
        single: bool,
        begin: int = 0,
    ) -> Tensor:
        """Logits after `ids_BN[:, begin:]` of a row. `states`: byte states of the open patch, then of all `ids_BN`."""
        rows, waiting = self._at([row]), states[0].shape[1] - ids_BN.shape[1]
        whole_BN = torch.cat([ids_BN.new_zeros(1, waiting), ids_BN], 1)  # earlier ids may be 0, since none is a BOS
        closes_BN = torch.cat([closes_N.new_zeros(waiting), closes_N])[None]
        patches, reads = Patches.from_closes(whole_BN, closes_BN), rows.take(self.patch_R)[:, None]
        if complete:
            slots_BPD = self.model.encoder.patch(list(states), patches)[:, :complete]
            opens_BP = patches.opens_BP(whole_BN)[:, :complete]
            kept, first = self.reserve + 1, self.latent.lengths[row]
            latent_BPD = self.model.latent(slots_BPD, opens_BP, self.latent.chunk(rows, opens_BP, single))
            self.counts["latent_calls"] += 1
            if self.reserve:
                columns = torch.arange(first, first + complete, device=self.device)[-kept:] % kept
                self.latents_RKD[row, columns] = latent_BPD[0, -kept:]
            reads = torch.cat([reads, self.model.decoder.patch_inputs(latent_BPD)], 1)
            self.patch_R[row] = reads[0, complete]
        self.counts["decoder_calls"] += 1
        read_BN = patches.read_BN[:, waiting + begin :] + 1  # index 0 of `reads` is the patch before these
        ids_BN = ids_BN[:, begin:]
        chunk = self.decoder.chunk(rows, ids_BN == BOS, single)
        return self.model.decoder(states[-1][:, waiting + begin :], reads, read_BN, ids_BN, chunk)[0]

    def _complete(self, rows: Sequence[int], opens: Sequence[bool]) -> None:
        """Run the newest patch of each of these rows through the latent transformer, in one call."""
        if not rows:
            return
        selected, lengths = self._at(rows), [self.rows[row].length for row in rows]
        opens_n = torch.tensor(opens, device=self.device) if any(opens) else None
        latent_nD, read_n = self.steps.patch(self.encoder, self.latent, selected, lengths, opens_n)
        self.counts["latent_calls"] += 1
        if self.reserve:
            kept = torch.tensor([(self.latent.lengths[row] - 1) % (self.reserve + 1) for row in rows])
            self.latents_RKD[selected.index, kept.to(self.device)] = latent_nD
        selected.put(self.patch_R, read_n.view(-1, *self.patch_R.shape[1:]))
