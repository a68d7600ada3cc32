"""The steps of a session on a GPU, recorded as CUDA graphs.

A step in PyTorch starts hundreds of small operations, and to start one takes longer than to run it. So the operations
of each function of `TorchSteps` are recorded once, and a step replays them. Recorded operations work on all rows of a
session; a mask says which rows the step is for (`ActiveRows`).
"""

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..codec import BOS
from ..model.blt import BLT
from ..model.cache import StackCache
from ..model.encoder_cache import EncoderCache
from ..model.entropy import EntropyModel
from ..model.ngram import NgramCache
from ..model.rope import TABLE
from ..model.rows import ActiveRows, Rows, numbers
from ..patching.patcher import Patcher
from .torch_steps import TorchSteps

COLUMNS = 512  # a cache starts with so many columns, or with its limit: when a cache grows, steps are recorded again
STATES = 64  # the same for the byte states of the open patch
KEPT = 4  # recordings kept of each function; forks of a session use the same steps in turn

Body = Callable[[], Any]


class RecordedSteps(TorchSteps):
    """The steps of `TorchSteps`, recorded. A step that starts a document inside a row is rare, and not recorded."""

    def __init__(self, model: BLT, patcher: Patcher, rows: int) -> None:
        super().__init__(model, patcher)
        weight = model.decoder.norm.weight
        self.device = weight.device
        self.ids_R = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self.lengths_R = torch.zeros_like(self.ids_R)
        """Length in bytes of the patch that each row has finished; 0 for none."""
        self.x_Rd = torch.zeros(rows, model.config.decoder.dim, device=self.device, dtype=weight.dtype)
        self.stepping = ActiveRows(torch.zeros(rows, dtype=torch.bool, device=self.device))
        """The rows of a step."""
        self.patching = ActiveRows(torch.zeros(rows, dtype=torch.bool, device=self.device))
        """The rows that have finished a patch."""
        self._selected: Rows | None = None
        self._recordings: dict[str, dict[Hashable, Body]] = {}

    def nats(self, ids_n: Tensor, cache: StackCache | NgramCache | None, rows: Rows, text: bool) -> Tensor | None:
        if cache is None:
            return None
        if isinstance(cache, StackCache):
            widen(cache)
        self._select(rows)
        rows.put(self.ids_R, ids_n)
        body = partial(self.patcher.nats_step, self.ids_R, cache, self.stepping, text)
        nats_R = self._replayed("nats", body, cache, text)
        scorer = self.patcher.model
        if isinstance(cache, StackCache) and isinstance(scorer, EntropyModel):
            cache.count(rows, 1, text and scorer.opening == (BOS,))
        return rows.take(nats_R).clone()

    def encode(self, ids_n: Tensor, cache: EncoderCache, rows: Rows, opens_n: Tensor | None) -> Tensor:
        if opens_n is not None:
            return super().encode(ids_n, cache, rows, opens_n)
        widen(cache.stack)
        cache.states.make_room(STATES, cache.stack.lengths)
        self._select(rows)
        rows.put(self.ids_R, ids_n)
        states = self._replayed(
            "encode", partial(self.model.encoder.step, self.ids_R, cache, self.stepping, None), cache
        )
        cache.stack.count(rows, 1, True)
        return rows.take(states[-1])

    def patch(
        self, bytes: EncoderCache, latents: StackCache, rows: Rows, lengths: list[int], opens_n: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if opens_n is not None:
            return super().patch(bytes, latents, rows, lengths, opens_n)
        widen(latents)
        lengths_R = [0] * len(self.lengths_R)
        for row, length in zip(rows.numbers, lengths, strict=True):
            lengths_R[row] = length
        self.lengths_R.copy_(torch.tensor(lengths_R))
        latent_RD, read_R = self._replayed("patch", partial(self._patch, bytes, latents), bytes, latents)
        latents.count(rows, 1, True)
        return rows.take(latent_RD), rows.take(read_R)

    def _patch(self, bytes: EncoderCache, latents: StackCache) -> tuple[Tensor, Tensor]:
        torch.gt(self.lengths_R, 0, out=self.patching.active_R)
        room = bytes.states.data_SRLd.shape[2]
        states = bytes.states.newest(self.patching, bytes.stack.position_R, room)
        # a row without a patch takes one byte, so that its result is finite
        absent_RL = numbers(room, self.device) < room - self.lengths_R.clamp(min=1)[:, None]
        slots_RX = self.model.encoder.step_patch(states, absent_RL)
        latent_RD = self.model.latent.step(slots_RX, latents.step(self.patching, None))
        return latent_RD, self.model.decoder.patch_inputs(latent_RD[:, None])[:, 0]

    def decode(self, x_nd: Tensor, patch_R: Tensor, cache: StackCache, rows: Rows, opens_n: Tensor | None) -> Tensor:
        if opens_n is not None:
            return super().decode(x_nd, patch_R, cache, rows, opens_n)
        widen(cache)
        self._select(rows)
        rows.put(self.x_Rd, x_nd)
        logits_RV = self._replayed("decode", partial(self._decode, patch_R, cache), cache, patch_R)
        cache.count(rows, 1, True)
        return rows.take(logits_RV).clone()

    def _decode(self, patch_R: Tensor, cache: StackCache) -> Tensor:
        return self.model.decoder.step(self.x_Rd, patch_R, cache.step(self.stepping, None))

    def _select(self, rows: Rows) -> None:
        if rows is not self._selected:
            self.stepping.active_R.zero_().index_fill_(0, rows.index, True)
            self._selected = rows

    def _replayed(self, name: str, body: Body, *parts: Any) -> Any:
        """The result of a body, which is recorded unless it is known with the tensors and facts of these parts. The
        next replay overwrites the result."""
        kept, key = self._recordings.setdefault(name, {}), tuple(map(identity, parts))
        if key not in kept:
            if len(kept) == KEPT:
                del kept[next(iter(kept))]
            kept[key] = self._record(body) if self.device.type == "cuda" else body
        return kept[key]()

    def _record(self, body: Body) -> Body:
        """Record a body. It first runs twice for no row, so that all that is made at the first use is made."""
        masks = [self.stepping.active_R, self.lengths_R]
        before = [mask.clone() for mask in masks]
        for mask in masks:
            mask.zero_()
        with torch.cuda.device(self.device):
            stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                body(), body()
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                result = body()
        for mask, value in zip(masks, before, strict=True):
            mask.copy_(value)

        def replay() -> Any:
            graph.replay()
            return result

        return replay


def widen(cache: StackCache) -> None:
    """Make room for the next position of every row, and from the start for so many that the cache rarely grows."""
    cache.make_room(max(COLUMNS, max(cache.lengths) + 1))


def identity(part: Any) -> Hashable:
    """What a recording of operations on this part depends on: the addresses and shapes of its tensors, and the host's
    facts that decide which operations there are."""
    match part:
        case Tensor():
            return part.data_ptr(), *part.shape
        case StackCache():
            tensors = (part.kv, part.position_R, part.opened_RE)
            return *map(identity, tensors), all(part.single), max(part.lengths) < TABLE
        case EncoderCache():
            return identity(part.stack), identity(part.ids), identity(part.states.data_SRLd)
        case NgramCache():  # the recent ids of a text
            return identity(part.ids_RK)
    return part
