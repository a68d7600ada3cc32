"""Helpers of caches: a selection of rows, the position where each row continues, and checks of saved tensors."""

from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor


class Rows:
    """A selection of cache rows in rising order. Adjacent rows are taken as a view, other rows as a copy."""

    def __init__(self, numbers: tuple[int, ...], device: torch.device) -> None:
        self.numbers = numbers
        self.first, self.count = numbers[0], len(numbers)
        self.adjacent = numbers[-1] - numbers[0] == len(numbers) - 1
        with torch.inference_mode(False):
            self.index = torch.tensor(numbers, device=device)

    def take(self, x: Tensor, axis: int = 0) -> Tensor:
        """The selected rows of a tensor."""
        if x.shape[axis] == self.count:
            return x
        return x.narrow(axis, self.first, self.count) if self.adjacent else x.index_select(axis, self.index)

    def put(self, x: Tensor, values: Tensor) -> None:
        """Overwrite the selected rows of a tensor."""
        if self.adjacent:
            self.take(x).copy_(values)
        else:
            x.index_copy_(0, self.index, values)


class ActiveRows(Rows):
    """All rows of a cache; a tensor says which are active. All rows take part in every operation, but `put` changes
    only active rows."""

    def __init__(self, active_R: Tensor) -> None:
        """`active_R` (R,) bool; it may change between two uses."""
        super().__init__(tuple(range(len(active_R))), active_R.device)
        self.active_R = active_R

    def put(self, x: Tensor, values: Tensor) -> None:
        """Overwrite the active rows of a tensor."""
        x.copy_(torch.where(self.active_R.view(-1, *[1] * (x.ndim - 1)), values, x))


@lru_cache(maxsize=1024)
def rows_of(numbers: tuple[int, ...], device: torch.device) -> Rows:
    """The `Rows` object of these numbers. Results are cached, because decoding asks for them at every byte."""
    return Rows(numbers, device)


class Positions:
    """The position of the next id in each selected row: one Python number if all are known to be equal, otherwise a
    tensor."""

    def __init__(self, rows: Rows, counted_R: Tensor, common: int | None = None) -> None:
        """`counted_R`: numbers of positions of all rows of the cache, this one included."""
        self.rows, self._counted_R = rows, counted_R
        self.common = common
        """The common position of all selected rows; None if positions differ or the rows are not adjacent."""

    @cached_property
    def tensor_R(self) -> Tensor:
        """The positions (R,) as a tensor. Must be read before the cache starts the next position."""
        return self.rows.take(self._counted_R) - 1


class Column:
    """The column in which ring buffers (layers, rows, ..., columns, width) store the next position of each selected
    row."""

    def __init__(self, rings: Tensor, positions: Positions) -> None:
        columns = rings.shape[-2]
        if positions.common is not None:  # a slice costs much less than an index tensor
            own = positions.rows.take(rings, 1)
            self._slices = own.narrow(-2, positions.common % columns, 1).unbind(0)
        else:
            self._slices = None
            self._rings = rings.movedim(-2, 2).unbind(0)
            self._at = positions.rows.index, positions.tensor_R % columns

    def put(self, layer: int, x: Tensor) -> None:
        """Store the values (rows, ..., 1, width) of one layer."""
        if self._slices is not None:
            self._slices[layer].copy_(x)
        else:
            self._rings[layer].index_put_(self._at, x.squeeze(-2))


def restored(state: dict[str, Any], name: str, like: Tensor, axis: int | None = None) -> Tensor:
    """A copy of the tensor `name` of a saved state, on the device of `like`. Raises ValueError if its type or shape
    differs from `like`; the length of `axis` may differ."""
    saved = state[name]
    if not isinstance(saved, Tensor) or saved.dtype != like.dtype or saved.ndim != like.ndim:
        raise ValueError(f"{name} is not a tensor of {like.ndim} axes and type {like.dtype}")
    if any(a != b for at, (a, b) in enumerate(zip(saved.shape, like.shape, strict=True)) if at != axis):
        raise ValueError(f"{name} has shape {tuple(saved.shape)}, not {tuple(like.shape)}")
    return saved.to(like.device, copy=True)


def plain(values: Any, kind: type) -> list[Any]:
    """A copy of a saved list of plain values. Raises ValueError if it is no list, or a value is of another kind."""
    if not isinstance(values, list) or any(type(value) is not kind for value in values):
        raise ValueError(f"a list of {kind.__name__} of a cache holds something else")
    return list(values)


@lru_cache(maxsize=1024)
def numbers(count: int, device: torch.device) -> Tensor:
    """The numbers 0 to `count` - 1 (count,), which many steps need."""
    with torch.inference_mode(False):
        return torch.arange(count, device=device)
