"""Patch lengths, counted."""

from collections.abc import Mapping


def shares(counts: Mapping[int, int], most: int) -> list[float]:
    """Share of patches of 1, 2, ... bytes: at most `most` numbers, the last of which holds all longer patches too.

    Counts are patches by length in bytes. Raises ValueError where nothing was counted.
    """
    total = sum(counts.values())
    if total <= 0 or min(counts) < 1:
        raise ValueError("a histogram needs at least one patch, of at least one byte")
    out = [0.0] * min(most, max(counts))
    for length, count in counts.items():
        out[min(length, len(out)) - 1] += count / total
    return out


def mean(counts: Mapping[int, int]) -> float:
    """Bytes per patch."""
    return sum(length * count for length, count in counts.items()) / sum(counts.values())
