"""The steps of a session on a GPU, recorded as CUDA graphs.

A step in PyTorch starts hundreds of small operations, and to start one takes longer than to run it. So the operations
of each function of `TorchSteps` are recorded once, and a step replays them. Recorded operations work on all rows of a
session; a mask says which rows the step is for (`ActiveRows`).
"""

from collections.abc import Callable, Hashable, Iterable
from functools import cache, partial
from itertools import chain
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from ..codec import BOS
from ..model.blt import BLT
from ..model.cache import StackCache
from ..model.encoder_cache import EncoderCache
from ..model.entropy import EntropyModel
from ..model.ngram import NgramCache
from ..model.rope import TABLE
from ..model.rows import ActiveRows, Rows
from ..patching.patcher import Patcher
from .torch_steps import TorchSteps

COLUMNS = 512  # columns of a cache at first, or its limit if that is less: when it grows, steps are recorded again
STATES = 64  # the same for the byte states of the open patch
LONGEST = 1024  # patches of more bytes are not recorded
PLAIN = 8  # calls before a function is recorded, so that a short text does not wait for it
KEPT = 4  # recordings kept of each function: forks have caches of their own, but share these steps
ONE_AT_A_TIME = Lock()  # PyTorch can record only one graph at a time in a process

Body = Callable[[], Any]


