"""Histograms of patch lengths."""

from collections.abc import Mapping


def shares(counts: Mapping[int, int], most: int) -> list[float]:
    """The shares of patches with 1, 2, ... bytes: at most `most` numbers. The last one includes all longer patches.

    `counts` maps a length in bytes to a number of patches. Raises ValueError if there are no patches.
    """
    total = sum(counts.values())
    if total <= 0 or min(counts) < 1:
        raise ValueError("a histogram needs at least one patch, of at least one byte")
    out = [0.0] * min(most, max(counts))
    for length, count in counts.items():
        out[min(length, len(out)) - 1] += count / total
    return out


def mean(counts: Mapping[int, int]) -> float:
    """Mean bytes per patch."""
    return sum(length * count for length, count in counts.items()) / sum(counts.values())
