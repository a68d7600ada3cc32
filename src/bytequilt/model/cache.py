"""What a stack of layers keeps of texts between calls: rings of keys and values, a row for each text.

The number of rows is fixed. A text is admitted to a row and released from it in place: no other row moves, and no key
is turned again, for each row counts its own positions. Everything is a tensor on the device; the host counts along
(`lengths`), so that it never has to ask.

Position p of a row lies in column p mod C. Where there is a window, C grows up to `window - 1 + max(reserve, 1)`:
enough for a step to write first and then read its window, and for `reserve` positions to be taken back. Where there is
none, C grows by doubling.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import StackConfig
from .attention import Spans
from .rope import TABLE, rotation, turning, turns
from .rows import Column, Positions, Rows, restored, rows_of

COLUMNS = 64  # of a new cache; it doubles when they are full


class StackCache:
    """Keys and values of every layer of a stack.

    A stack of L windowed layers sees L * (window - 1) positions back, so each layer carries its own.
    """

    def __init__(
        self,
        config: StackConfig,
        rows: int = 1,
        reserve: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Empty texts, of which up to `reserve` newest positions can be taken back at any time."""
        self.config, self.reserve, self.device = config, reserve, torch.device(device)
        self.limit = None if config.window is None else config.window - 1 + max(reserve, 1)
        """Columns at most."""
        columns = COLUMNS if self.limit is None else min(COLUMNS, self.limit)
        shape = (config.layers, rows, 2 * config.num_kv_heads, columns, config.head_dim)
        self.kv = torch.zeros(shape, device=device, dtype=dtype)
        """(layers, R, G + G, C, head_dim): the heads of the keys, then those of the values."""
        self.position_R = torch.zeros(rows, dtype=torch.int64, device=device)
        """Positions that each row has seen."""
        self.opened_RE = torch.zeros(rows, reserve + 1, dtype=torch.int64, device=device)
        """Where the context opened that position p lies in, in column p mod (reserve + 1)."""
        self.lengths = [0] * rows
        """`position_R` as the host knows it."""
        self.single = [True] * rows
        """Of each row, whether its context is known to have opened at position 0 and never since."""

    @property
    def columns(self) -> int:
        return self.kv.shape[3]

    @property
    def keys(self) -> Tensor:
        """A view (layers, R, G, C, head_dim)."""
        return self.kv[:, :, : self.config.num_kv_heads]

    @property
    def values(self) -> Tensor:
        """A view (layers, R, G, C, head_dim)."""
        return self.kv[:, :, self.config.num_kv_heads :]

    def rows(self, numbers: Sequence[int] | None = None) -> Rows:
        """These rows, or all."""
        return rows_of(tuple(range(len(self.lengths)) if numbers is None else numbers), self.device)

    def step(self, rows: Rows, opens_R: Tensor | None = None) -> "StackStep":
        """Begin the next position of some rows; `opens_R` says where a context opens, None that none does."""
        return StackStep(self, rows, opens_R)

    def chunk(self, rows: Rows, opens_BN: Tensor, single: bool = False) -> "StackChunk":
        """Begin the next N positions of some rows; `single`: the host knows that none opens but a row's first."""
        return StackChunk(self, rows, opens_BN, single)

    def advance(self, rows: Rows, count: int, single: bool) -> None:
        """Count positions that have begun."""
        for row in rows.numbers:
            self.lengths[row] += count
            self.single[row] = self.single[row] and single
        if rows.adjacent:
            rows.take(self.position_R).add_(count)
        else:
            self.position_R.index_add_(0, rows.index, torch.full_like(rows.index, count))

    def make_room(self, positions: int) -> None:
        """Have columns for texts of so many positions, or for the window; texts that fit have not wrapped around."""
        needed = positions if self.limit is None else min(positions, self.limit)
        if needed > self.columns:
            columns = max(needed, 2 * self.columns)
            columns = columns if self.limit is None else min(columns, self.limit)
            self.kv = F.pad(self.kv, (0, 0, 0, columns - self.columns))

    def crop(self, row: int, count: int) -> None:
        """Take back the newest positions of a row, at most `reserve` of them."""
        self.lengths[row] -= count
        self.position_R[row] -= count

    def clear(self, row: int) -> None:
        """Begin an empty text in a row. What was not finite must not stay: zero times infinity is no number."""
        self.kv[:, row].zero_()
        self.position_R[row] = 0
        self.opened_RE[row] = 0
        self.lengths[row], self.single[row] = 0, True

    def state(self) -> dict[str, Any]:
        """All of it, as tensors and plain values."""
        used = min(self.columns, max(self.lengths))
        return {
            "kv": self.kv[:, :, :, :used],
            "position": self.position_R,
            "opened": self.opened_RE,
            "lengths": list(self.lengths),
            "single": list(self.single),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over a state. Raises ValueError where it is of another shape, KeyError where something is missing."""
        kv = restored(state, "kv", self.kv, 3)
        self.lengths, self.single = [int(n) for n in state["lengths"]], [bool(s) for s in state["single"]]
        self.position_R = restored(state, "position", self.position_R)
        self.opened_RE = restored(state, "opened", self.opened_RE)
        if not len(self.lengths) == len(self.single) == len(self.position_R) or min(self.lengths) < 0:
            raise ValueError("lengths are not those of the rows")
        longest = max(self.lengths)
        if kv.shape[3] != (longest if self.limit is None else min(longest, kv.shape[3], self.limit)):
            raise ValueError("keys and values are not those of the positions")
        self.make_room(longest)
        self.kv[:, :, :, : kv.shape[3]] = kv


class StackStep:
    """One position of some rows, on its way through the layers of a stack."""

    def __init__(self, cache: StackCache, rows: Rows, opens_R: Tensor | None) -> None:
        self.cache, self.selected = cache, rows
        config, lengths = cache.config, [cache.lengths[row] for row in rows.numbers]
        begin, end = min(lengths), max(lengths) + 1
        cache.make_room(end)
        self.seen = min(end, cache.columns)
        self.single = opens_R is None and all(cache.single[row] for row in rows.numbers)
        """Whether the context of each row is known to have opened with its first position, and never since."""
        cache.advance(rows, 1, self.single)
        self.positions = Positions(rows, lengths, cache.position_R)
        self.opened_R = None if self.single else self._opened(opens_R)
        self.factors_R11C = self._factors(end)
        everything = begin + 1 == end or begin >= self.seen
        whole = config.window is None or end <= config.window or self.seen == config.window
        self.bias = None if self.single and everything and whole else self._bias(cache.kv.dtype)
        self._column = Column(cache.kv, self.positions)
        seen = rows.take(cache.kv, 1) if rows.adjacent else cache.kv
        seen = seen if self.seen == cache.columns else seen.narrow(3, 0, self.seen)
        groups = config.num_kv_heads
        self._keys, self._values = seen.narrow(2, 0, groups).unbind(0), seen.narrow(2, groups, groups).unbind(0)

    @property
    def since_R(self) -> Tensor:
        """How many positions ago the context of each row opened."""
        position_R = self.positions.tensor_R
        return position_R if self.opened_R is None else position_R - self.opened_R

    def attend(self, layer: int, q_RH1D: Tensor, kv_R2G1D: Tensor) -> Tensor:
        """Take in keys and values of the new position, and attend to what it sees: (R, H, 1, head_dim)."""
        self._column.put(layer, kv_R2G1D)
        k, v = self._keys[layer], self._values[layer]
        if not self.selected.adjacent:
            k, v = k.index_select(0, self.selected.index), v.index_select(0, self.selected.index)
        grouped = self.cache.config.num_kv_heads != self.cache.config.heads
        return F.scaled_dot_product_attention(q_RH1D, k, v, attn_mask=self.bias, enable_gqa=grouped)

    def _factors(self, end: int) -> Tensor:
        """Rotary factors of the position, as `rotate_` takes them."""
        config, common = self.cache.config, self.positions.common
        if common is not None and common < TABLE:
            return turns(config.head_dim, config.rope_theta, self.cache.device, self.cache.kv.dtype)[common]
        factors_RC2 = rotation(self.positions.tensor_R, end, config.head_dim, config.rope_theta)
        return turning(factors_RC2[:, None, None], self.cache.kv.dtype)

    def _opened(self, opens_R: Tensor | None) -> Tensor:
        """Where the context of each row opened, its new position counted; the cache takes note."""
        opened_RE, entries = self.selected.take(self.cache.opened_RE), self.cache.reserve + 1
        position_R = self.positions.tensor_R
        opened_R = opened_RE.gather(1, ((position_R - 1) % entries)[:, None])[:, 0]
        if opens_R is not None:
            opened_R = torch.where(opens_R, position_R, opened_R)
        noted_RE = opened_RE.scatter(1, (position_R % entries)[:, None], opened_R[:, None])
        self.selected.put(self.cache.opened_RE, noted_RE)
        return opened_R

    def _bias(self, dtype: torch.dtype) -> Tensor:
        """0 for columns that are seen and minus infinity for others: (R, 1, 1, columns)."""
        age_RC = (self.positions.tensor_R[:, None] - _numbers(self.seen, self.cache.device)) % self.cache.columns
        last_R = self.since_R
        if self.cache.config.window is not None:
            last_R = last_R.clamp(max=self.cache.config.window - 1)
        hidden_RC = age_RC > last_R[:, None]
        zeros = torch.zeros(hidden_RC.shape, dtype=dtype, device=self.cache.device)
        return zeros.masked_fill_(hidden_RC, -torch.inf)[:, None, None]


class StackChunk:
    """N positions of each of some rows, on their way through the layers of a stack."""

    def __init__(self, cache: StackCache, rows: Rows, opens_BN: Tensor, single: bool) -> None:
        self.cache, self.selected, self.count = cache, rows, opens_BN.shape[1]
        config, self.lengths = cache.config, [cache.lengths[row] for row in rows.numbers]
        end = max(self.lengths) + self.count
        cache.make_room(end)
        self.held = end - self.count if config.window is None else min(end - self.count, config.window - 1)
        """Keys from before the chunk; a row that has fewer sees none of the first."""
        position_R = rows.take(cache.position_R).clone()
        opened_R = rows.take(cache.opened_RE).gather(1, ((position_R - 1) % (cache.reserve + 1))[:, None])[:, 0]
        self.spans = Spans.after(opens_BN, opened_R - (position_R - self.held), self.held, config.window)
        position_BN = position_R[:, None] + _numbers(self.count, cache.device)
        self.factors_BN1C2 = rotation(position_BN, end, config.head_dim, config.rope_theta)[:, :, None]
        self._note(opens_BN, opened_R, position_BN)
        cache.advance(rows, self.count, single)

    def _note(self, opens_BN: Tensor, opened_R: Tensor, position_BN: Tensor) -> None:
        """Remember where the contexts of the newest positions opened."""
        opened_BN = torch.where(opens_BN, position_BN, opened_R[:, None]).cummax(1).values
        newest = slice(-(self.cache.reserve + 1), None)
        at_BE, opened_RE = position_BN[:, newest] % (self.cache.reserve + 1), self.selected.take(self.cache.opened_RE)
        self.selected.put(self.cache.opened_RE, opened_RE.scatter(1, at_BE, opened_BN[:, newest]))

    def extend(self, layer: int, k_BGND: Tensor, v_BGND: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values from before with the new ones behind them, which the cache takes in."""
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
        both = torch.cat([torch.stack(before), new], 2) if self.held else new
        k, v = both.chunk(2, 1)
        return k, v

    def _before(self, kv_2GCD: Tensor, length: int) -> Tensor:
        """The newest columns of a row, oldest first; zeros before a text that is shorter."""
        columns, count = kv_2GCD.shape[1], min(self.held, length)
        begin = (length - count) % columns
        first = min(count, columns - begin)
        parts = [kv_2GCD.narrow(1, begin, first), kv_2GCD.narrow(1, 0, count - first)]
        return F.pad(torch.cat(parts, 1), (0, 0, self.held - count, 0))


@lru_cache(maxsize=1024)
def _numbers(count: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.arange(count, device=device)