class RecordedSteps(TorchSteps):
    """The steps of `TorchSteps`, recorded. A step that starts a document inside a row is rare, and not recorded."""

    all_rows = True

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
        self._recordings: dict[str, dict[Hashable, Recording]] = {}

    def nats(self, ids_n: Tensor, cache: StackCache | NgramCache | None, rows: Rows, text: bool) -> Tensor | None:
        if cache is None or self.patcher.model is None:
            return None
        scorer = self.patcher.model
        if isinstance(cache, StackCache):
            widen(cache)
        self._select(rows)
        rows.put(self.ids_R, ids_n)
        body = partial(self.patcher.nats_step, self.ids_R, cache, self.stepping, text)
        nats_R = self._run("nats", body, scorer, cache, text)
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
        body = partial(self.model.encoder.step, self.ids_R, cache, self.stepping, None)
        states = self._run("encode", body, self.model, cache)
        cache.stack.count(rows, 1, True)
        return rows.take(states[-1])

    def patch(
        self, bytes: EncoderCache, latents: StackCache, rows: Rows, lengths: list[int], opens_n: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        longest = max(STATES, 1 << (max(lengths) - 1).bit_length())
        if opens_n is not None or longest > LONGEST:
            return super().patch(bytes, latents, rows, lengths, opens_n)
        widen(latents)
        lengths_R = [0] * len(self.lengths_R)
        for row, length in zip(rows.numbers, lengths, strict=True):
            lengths_R[row] = length
        self.lengths_R.copy_(torch.tensor(lengths_R))
        count = min(longest, bytes.states.data_SRLd.shape[2])
        body = partial(self._patch, bytes, latents, count)
        latent_RD, read_R = self._run("patch", body, self.model, bytes, latents, count)
        latents.count(rows, 1, True)
        return rows.take(latent_RD), rows.take(read_R)

    def _patch(self, bytes: EncoderCache, latents: StackCache, count: int) -> tuple[Tensor, Tensor]:
        """The newest patch of each row, of at most `count` bytes."""
        torch.gt(self.lengths_R, 0, out=self.patching.active_R)
        states = bytes.states.newest(self.patching, bytes.stack.position_R, count)
        # a row without a patch takes one byte, so that its result is finite
        absent_RL = torch.arange(count, device=self.device) < count - self.lengths_R.clamp(min=1)[:, None]
        slots_RX = self.model.encoder.step_patch(states, absent_RL)
        latent_RD = self.model.latent.step(slots_RX, latents.step(self.patching, None))
        return latent_RD, self.model.decoder.patch_inputs(latent_RD[:, None])[:, 0]

    def decode(self, x_nd: Tensor, patch_R: Tensor, cache: StackCache, rows: Rows, opens_n: Tensor | None) -> Tensor:
        if opens_n is not None:
            return super().decode(x_nd, patch_R, cache, rows, opens_n)
        widen(cache)
        self._select(rows)
        rows.put(self.x_Rd, x_nd)
        logits_RV = self._run("decode", partial(self._decode, patch_R, cache), self.model, cache, patch_R)
        cache.count(rows, 1, True)
        return rows.take(logits_RV).clone()

    def _decode(self, patch_R: Tensor, cache: StackCache) -> Tensor:
        return self.model.decoder.step(self.x_Rd, patch_R, cache.step(self.stepping, None))

    def _select(self, rows: Rows) -> None:
        if rows is not self._selected:
            self.stepping.active_R.zero_().index_fill_(0, rows.index, True)
            self._selected = rows

    def _run(self, name: str, body: Body, network: nn.Module, *parts: Any) -> Any:
        """Run a body and return its result. On a GPU it is recorded when it has run PLAIN times with this network and
        these parts, and then replayed. The next replay overwrites the result."""
        kept, key = self._recordings.setdefault(name, {}), tuple(map(recording_key, (network, *parts)))
        if key not in kept and len(kept) == KEPT:
            del kept[next(iter(kept))]  # the one that was not used for the longest time
        kept[key] = kept.pop(key, None) or Recording(network)
        return kept[key].run(body, (self.stepping.active_R, self.lengths_R), self.device)


class Recording:
    """The recorded operations of one function, or the number of times that it has run without being recorded."""

    def __init__(self, network: nn.Module) -> None:
        self.runs, self.graph, self.result = 0, None, None
        self.weights = [weight.data for weight in chain(network.parameters(), network.buffers())]
        """The memory that recorded operations read; it must not be freed before them."""

    def run(self, body: Body, masks: Iterable[Tensor], device: torch.device) -> Any:
        if self.graph is None and (device.type != "cuda" or self.runs < PLAIN):
            self.runs += 1
            return body()
        if self.graph is None:
            self._record(body, list(masks), device)
        self.graph.replay()
        return self.result

    def _record(self, body: Body, masks: list[Tensor], device: torch.device) -> None:
        """Record a body. Before that it runs twice with empty masks, because tables and workspaces that are created at
        the first use must exist before recording starts."""
        before = [mask.clone() for mask in masks]
        graph, stream = torch.cuda.CUDAGraph(), side_stream(device)
        try:
            for mask in masks:
                mask.zero_()
            with ONE_AT_A_TIME, torch.cuda.device(device):
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    body(), body()
                torch.cuda.current_stream().wait_stream(stream)
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    self.result = body()
        finally:
            for mask, value in zip(masks, before, strict=True):
                mask.copy_(value)
        self.graph = graph


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream on which operations of a GPU are recorded."""
    return torch.cuda.Stream(device)


def widen(cache: StackCache) -> None:
    """Make room for the next position of every row. A new cache gets many columns at once, so that it rarely grows."""
    cache.make_room(max(COLUMNS, max(cache.lengths) + 1))


def recording_key(part: Any) -> Hashable:
    """What recorded operations on a part depend on: the addresses and shapes of its tensors, and the values on the host
    that decide which operations run. All weights of a network move together, so one of them is enough."""
    match part:
        case Tensor():
            return part.data_ptr(), part.dtype, *part.shape
        case nn.Module():
            return recording_key(next(chain(part.parameters(), part.buffers())))
        case StackCache():
            tensors = (part.kv, part.position_R, part.opened_RE)
            return *map(recording_key, tensors), all(part.single), max(part.lengths) < TABLE
        case EncoderCache():
            return recording_key(part.stack), recording_key(part.ids), recording_key(part.states.data_SRLd)
        case NgramCache():  # the recent ids of a text
            return recording_key(part.ids_RK)
    return part
