"""The device of training, and the precision of its matrix products."""

import ctypes
import os
import sys
from functools import cache
from pathlib import Path

import torch
from torch import nn

from ..config import TrainConfig

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # constants of <malloc.h>
WIDE_ENOUGH = 64  # smallest width of a network for which bf16 on a CPU is not slower than fp32


def device_of(config: TrainConfig) -> torch.device:
    """The device of a configuration. `auto` is CUDA if available, otherwise the CPU; the local rank chooses the GPU."""
    if config.device == "auto":
        return torch.device("cuda", _local_rank()) if torch.cuda.is_available() else torch.device("cpu")
    device = torch.device(config.device)
    return torch.device("cuda", _local_rank()) if device.type == "cuda" and device.index is None else device


def fast_bf16(device: torch.device) -> bool:
    """True if the hardware multiplies bf16 faster than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and _cpu_has_bf16()


def uses_bf16(config: TrainConfig, network: nn.Module | None = None) -> bool:
    """True if training uses bf16. With precision `auto`, it does if bf16 is faster on this device for the network's
    widths."""
    if config.precision != "auto":
        return config.precision == "bf16"
    device = device_of(config)
    widths = [weight.shape[1] for weight in network.parameters() if weight.ndim == 2] if network is not None else []
    return fast_bf16(device) and (device.type != "cpu" or not widths or max(widths) >= WIDE_ENOUGH)


def keep_freed_memory() -> None:
    """Tell glibc (on Linux) to keep freed memory for reuse. By default glibc returns large blocks to the system, and
    each step has to map new pages, which costs a tenth to a half of its time (docs/results.md)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 64 << 20)):
            mallopt(option, value)


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))


@cache
def _cpu_has_bf16() -> bool:
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and any(f in flags.read_text() for f in ("avx512_bf16", "amx_bf16"))
