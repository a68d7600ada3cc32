"""Measurements of time, in alternation, so that other load on the machine affects all sides equally; and the machine:
its description, memory bandwidth and peak memory."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch


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
    for own, other in zip(ours, theirs, strict=True):
        for clock, speed in by_clock.items():
            speed.append(own.bytes / getattr(own, clock) * getattr(other, clock) / other.bytes)
    return {clock: spread(speed) for clock, speed in by_clock.items()}


def spread(numbers: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(numbers), "min": min(numbers), "max": max(numbers)}


def machine() -> str:
    """Processor, cores, operating system and torch version in one line."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, torch {torch.__version__}"


def read_bandwidth() -> float:
    """Memory read bandwidth in bytes per second: the fastest of five sums over 2^26 fp32 numbers, with all torch
    threads."""
    numbers, best = torch.ones(2**26), float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        numbers.sum()
        best = min(best, time.perf_counter() - begun)
    return numbers.nbytes / best


def peak_mib() -> float:
    """Peak resident memory of this process in MiB."""
    import resource  # not available on Windows

    unit = 2**20 if platform.system() == "Darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
