"""Work that is measured in turns, so that what else the machine does falls on all sides alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """What one turn took."""

    bytes: float
    seconds: float
    processor: float
    """Seconds of all its threads."""


def timed(work: Callable[[], float]) -> Turn:
    """One turn of work that returns the bytes it was done for."""
    begun, processor = time.perf_counter(), time.process_time()
    size = work()
    return Turn(size, time.perf_counter() - begun, time.process_time() - processor)


def in_turns(
    sides: Mapping[str, Callable[[], Turn]], repeats: int, advance: Callable[[], None]
) -> dict[str, list[Turn]]:
    """So many turns of each side, one side after another; a first turn of each is not counted."""
    turns: dict[str, list[Turn]] = {name: [] for name in sides}
    for repeat in range(-1, repeats):
        for name, side in sides.items():
            turn = side()
            advance()
            if repeat >= 0:
                turns[name].append(turn)
    return turns


def speeds(turns: Sequence[Turn]) -> dict[str, float]:
    """Bytes per second by the clock, with the slowest and the fastest turn, and per second of the processor."""
    by_clock = [turn.bytes / turn.seconds for turn in turns]
    return {
        "bytes_per_s": statistics.median(by_clock),
        "min": min(by_clock),
        "max": max(by_clock),
        "bytes_per_cpu_s": statistics.median(turn.bytes / turn.processor for turn in turns),
    }


def ratios(ours: Sequence[Turn], theirs: Sequence[Turn]) -> dict[str, dict[str, float]]:
    """Our speed over theirs, turn by turn: in seconds of the processor, and by the clock."""
    by_clock: dict[str, list[float]] = {"processor": [], "seconds": []}
    for mine, other in zip(ours, theirs, strict=True):
        for clock, speed in by_clock.items():
            speed.append(mine.bytes / getattr(mine, clock) * getattr(other, clock) / other.bytes)
    return {clock: spread(speed) for clock, speed in by_clock.items()}


def spread(numbers: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(numbers), "min": min(numbers), "max": max(numbers)}
