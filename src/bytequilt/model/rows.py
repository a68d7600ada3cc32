"""Which rows of a cache take part in a call, and tensors of saved caches."""

from functools import lru_cache
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
        return x.narrow(axis, self.first, self.count) if self.adjacent else x.index_select(axis, self.index)

    def put(self, x: Tensor, values: Tensor, axis: int = 0) -> None:
        """Replace these rows of a tensor."""
        if self.adjacent:
            x.narrow(axis, self.first, self.count).copy_(values)
        else:
            x.index_copy_(axis, self.index, values)


@lru_cache(maxsize=1024)
def rows_of(numbers: tuple[int, ...], device: torch.device) -> Rows:
    """The same object for the same rows: a decoder asks for them at every byte."""
    return Rows(numbers, device)


def restored(state: dict[str, Any], name: str, like: Tensor, axis: int | None = None) -> Tensor:
    """A tensor of a saved state. Raises ValueError where it is not shaped as `like`, but for the length of an axis."""
    saved = state[name]
    if not isinstance(saved, Tensor) or saved.dtype != like.dtype or saved.ndim != like.ndim:
        raise ValueError(f"{name} is not a tensor of {like.ndim} axes and type {like.dtype}")
    if any(a != b for at, (a, b) in enumerate(zip(saved.shape, like.shape, strict=True)) if at != axis):
        raise ValueError(f"{name} has shape {tuple(saved.shape)}, not {tuple(like.shape)}")
    return saved.to(like.device)
