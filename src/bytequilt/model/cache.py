"""What networks keep from one call to the next: the part of the past that new positions can still see."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import StackConfig
from .attention import Spans
from .rope import rotate, rotation, rotation_at

SPARE = 64  # columns that a tape has to spare at least, when it is made anew


class Tape:
    """Columns along one axis of a tensor: new ones go behind the last, old ones are left behind when it is full.

    A full tape moves what must be kept to a new tensor with room for as much again. So it takes at most twice the
    memory of what is kept, and an append costs the same in the mean however long the text.
    """

    def __init__(self, axis: int, keep: int | None = None) -> None:
        self.axis = axis
        self.keep = keep
        """Columns that an append leaves at hand besides its own; all where not given."""
        self.data: Tensor | None = None
        self.end = 0

    @property
    def held(self) -> int:
        """Columns that are there to stay."""
        return self.end if self.keep is None else min(self.end, self.keep)

    def append(self, new: Tensor) -> None:
        """Put columns behind the last one."""
        columns = new.shape[self.axis]
        if self.data is None or self.end + columns > self.data.shape[self.axis]:
            shape = list(new.shape)
            shape[self.axis] = self.held + columns + max(self.held, SPARE)
            kept = self.last(self.held) if self.held else None
            self.data, self.end = new.new_empty(shape), self.held
            if kept is not None:
                self.data.narrow(self.axis, 0, self.end).copy_(kept)
        self.data.narrow(self.axis, self.end, columns).copy_(new)
        self.end += columns

    def last(self, columns: int) -> Tensor:
        """The newest columns, oldest first: a view that holds until the next append."""
        assert self.data is not None
        return self.data.narrow(self.axis, self.end - columns, columns)

    def crop(self, columns: int) -> None:
        """Take back the newest columns."""
        self.end -= columns

    def trim(self) -> None:
        """Let go of what is not kept, and of the room to spare."""
        if self.data is not None:
            self.data, self.end = self.last(self.held).clone(), self.held

    def join(self, other: "Tape", axis: int) -> None:
        """Put the rows of another tape behind these, newest column beside newest; a shorter one begins with zeros."""
        columns = max(self.held, other.held)
        both = [tape._padded(columns) for tape in (self, other) if tape.data is not None]
        self.data, self.end = torch.cat(both, axis) if both else None, columns

    def _padded(self, columns: int) -> Tensor:
        assert self.data is not None
        held = self.last(self.held)
        shape = list(held.shape)
        shape[self.axis] = columns - self.held
        return torch.cat([held.new_zeros(shape), held], self.axis)

    def select(self, axis: int, rows: Tensor) -> None:
        """Keep these rows alone."""
        if self.data is not None:
            self.data = self.data.index_select(axis, rows)


class StackCache:
    """Keys and values of every layer of a stack: the last `window - 1` of them, or all where there is no window.

    A stack of L windowed layers sees L * (window - 1) positions back, so each layer carries its own. Rows stand side
    by side: the newest column of each is the newest of all, whatever its own length.
    """

    def __init__(self, config: StackConfig, reserve: int = 0) -> None:
        self.config, self.reserve = config, reserve
        keep = None if config.window is None else config.window - 1 + reserve
        self.tapes = [Tape(3, keep) for _ in range(config.layers)]  # (keys or values, rows, heads, columns, head_dim)
        self.position = 0
        self.openings = [[0]]
        """Of each row, the positions at which contexts opened: the newest one, and those that a crop may go back to."""

    @property
    def held(self) -> int:
        """Positions at hand that a new one can see."""
        return self.position if self.config.window is None else min(self.position, self.config.window - 1)

    # the parallel forward: any number of positions

    def spans(self, opens_BN: Tensor) -> Spans:
        """What the positions that come next see, and a note of the contexts that they open."""
        newest = torch.tensor([opened[-1] for opened in self.openings], device=opens_BN.device)
        spans = Spans.after(opens_BN, newest - (self.position - self.held), self.held, self.config.window)
        for row, column in opens_BN.nonzero().tolist():
            self.openings[row].append(self.position + column)
        return spans

    def extend(self, layer: int, k_BGND: Tensor, v_BGND: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values at hand with the new ones behind them."""
        self.tapes[layer].append(torch.stack([k_BGND, v_BGND]))
        k, v = self.tapes[layer].last(self.held + k_BGND.shape[2]).unbind(0)
        return k, v

    def advance(self, positions: int) -> None:
        """All layers have seen so many more positions."""
        self.position += positions
        for opened in self.openings:
            while len(opened) > 1 and opened[1] < self.position - self.reserve:
                del opened[0]

    # the step: one position of each row

    def begin(self, opens: Sequence[bool]) -> None:
        """Work out what the next position of each row sees; `opens` says where a context opens."""
        for opened, opening in zip(self.openings, opens, strict=True):
            if opening:
                opened.append(self.position)
        window = self.config.window or self.position + 1
        seen = [min(self.position + 1 - opened[-1], window) for opened in self.openings]
        self._seen, self._bias = max(seen), None
        if min(seen) < self._seen:
            place = torch.arange(self._seen, 0, -1)
            hidden = place > torch.tensor(seen)[:, None, None, None]
            self._bias = torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)

    def rotation(self, device: torch.device) -> Tensor:
        """Rotary factors of the next position."""
        return rotation_at(self.position, self.config.head_dim, self.config.rope_theta, device)

    def attend(self, layer: int, q_RH1D: Tensor, kv_2RG1D: Tensor) -> Tensor:
        """Take in keys and values of the new position, and attend to what it sees: (R, H, 1, head_dim)."""
        self.tapes[layer].append(kv_2RG1D)
        k, v = self.tapes[layer].last(self._seen).unbind(0)
        if self._bias is not None and (self._bias.dtype, self._bias.device) != (q_RH1D.dtype, q_RH1D.device):
            self._bias = self._bias.to(q_RH1D)
        grouped = self.config.num_kv_heads != self.config.heads
        return F.scaled_dot_product_attention(q_RH1D, k, v, attn_mask=self._bias, enable_gqa=grouped)

    # the past itself

    def trim(self) -> None:
        """Hold no more memory than what is kept."""
        for tape in self.tapes:
            tape.trim()

    def crop(self, positions: int) -> None:
        """Take back the newest positions, at most `reserve` of them."""
        for tape in self.tapes:
            tape.crop(positions)
        self.position -= positions
        for opened in self.openings:
            while len(opened) > 1 and opened[-1] >= self.position:
                opened.pop()

    def join(self, other: "StackCache") -> None:
        """Put the rows of another cache behind these."""
        self._shift(max(0, other.position - self.position))
        other._shift(self.position - other.position)
        for mine, theirs in zip(self.tapes, other.tapes, strict=True):
            mine.join(theirs, 1)
        self.openings += other.openings

    def _shift(self, positions: int) -> None:
        """Move everything to later positions; only differences of positions count, so nothing else changes."""
        if not positions:
            return
        turn = rotation(torch.tensor([positions]), self.config.head_dim, self.config.rope_theta)[0]
        for tape in self.tapes:
            if tape.data is not None:
                keys = tape.data[0].transpose(1, 2)
                keys.copy_(rotate(keys, turn.to(keys.device)))
        self.position += positions
        self.openings = [[at + positions for at in opened] for opened in self.openings]

    def select(self, rows: list[int]) -> None:
        """Keep these rows alone."""
        for tape in self.tapes:
            if tape.data is not None:
                tape.select(1, torch.tensor(rows, device=tape.data.device))
        self.openings = [self.openings[row] for row in rows]


