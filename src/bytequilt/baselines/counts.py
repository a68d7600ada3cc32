"""What models that only count need for a text: Kneser-Ney n-grams of bytes or tokens, and PPMd.

Both are scored as all models are: each document alone after the training text, its end included.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..codec import BOS
from ..config import UserError
from .vocabulary import Vocabulary

END = b"\xff"
"""Stands for the end of a document in PPMd, which knows bytes alone; no text in UTF-8 has it."""
MEMORY = 1 << 30  # bytes that PPMd may use, so that it forgets nothing


class KneserNey:
    """Interpolated modified Kneser-Ney (Chen and Goodman 1999): three discounts an order, the lowest order uniform.

    An n-gram of ids is one number, its oldest id the most significant digit; those of an order are sorted.
    """

    def __init__(self, documents: Iterable[bytes], vocabulary: Vocabulary, order: int) -> None:
        """Raises UserError where n-grams of that order do not fit 63 bits."""
        if vocabulary.size**order >= 2**63:
            raise UserError(f"{order}-grams over {vocabulary.size:,} ids do not fit 63 bits: ask for a lower order")
        self.vocabulary, self.order, self.size = vocabulary, order, vocabulary.size
        keys, counts = np.unique(np.concatenate([self._keys(text) for text in documents]), return_counts=True)
        self.levels: list[Level] = []
        for length in range(order, 0, -1):
            self.levels.insert(0, Level(keys, counts, self.size))
            shorter = keys % self.size ** (length - 1)  # without the oldest id: how many different ones it had
            keys, counts = np.unique(shorter, return_counts=True)

    @property
    def ngrams(self) -> int:
        """How many n-grams have a count, of all lengths."""
        return sum(len(level.keys) for level in self.levels)

    def bits(self, text: bytes) -> float:
        """What a document costs, its end included."""
        return float(-np.log2(self.probabilities(self._keys(text))).sum())

    def probabilities(self, keys_N: np.ndarray) -> np.ndarray:
        """Of the newest id of each n-gram after the others."""
        p_N = np.full(len(keys_N), 1 / (self.size - 3))  # BOE, BOS and the delimiter never follow
        for length, level in enumerate(self.levels, 1):
            p_N = level.refined(keys_N % self.size**length, p_N)
        return p_N

    def _keys(self, text: bytes) -> np.ndarray:
        """The n-gram that ends at each target of a document, which enough BOS open."""
        ids = np.concatenate([np.full(self.order - 2, BOS), self.vocabulary.encode(text, eos=True)])
        windows = np.lib.stride_tricks.sliding_window_view(ids, self.order)
        return windows @ self.size ** np.arange(self.order - 1, -1, -1)


class Level:
    """The n-grams of one length, their counts, and what their contexts leave to shorter ones."""

    def __init__(self, keys: np.ndarray, counts: np.ndarray, size: int) -> None:
        self.keys, self.size = keys, size
        discount = discounts(counts)[np.minimum(counts, 3)]
        self.contexts, first = np.unique(keys // size, return_index=True)
        total = np.add.reduceat(counts, first)
        self.left = np.add.reduceat(discount, first) / total
        self.share = (counts - discount) / np.repeat(total, np.diff([*first, len(keys)]))

    def refined(self, keys_N: np.ndarray, p_N: np.ndarray) -> np.ndarray:
        """Probabilities of the newest ids, given those after contexts one shorter."""
        own_N, known_N = place_in(self.keys, keys_N)
        context_N, seen_N = place_in(self.contexts, keys_N // self.size)
        return np.where(seen_N, np.where(known_N, self.share[own_N], 0.0) + self.left[context_N] * p_N, p_N)


def discounts(counts: np.ndarray) -> np.ndarray:
    """What is taken from n-grams of count 0, 1, 2, and 3 or more."""
    n = [float((counts == count).sum()) for count in range(1, 5)]
    if not all(n):  # too small or too even a text: no estimate
        return np.array([0.0, 0.5, 0.75, 0.75])
    y = n[0] / (n[0] + 2 * n[1])
    return np.array([0.0, *(np.clip(k - (k + 1) * y * n[k] / n[k - 1], 0.05, k - 0.05) for k in (1, 2, 3))])


def place_in(ordered: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where values are in a sorted array, and whether they are in it."""
    at = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return at, ordered[at] == values


def ppmd_bits(training: Sequence[bytes], documents: Iterable[bytes], order: int) -> Iterator[float]:
    """What each document adds to the training text in PPMd (variant H), in whole bytes.

    The library cannot copy what it has learnt, so a copy of the process reads each document; where a system copies no
    processes, the training text is read again every time. Raises UserError where the library is missing.
    """
    library = ppmd_library()
    prefix = b"".join(text + END for text in training)
    size = _copied_sizes(library, prefix, order) if hasattr(os, "fork") else _reread_sizes(library, prefix, order)
    before = size(b"")
    for document in documents:
        yield 8.0 * (size(document + END) - before)


Sizes = Callable[[bytes], int]
"""Bytes that PPMd needs for a text behind the training text; or both, where only differences matter."""


def _reread_sizes(library: Any, prefix: bytes, order: int) -> Sizes:
    def size(text: bytes) -> int:
        encoder = library.Ppmd7Encoder(order, MEMORY)
        return len(encoder.encode(prefix + text)) + len(encoder.flush())

    return size


def _copied_sizes(library: Any, prefix: bytes, order: int) -> Sizes:
    encoder = library.Ppmd7Encoder(order, MEMORY)
    encoder.encode(prefix)
    return lambda text: _in_a_copy(lambda: len(encoder.encode(text)) + len(encoder.flush()))


def _in_a_copy(count: Callable[[], int]) -> int:
    """What a function counts in a copy of this process: what it changes is lost. Raises UserError where it dies."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, count().to_bytes(8, "little"))
        finally:
            os._exit(0)
    os.close(writer)
    answer = os.read(reader, 8)
    os.close(reader)
    os.waitpid(child, 0)
    if len(answer) < 8:
        raise UserError("PPMd broke off: is there too little memory for it?")
    return int.from_bytes(answer, "little")


def ppmd_library():
    """The library pyppmd. Raises UserError where it is missing."""
    try:
        import pyppmd
    except ImportError:
        raise UserError("PPMd needs pyppmd: pip install 'bytequilt[study]'") from None
    return pyppmd
