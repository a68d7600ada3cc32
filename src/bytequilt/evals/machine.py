"""Description, memory bandwidth and peak memory of this machine, for reports of measurements."""

import os
import platform
import time

import torch


def machine() -> str:
    """Processor, cores, operating system and torch version in one line."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, torch {torch.__version__}"


def read_bandwidth(size: int = 2**26) -> float:
    """Memory read bandwidth in bytes per second: the fastest of five sums over `size` fp32 numbers, with all torch
    threads."""
    numbers, best = torch.ones(size), float("inf")
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