class Gathered:
    """Caches of one row each, whose next positions are computed together; each keeps its own length."""

    def __init__(self, caches: Sequence[StackCache]) -> None:
        self.caches = caches

    def begin(self, opens: Sequence[bool]) -> None:
        for cache, opening in zip(self.caches, opens, strict=True):
            cache.begin([opening])

    def advance(self, positions: int) -> None:
        for cache in self.caches:
            cache.advance(positions)

    def rotation(self, device: torch.device) -> Tensor:
        """Rotary factors of the next position of each row: (R, 1, 1, head_dim / 2)."""
        return torch.stack([cache.rotation(device) for cache in self.caches])[:, None]

    def attend(self, layer: int, q_RH1D: Tensor, kv_2RG1D: Tensor) -> Tensor:
        rows = zip(self.caches, q_RH1D.split(1), kv_2RG1D.split(1, 1), strict=True)
        return torch.cat([cache.attend(layer, q, kv) for cache, q, kv in rows])


class EncoderCache(StackCache):
    """What the local encoder keeps: the cache of its stack, and the ids that the next n-grams reach back to."""

    def __init__(self, config: StackConfig, reach: int = 0, reserve: int = 0) -> None:
        super().__init__(config, reserve)
        self.reach = reach
        self.ids = Tape(1, reach + reserve)

    def recall(self, ids_RN: Tensor) -> Tensor:
        """The new ids behind the `reach` ids before them, zeros where a text began later: (R, reach + N)."""
        if self.ids.data is None:
            self.ids.append(ids_RN.new_zeros(len(ids_RN), self.reach))
        self.ids.append(ids_RN)
        return self.ids.last(self.reach + ids_RN.shape[1])

    def since(self) -> list[int]:
        """How many positions before the next one the document of each row opened."""
        return [self.position - opened[-1] for opened in self.openings]

    def crop(self, positions: int) -> None:
        super().crop(positions)
        self.ids.crop(positions)

    def trim(self) -> None:
        super().trim()
        self.ids.trim()

    def join(self, other: StackCache) -> None:
        super().join(other)
        assert isinstance(other, EncoderCache)
        self.ids.join(other.ids, 0)

    def select(self, rows: list[int]) -> None:
        super().select(rows)
        if self.ids.data is not None:
            self.ids.select(0, torch.tensor(rows, device=self.ids.data.device))
