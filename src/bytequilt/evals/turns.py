"""Measurements in alternation, so that other load on the machine affects all sides equally."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """The time of one measured run."""

    bytes: float
    seconds: float
    processor: float
    """Processor seconds of all threads."""


def timed(work: Callable[[], float]) -> Turn:
    """Measure one run of `work`, which returns the number of bytes that it processed."""
    begun, processor = time.perf_counter(), time.process_time()
    size = work()
    return Turn(size, time.perf_counter() - begun, time.process_time() - processor)


def in_turns(
    sides: Mapping[str, Callable[[], Turn]], repeats: int, advance: Callable[[], None]
) -> dict[str, list[Turn]]:
    """Run all sides in alternation, `repeats` times; a first run of each side is not counted."""
    turns: dict[str, list[Turn]] = {name: [] for name in sides}
    for repeat in range(-1, repeats):
        for name, side in sides.items():
            turn = side()
            advance()
            if repeat >= 0:
                turns[name].append(turn)
    return turns


def speeds(turns: Sequence[Turn]) -> dict[str, float]:
    """Median speed in bytes per second, its minimum and maximum, and the median per processor second."""
    by_clock = [turn.bytes / turn.seconds for turn in turns]
    return {
        "bytes_per_s": statistics.median(by_clock),
        "min": min(by_clock),
        "max": max(by_clock),
        "bytes_per_cpu_s": statistics.median(turn.bytes / turn.processor for turn in turns),
    }


def ratios(ours: Sequence[Turn], theirs: Sequence[Turn]) -> dict[str, dict[str, float]]:
    """Ratio of our speed to theirs, pair by pair, with median and range: by processor seconds and by wall-clock
    seconds."""
    by_clock: dict[str, list[float]] = {"processor": [], "seconds": []}
    for mine, other in zip(ours, theirs, strict=True):
        for clock, speed in by_clock.items():
            speed.append(mine.bytes / getattr(mine, clock) * getattr(other, clock) / other.bytes)
    return {clock: spread(speed) for clock, speed in by_clock.items()}


def spread(numbers: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(numbers), "min": min(numbers), "max": max(numbers)}
