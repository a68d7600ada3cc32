"""Keys and values that a stack keeps from one call to the next."""

import torch
from torch import Tensor

from ..config import StackConfig
from .attention import Spans


class StackCache:
    """Keys and values of every layer of a stack: the last `window - 1` of them, or all where there is no window.

    A stack of L windowed layers sees L * (window - 1) positions back, so each layer carries its own.
    """

    def __init__(self, config: StackConfig, rows: int = 1, device: torch.device | str = "cpu") -> None:
        self.window = config.window
        self.keys: list[Tensor | None] = [None] * config.layers
        self.values: list[Tensor | None] = [None] * config.layers
        self.position = 0
        self.context_B = torch.zeros(rows, dtype=torch.long, device=device)
        """Position at which the context of the newest id opened."""

    @property
    def held(self) -> int:
        """Positions whose keys are at hand."""
        return self.position if self.window is None else min(self.position, self.window - 1)

    def spans(self, opens_BN: Tensor) -> Spans:
        """Spans of the ids that come next, and a note of where the context of the last of them opened."""
        dropped = self.position - self.held
        spans = Spans.after(opens_BN, self.context_B - dropped, self.held, self.window)
        position = torch.arange(self.position, self.position + opens_BN.shape[1], device=opens_BN.device)
        newest = torch.where(opens_BN, position, self.context_B[:, None]).max(1).values
        self.context_B = newest
        return spans

    def extend(self, layer: int, k_BGND: Tensor, v_BGND: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values at hand with the new ones behind them; what the next call may see is kept."""
        keys, values = self.keys[layer], self.values[layer]
        if keys is not None and values is not None:
            k_BGND, v_BGND = torch.cat([keys, k_BGND], 2), torch.cat([values, v_BGND], 2)
        keep = k_BGND.shape[2] if self.window is None else min(k_BGND.shape[2], self.window - 1)
        tail = slice(k_BGND.shape[2] - keep, None)
        # clones, so that a view does not keep the whole chunk alive
        self.keys[layer], self.values[layer] = k_BGND[:, :, tail].clone(), v_BGND[:, :, tail].clone()
        return k_BGND, v_BGND

    def advance(self, queries: int) -> None:
        """All layers have seen `queries` more positions."""
        self.position += queries


class EncoderCache(StackCache):
    """What the local encoder keeps: the cache of its stack, and the ids that the next n-grams reach back to."""

    def __init__(self, config: StackConfig, rows: int = 1, device: torch.device | str = "cpu") -> None:
        super().__init__(config, rows, device)
        self.ids_BN = torch.zeros(rows, 0, dtype=torch.long, device=device)

    def recall(self, ids_BN: Tensor, reach: int) -> Tensor:
        """The new ids behind the `reach` ids that came before them."""
        seen_BN = torch.cat([self.ids_BN, ids_BN], 1)
        self.ids_BN = seen_BN[:, max(0, seen_BN.shape[1] - reach) :]
        return seen_BN
