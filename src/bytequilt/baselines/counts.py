"""Compression models that only count: interpolated Kneser-Ney n-grams of bytes or tokens, and PPMd.

Like other models, they score each document separately after the training text, end of document included.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..codec import BOS
from ..config import UserError, library
from .vocabulary import Vocabulary

END = b"\xff"
"""Byte that marks the end of a document for PPMd, which has no EOS. It never occurs in UTF-8."""
MEMORY = 1 << 30  # memory limit of PPMd in bytes, large enough that it never discards statistics


class KneserNey:
    """Interpolated modified Kneser-Ney smoothing (Chen and Goodman 1999), with three discounts per order.

    Below order 1 stands the uniform distribution. An n-gram is stored as one integer in base `vocabulary.size`, its
    oldest id as the most significant digit. The n-grams of an order are sorted.
    """

    def __init__(self, documents: Iterable[bytes], vocabulary: Vocabulary, order: int) -> None:
        """Raises UserError if an n-gram of this order does not fit into 63 bits."""
        if vocabulary.size**order >= 2**63:
            raise UserError(f"{order}-grams over {vocabulary.size:,} ids do not fit into 63 bits: give a lower order")
        self.vocabulary, self.order, self.size = vocabulary, order, vocabulary.size
        keys, counts = np.unique(np.concatenate([self._keys(text) for text in documents]), return_counts=True)
        self.levels: list[Level] = []
        for length in range(order, 0, -1):
            self.levels.insert(0, Level(keys, counts, self.size))
            # the oldest id is removed; the new counts are numbers of different oldest ids
            shorter = keys % self.size ** (length - 1)
            keys, counts = np.unique(shorter, return_counts=True)

    @property
    def ngrams(self) -> int:
        """Number of distinct n-grams of all lengths."""
        return sum(len(level.keys) for level in self.levels)

    def bits(self, text: bytes) -> float:
        """Bits of a document, its end included."""
        return float(-np.log2(self.probabilities(self._keys(text))).sum())

    def probabilities(self, keys_N: np.ndarray) -> np.ndarray:
        """Probability of the newest id of each n-gram, given its other ids."""
        p_N = np.full(len(keys_N), 1 / (self.size - 3))  # BOE, BOS and the delimiter are never predicted
        for length, level in enumerate(self.levels, 1):
            p_N = level.refined(keys_N % self.size**length, p_N)
        return p_N

    def _keys(self, text: bytes) -> np.ndarray:
        """The n-grams of a document, one for each predicted id; BOS ids stand before its start."""
        ids = np.concatenate([np.full(self.order - 2, BOS), self.vocabulary.encode(text, eos=True)])
        windows = np.lib.stride_tricks.sliding_window_view(ids, self.order)
        return windows @ self.size ** np.arange(self.order - 1, -1, -1)


class Level:
    """The n-grams of one length with their discounted probabilities, and the weight of the shorter context."""

    def __init__(self, keys: np.ndarray, counts: np.ndarray, size: int) -> None:
        self.keys, self.size = keys, size
        discount = discounts(counts)[np.minimum(counts, 3)]
        self.contexts, first = np.unique(keys // size, return_index=True)
        total = np.add.reduceat(counts, first)
        self.left = np.add.reduceat(discount, first) / total
        self.share = (counts - discount) / np.repeat(total, np.diff([*first, len(keys)]))

    def refined(self, keys_N: np.ndarray, p_N: np.ndarray) -> np.ndarray:
        """Interpolate: probabilities of the newest ids, given `p_N`, their probabilities in a context shorter by one
        id."""
        own_N, known_N = place_in(self.keys, keys_N)
        context_N, seen_N = place_in(self.contexts, keys_N // self.size)
        return np.where(seen_N, np.where(known_N, self.share[own_N], 0.0) + self.left[context_N] * p_N, p_N)


def discounts(counts: np.ndarray) -> np.ndarray:
    """The discounts of modified Kneser-Ney for n-grams that occur 0, 1, 2, and 3 or more times: (4,). `counts` holds
    how often each n-gram occurs. The first discount is always 0. Fixed values are used where the text is too short to
    estimate them."""
    n = [float((counts == count).sum()) for count in range(1, 5)]
    if not all(n):  # too few n-grams for an estimate
        return np.array([0.0, 0.5, 0.75, 0.75])
    y = n[0] / (n[0] + 2 * n[1])
    return np.array([0.0, *(np.clip(k - (k + 1) * y * n[k] / n[k - 1], 0.05, k - 0.05) for k in (1, 2, 3))])


def place_in(ordered: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of each value in a sorted array, and whether the array contains the value."""
    at = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return at, ordered[at] == values


def ppmd_bits(training: Sequence[bytes], documents: Iterable[bytes], order: int) -> Iterator[float]:
    """Bits that each document adds to the compressed training text, with PPMd variant H; multiples of 8.

    The library cannot copy its state. So a forked process compresses each document. Without fork, the training text is
    compressed again for every document. Raises UserError if the library is missing.
    """
    library = ppmd_library()
    prefix = b"".join(text + END for text in training)
    size = _copied_sizes(library, prefix, order) if hasattr(os, "fork") else _reread_sizes(library, prefix, order)
    before = size(b"")
    for document in documents:
        yield 8.0 * (size(document + END) - before)


Sizes = Callable[[bytes], int]
"""Compressed bytes of a text after the training text. The size of the training text may be included; only differences
are used."""


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
    """The result of `count` in a forked process, whose changes are lost. Raises UserError if that process dies."""
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
        raise UserError("PPMd broke off; it may have too little memory")
    return int.from_bytes(answer, "little")


def ppmd_library() -> Any:
    """The module pyppmd. Raises UserError if it is not installed."""
    return library("pyppmd", "PPMd needs pyppmd: pip install 'bytequilt[study]'")
