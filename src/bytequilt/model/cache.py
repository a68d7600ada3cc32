"""The KV cache of a stack of layers: a ring buffer of keys and values for each layer and each row (text).

The number of rows is fixed. A text is put into a row and removed from it in place: other rows do not move, and cached
keys are never rotated again, because each row counts its own positions. All state lives in tensors on the device. The
host keeps its own copy of the lengths (`lengths`), so that it never has to read them from the device.

Position p of a row is stored in column p mod C. With a window, C grows to at most `window + reserve` columns. That is
enough to write the next position, to remove the `reserve` newest positions before it, and to read the window of the one
that follows. Without a window, C doubles whenever the columns are full.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import StackConfig
from .attention import Spans
from .rope import rotation
from .rows import ActiveRows, Rows, numbers, plain, restored, rows_of
from .step import FixedStep, StackStep

COLUMNS = 64  # columns of a new cache; the number doubles when they are full


class StackCache:
    """Keys and values of every layer of a stack. Every layer has its own keys, because L windowed layers together see L
    * (window - 1) positions back."""

    def __init__(self, config: StackConfig, rows: int, reserve: int, device: torch.device, dtype: torch.dtype) -> None:
        """Create empty rows. The newest `reserve` positions of a row can be removed at any time (`crop`)."""
        self.config, self.reserve, self.device = config, reserve, device
        self.limit = None if config.window is None else config.window + reserve
        """Largest number of columns; None without a window."""
        columns = COLUMNS if self.limit is None else min(COLUMNS, self.limit)
        shape = (config.layers, rows, 2 * config.num_kv_heads, columns, config.head_dim)
        self.kv = torch.zeros(shape, device=device, dtype=dtype)
        """(layers, R, 2G, C, head_dim): the G key heads, then the G value heads."""
        self.position_R = torch.zeros(rows, dtype=torch.int64, device=device)
        """Number of positions that each row has processed."""
        self.opened_RE = torch.zeros(rows, reserve + 1, dtype=torch.int64, device=device)
        """Ring of the newest positions: where the attention context of position p started, stored in column p mod
        (reserve + 1)."""
        self.lengths = [0] * rows
        """The host's copy of `position_R`."""
        self.single = [True] * rows
        """For each row, True if the host knows that its context started at position 0 and was never restarted."""

    @property
    def columns(self) -> int:
        return self.kv.shape[3]

    @property
    def keys(self) -> Tensor:
        """The keys as a view (layers, R, G, C, head_dim)."""
        return self.kv[:, :, : self.config.num_kv_heads]

    @property
    def values(self) -> Tensor:
        """The values as a view (layers, R, G, C, head_dim)."""
        return self.kv[:, :, self.config.num_kv_heads :]

    def rows(self, numbers: Sequence[int] | None = None) -> Rows:
        """The `Rows` object of the given row numbers, or of all rows."""
        return rows_of(tuple(range(len(self.lengths)) if numbers is None else numbers), self.device)

    def step(self, rows: Rows, opens_R: Tensor | None = None) -> StackStep:
        """Start the next position of the given rows. `opens_R` is True where a new context starts; None means that none
        does."""
        return FixedStep(self, rows, opens_R) if isinstance(rows, ActiveRows) else StackStep(self, rows, opens_R)

    def chunk(self, rows: Rows, opens_BN: Tensor, single: bool = False) -> "StackChunk":
        """Start the next N positions of the given rows. `single` promises that no context starts except at position 0
        of a row."""
        return StackChunk(self, rows, opens_BN, single)

    def count(self, rows: Rows, count: int, single: bool) -> None:
        """Add `count` positions to the host's lengths of these rows."""
        for row in rows.numbers:
            self.lengths[row] += count
            self.single[row] = self.single[row] and single

    def advance(self, rows: Rows, count: int, single: bool) -> None:
        """Add `count` positions to these rows, on the host and on the device."""
        self.count(rows, count, single)
        if rows.adjacent:
            rows.take(self.position_R).add_(count)
        else:
            self.position_R.index_add_(0, rows.index, torch.full_like(rows.index, count))

    def make_room(self, positions: int) -> None:
        """Add columns so that texts of `positions` positions fit, up to `limit`. Growing is safe: a ring that is
        shorter than `limit` has never wrapped around."""
        needed = positions if self.limit is None else min(positions, self.limit)
        if needed > self.columns:
            columns = max(needed, 2 * self.columns)
            columns = columns if self.limit is None else min(columns, self.limit)
            self.kv = F.pad(self.kv, (0, 0, 0, columns - self.columns))

    def crop(self, row: int, count: int) -> None:
        """Remove the newest `count` positions of a row; `count` is at most `reserve`."""
        self.lengths[row] -= count
        self.position_R[row] -= count

    def clear(self, row: int) -> None:
        """Empty a row. Its memory is set to zero, since an old infinity times a weight of zero would give NaN."""
        self.kv[:, row].zero_()
        self.position_R[row] = 0
        self.opened_RE[row] = 0
        self.lengths[row], self.single[row] = 0, True

    def state(self) -> dict[str, Any]:
        """A copy of the content of the cache as a dictionary of tensors and plain values, for saving."""
        used = min(self.columns, max(self.lengths))
        return {
            "kv": self.kv[:, :, :, :used].clone(),
            "position": self.position_R.clone(),
            "opened": self.opened_RE.clone(),
            "lengths": list(self.lengths),
            "single": list(self.single),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore a saved state. Raises ValueError for a wrong shape or type, KeyError for a missing entry."""
        kv = restored(state, "kv", self.kv, 3)
        self.lengths, self.single = plain(state["lengths"], int), plain(state["single"], bool)
        self.position_R = restored(state, "position", self.position_R)
        self.opened_RE = restored(state, "opened", self.opened_RE)
        if not len(self.lengths) == len(self.single) == len(self.position_R) or min(self.lengths) < 0:
            raise ValueError("the number of lengths differs from the number of rows")
        longest = max(self.lengths)
        if self.position_R.tolist() != self.lengths:
            raise ValueError("the positions of the rows are not as many as their lengths")
        if kv.shape[3] != (longest if self.limit is None else min(longest, self.limit)):
            raise ValueError("keys and values do not match the positions")
        self.make_room(longest)
        self.kv[:, :, :, : kv.shape[3]] = kv


class StackChunk:
    """N new positions of each given row, while they pass through the layers of a stack."""

    def __init__(self, cache: StackCache, rows: Rows, opens_BN: Tensor, single: bool) -> None:
        self.cache, self.selected, self.count = cache, rows, opens_BN.shape[1]
        config, self.lengths = cache.config, [cache.lengths[row] for row in rows.numbers]
        end = max(self.lengths) + self.count
        cache.make_room(end)
        self.previous = end - self.count if config.window is None else min(end - self.count, config.window - 1)
        """Number of cached keys placed before the new keys; a shorter row is padded with masked zeros on the left."""
        position_R = rows.take(cache.position_R).clone()
        opened_R = rows.take(cache.opened_RE).gather(1, ((position_R - 1) % (cache.reserve + 1))[:, None])[:, 0]
        self.spans = Spans.after(opens_BN, opened_R - (position_R - self.previous), self.previous, config.window)
        position_BN = position_R[:, None] + numbers(self.count, cache.device)
        self.factors_BN1C2 = rotation(position_BN, end, config.head_dim, config.rope_theta)[:, :, None]
        self._store_opened(opens_BN, opened_R, position_BN)
        cache.advance(rows, self.count, single)

    def _store_opened(self, opens_BN: Tensor, opened_R: Tensor, position_BN: Tensor) -> None:
        """Store in the cache where the contexts of the newest positions started."""
        opened_BN = torch.where(opens_BN, position_BN, opened_R[:, None]).cummax(1).values
        newest = slice(-(self.cache.reserve + 1), None)
        at_BE, opened_RE = position_BN[:, newest] % (self.cache.reserve + 1), self.selected.take(self.cache.opened_RE)
        self.selected.put(self.cache.opened_RE, opened_RE.scatter(1, at_BE, opened_BN[:, newest]))

    def extend(self, layer: int, k_BGND: Tensor, v_BGND: Tensor) -> tuple[Tensor, Tensor]:
        """Store the N new keys and values of a layer. Returns keys and values (B, G, previous + N, head_dim),
        oldest first: the newest `self.previous` of those cached before, then the new ones."""
        new = torch.cat([k_BGND, v_BGND], 1)
        kv, columns = self.cache.kv[layer], self.cache.columns
        before = [
            self._before(kv[row], length) for row, length in zip(self.selected.numbers, self.lengths, strict=True)
        ]
        kept = min(self.count, columns)
        for row, length, own in zip(self.selected.numbers, self.lengths, new[:, :, -kept:], strict=True):
            begin = (length + self.count - kept) % columns
            first = min(kept, columns - begin)
            kv[row].narrow(1, begin, first).copy_(own[:, :first])
            kv[row].narrow(1, 0, kept - first).copy_(own[:, first:])
        both = torch.cat([torch.stack(before), new], 2) if self.previous else new
        k, v = both.chunk(2, 1)
        return k, v

    def _before(self, kv_2GCD: Tensor, length: int) -> Tensor:
        """The newest `self.previous` cached columns of a row, oldest first. `length` is the length of the row's text
        so far; if it is less than `previous`, zeros are added on the left."""
        columns, count = kv_2GCD.shape[1], min(self.previous, length)
        begin = (length - count) % columns
        first = min(count, columns - begin)
        parts = [kv_2GCD.narrow(1, begin, first), kv_2GCD.narrow(1, 0, count - first)]
        return F.pad(torch.cat(parts, 1), (0, 0, self.previous - count, 0))
