"""Which rows of a cache take part in a call, where their next positions go, and tensors of saved caches."""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor


class Rows:
    """Rows of a cache in rising order: side by side they are taken as a view, otherwise as a copy."""

    def __init__(self, numbers: tuple[int, ...], device: torch.device) -> None:
        self.numbers = numbers
        self.first, self.count = numbers[0], len(numbers)
        self.adjacent = numbers[-1] - numbers[0] == len(numbers) - 1
        with torch.inference_mode(False):
            self.index = torch.tensor(numbers, device=device)

    def take(self, x: Tensor, axis: int = 0) -> Tensor:
        """These rows of a tensor."""
        if x.shape[axis] == self.count:
            return x
        return x.narrow(axis, self.first, self.count) if self.adjacent else x.index_select(axis, self.index)

    def put(self, x: Tensor, values: Tensor, axis: int = 0) -> None:
        """Replace these rows of a tensor."""
        if self.adjacent:
            self.take(x, axis).copy_(values)
        else:
            x.index_copy_(axis, self.index, values)


@lru_cache(maxsize=1024)
def rows_of(numbers: tuple[int, ...], device: torch.device) -> Rows:
    """`Rows` of these numbers, kept between calls: a decoder asks for them at every byte."""
    return Rows(numbers, device)


class Positions:
    """The next position of each of some rows: one number where the host knows that it is the same, or a tensor."""

    def __init__(self, rows: Rows, lengths: Sequence[int], counted_R: Tensor) -> None:
        """`lengths`: positions before it; `counted_R`: what the cache counts of all its rows, this one included."""
        self.rows, self._counted_R = rows, counted_R
        self.common = lengths[0] if rows.adjacent and min(lengths) == max(lengths) else None
        """The position of all these rows, which lie side by side; None where there is no such number."""

    @cached_property
    def tensor_R(self) -> Tensor:
        """Positions (R,), made only where they are asked for: before the next one begins."""
        return self.rows.take(self._counted_R) - 1


class Column:
    """Where rings (layers, rows, ..., columns, width) take in the next position of each of some rows."""

    def __init__(self, rings: Tensor, positions: Positions) -> None:
        columns = rings.shape[-2]
        if positions.common is not None:  # a slice costs a fraction of what indices cost
            own = positions.rows.take(rings, 1)
            self._slices = own.narrow(-2, positions.common % columns, 1).unbind(0)
        else:
            self._slices = None
            self._rings = rings.movedim(-2, 2).unbind(0)
            self._at = positions.rows.index, positions.tensor_R % columns

    def put(self, layer: int, x: Tensor) -> None:
        """Take in what a layer has to keep: (rows, ..., 1, width)."""
        if self._slices is not None:
            self._slices[layer].copy_(x)
        else:
            self._rings[layer].index_put_(self._at, x.squeeze(-2))


def restored(state: dict[str, Any], name: str, like: Tensor, axis: int | None = None) -> Tensor:
    """A tensor of a saved state. Raises ValueError where it is not shaped as `like`, but for the length of an axis."""
    saved = state[name]
    if not isinstance(saved, Tensor) or saved.dtype != like.dtype or saved.ndim != like.ndim:
        raise ValueError(f"{name} is not a tensor of {like.ndim} axes and type {like.dtype}")
    if any(a != b for at, (a, b) in enumerate(zip(saved.shape, like.shape, strict=True)) if at != axis):
        raise ValueError(f"{name} has shape {tuple(saved.shape)}, not {tuple(like.shape)}")
    return saved.to(like.device)
