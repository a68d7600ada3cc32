"""Where training runs, and how numbers are multiplied there."""

import ctypes
import os
import sys
from functools import cache
from pathlib import Path

import torch
from torch import nn

from ..config import TrainConfig
from ..interop.devices import choose_device

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of <malloc.h>
WIDE_ENOUGH = 64  # width of a stack from which bf16 is not slower than fp32 on a CPU


def device_of(config: TrainConfig) -> torch.device:
    """The device that a configuration names; `auto` is CUDA where there is some, of the local rank's number."""
    if config.device == "auto":
        return torch.device("cuda", _local_rank()) if torch.cuda.is_available() else torch.device("cpu")
    device = torch.device(config.device)
    return torch.device("cuda", _local_rank()) if device.type == "cuda" and device.index is None else device


def check_device(name: str) -> None:
    """Raises UserError where there is no such device."""
    choose_device(name)


def fast_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bf16 faster than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and _cpu_has_bf16()


def uses_bf16(config: TrainConfig, network: nn.Module | None = None) -> bool:
    """Whether training multiplies in bf16; `auto` does where that is faster for the device and the network's widths."""
    if config.precision != "auto":
        return config.precision == "bf16"
    device = device_of(config)
    widths = [weight.shape[1] for weight in network.parameters() if weight.ndim == 2] if network is not None else []
    return fast_bf16(device) and (device.type != "cpu" or not widths or max(widths) >= WIDE_ENOUGH)


def keep_freed_memory() -> None:
    """Tell glibc, where that is the C library, to keep what is freed for later use.

    By default it gives large tensors back to the system, and each step pays for new pages: from a tenth to a half of
    its time (docs/results.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 64 << 20)):
            mallopt(option, value)


def memory_of_machine() -> int:
    """Bytes of memory that this machine has."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system tells
        return sys.maxsize


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))


@cache
def _cpu_has_bf16() -> bool:
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and any(f in flags.read_text() for f in ("avx512_bf16", "amx_bf16"))
