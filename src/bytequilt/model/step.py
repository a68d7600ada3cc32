"""One new position of rows of a cache, while it passes through the layers of a stack."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from .rope import TABLE, rotation, turning, turns
from .rows import ActiveRows, Column, Positions, Rows, numbers

if TYPE_CHECKING:
    from .cache import StackCache


class StackStep:
    """One new position of each given row, while it passes through the layers of a stack."""

    def __init__(self, cache: "StackCache", rows: Rows, opens_R: Tensor | None) -> None:
        self.cache, self.selected = cache, rows
        config, lengths = cache.config, [cache.lengths[row] for row in rows.numbers]
        begin, end = min(lengths), max(lengths) + 1
        cache.make_room(end)
        self.seen = min(end, cache.columns)
        self.single = opens_R is None and all(cache.single[row] for row in rows.numbers)
        """True if every row is known to have one context, which started at position 0."""
        cache.advance(rows, 1, self.single)
        self.positions = Positions(rows, cache.position_R, begin if rows.adjacent and begin + 1 == end else None)
        self.opened_R = None if self.single else self._opened(opens_R)
        self.factors_R11C = self._factors(end)
        all_columns = begin + 1 == end or begin >= self.seen
        whole = config.window is None or end <= config.window or self.seen == config.window
        masked = not (self.single and all_columns and whole)
        self.bias = self._bias(numbers(self.seen, cache.device)) if masked else None
        self._open_columns()

    def _open_columns(self) -> None:
        """Select the column that the new position is stored in, and the columns that it may see."""
        rows, kv, groups = self.selected, self.cache.kv, self.cache.config.num_kv_heads
        self._column = Column(kv, self.positions)
        seen = rows.take(kv, 1) if rows.adjacent else kv
        seen = seen if self.seen == self.cache.columns else seen.narrow(3, 0, self.seen)
        self._keys, self._values = seen.narrow(2, 0, groups).unbind(0), seen.narrow(2, groups, groups).unbind(0)

    @property
    def since_R(self) -> Tensor:
        """Number of positions since the attention context of each row started: (R,)."""
        position_R = self.positions.tensor_R
        return position_R if self.opened_R is None else position_R - self.opened_R

    def attend(self, layer: int, q_RH1D: Tensor, kv_R2G1D: Tensor) -> Tensor:
        """Store keys and values of the new position, and attend to the visible positions: (R, H, 1, head_dim)."""
        self._column.put(layer, kv_R2G1D)
        k, v = self._keys[layer], self._values[layer]
        if not self.selected.adjacent:
            k, v = k.index_select(0, self.selected.index), v.index_select(0, self.selected.index)
        grouped = self.cache.config.num_kv_heads != self.cache.config.heads
        return F.scaled_dot_product_attention(q_RH1D, k, v, attn_mask=self.bias, enable_gqa=grouped)

    def _factors(self, end: int) -> Tensor:
        """Rotary factors of the new positions, in the form that `rotate_` takes."""
        config, common = self.cache.config, self.positions.common
        if common is not None and common < TABLE:
            return turns(config.head_dim, config.rope_theta, self.cache.device, self.cache.kv.dtype)[common]
        factors_RC2 = rotation(self.positions.tensor_R, end, config.head_dim, config.rope_theta)
        return turning(factors_RC2[:, None, None], self.cache.kv.dtype)

    def _opened(self, opens_R: Tensor | None) -> Tensor:
        """Position (R,) at which the context of each row started, the new position included; kept in the cache, too."""
        opened_RE, entries = self.selected.take(self.cache.opened_RE), self.cache.reserve + 1
        position_R = self.positions.tensor_R
        opened_R = opened_RE.gather(1, ((position_R - 1) % entries)[:, None])[:, 0]
        if opens_R is not None:
            opened_R = torch.where(opens_R, position_R, opened_R)
        noted_RE = opened_RE.scatter(1, (position_R % entries)[:, None], opened_R[:, None])
        self.selected.put(self.cache.opened_RE, noted_RE)
        return opened_R

    def _bias(self, column_C: Tensor) -> Tensor:
        """The additive mask over these columns: 0 where visible, minus infinity elsewhere: (R, 1, 1, columns)."""
        age_RC = (self.positions.tensor_R[:, None] - column_C) % self.cache.columns
        last_R = self.since_R
        if self.cache.config.window is not None:
            last_R = last_R.clamp(max=self.cache.config.window - 1)
        hidden_RC = age_RC > last_R[:, None]
        zeros = torch.zeros(hidden_RC.shape, dtype=self.cache.kv.dtype, device=self.cache.device)
        return zeros.masked_fill_(hidden_RC, -torch.inf)[:, None, None]


class FixedStep(StackStep):
    """A step whose operations do not depend on the host's counts, so that they can be recorded once and replayed.

    All rows take part and see all columns under a mask. Rows that are not active keep their length. Their next column
    is overwritten with numbers that mean nothing; their next step overwrites it again. The caller makes room for one
    more position in every row, and counts the positions on the host.
    """

    def __init__(self, cache: "StackCache", rows: ActiveRows, opens_R: Tensor | None) -> None:
        self.cache, self.selected, self.seen = cache, rows, cache.columns
        self.single = opens_R is None and all(cache.single)
        self.positions = Positions(rows, cache.position_R + 1)
        cache.position_R.add_(rows.active_R)
        self.opened_R = None if self.single else self._opened(opens_R)
        self.factors_R11C = self._factors(max(cache.lengths) + 1)
        # a tensor of its own: a recording must not read one that others may drop
        self.bias = self._bias(torch.arange(self.seen, device=cache.device))
        self._open_columns()
