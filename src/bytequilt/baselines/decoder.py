"""The interface between a `Batcher` and a network over ids."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .vocabulary import Vocabulary


class TokenDecoder:
    """A network over ids with a cache of `rows` rows. The host needs no state of a text apart from its ids."""

    def __init__(self, network: Any, vocabulary: Vocabulary, rows: int) -> None:
        self.network, self.words, self.size, self.vocabulary = network, vocabulary, rows, vocabulary.size
        self.device = next(network.parameters()).device
        self.cache = network.cache(rows)
        self.clear = self.cache.clear
        self._drawn = [0] * rows

    def encode(self, prompt: bytes) -> np.ndarray:
        return self.words.encode(prompt)

    def data(self, id: int) -> bytes:
        return self.words.text(id)

    def prefill(self, ids_n: Tensor, row: int) -> Tensor:
        self._drawn[row] = 0
        return self.network(ids_n[None], self.cache, self.cache.rows([row]))[0, -1]

    def lookahead(self, ids_n: Tensor, rows: Sequence[int]) -> Tensor:
        return torch.zeros_like(ids_n)

    def advance(self, ids_n: Tensor, ids: Sequence[int], known: Sequence[int], rows: Sequence[int]) -> Tensor:
        for row in rows:
            self._drawn[row] += 1
        return self.network.step(ids_n, self.cache, self.cache.rows(rows), text=True)

    def counts(self, row: int) -> tuple[Counter[str], bool]:
        """Every id counts as one patch and one decoder call."""
        return Counter(patches=self._drawn[row], decoder_calls=self._drawn[row]), True
