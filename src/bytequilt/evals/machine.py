"""Name, memory bandwidth and peak memory of this machine, to state beside measurements."""

import os
import platform
import time

import torch


def machine() -> str:
    """Processor, cores, system and version of torch in one line."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, torch {torch.__version__}"


def read_bandwidth(size: int = 2**26) -> float:
    """Bytes a second that a sum over so many fp32 numbers reads, on as many threads as torch has; best of a few."""
    numbers, best = torch.ones(size), float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        numbers.sum()
        best = min(best, time.perf_counter() - begun)
    return numbers.nbytes / best


def peak_mib() -> float:
    """Peak resident memory of this process."""
    import resource  # not there on Windows

    unit = 2**20 if platform.system() == "Darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
