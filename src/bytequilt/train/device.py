"""How a training runs on its device: precision, compilation, recomputation of activations, memory."""

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as recompute

from ..config import TrainConfig
from ..model.cross import CrossAttention
from ..model.layers import Block

Forward = Callable[..., Any]

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # constants of <malloc.h>
WIDE_ENOUGH = 64  # smallest width of a network for which bf16 on a CPU is not slower than fp32


def device_of(config: TrainConfig) -> torch.device:
    """The device of a configuration. `auto` is CUDA if available, otherwise the CPU; the local rank chooses the GPU."""
    name = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if name == "cuda" else torch.device(name)


def uses_bf16(config: TrainConfig, network: nn.Module) -> bool:
    """True if training uses bf16. With precision `auto`, it does if bf16 is faster on this device for the network's
    widths."""
    if config.precision != "auto":
        return config.precision == "bf16"
    kind = device_of(config).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    width = max(weight.shape[1] for weight in network.parameters() if weight.ndim == 2)
    return kind == "cpu" and _cpu_has_bf16() and width >= WIDE_ENOUGH


def arrange(network: nn.Module, config: TrainConfig, backend: str = "inductor") -> None:
    """Compile the transformer blocks of a network, and recompute blocks and cross-attention in the backward pass.

    The configuration decides which of the two is done. Both apply only while gradients are computed, because shapes
    vary elsewhere. A previous call on the same network is undone first.
    """
    for module in network.modules():
        if not isinstance(module, Block | CrossAttention):
            continue
        module.__dict__.pop("forward", None)
        plain = training = partial(type(module).forward, module)
        if config.compile and isinstance(module, Block):
            training = torch.compile(plain, dynamic=False, backend=backend)
        if config.checkpoint_activations:
            training = partial(recompute, training, use_reentrant=False)
        if training is not plain:
            module.forward = _either(training, plain)  # type: ignore[method-assign]


def _either(training: Forward, plain: Forward) -> Forward:
    return lambda *inputs, **options: (training if torch.is_grad_enabled() else plain)(*inputs, **options)


def keep_freed_memory() -> None:
    """Tell glibc (on Linux) to keep freed memory for reuse. By default glibc returns large blocks to the system, and
    each step has to map new pages, which costs a tenth to a half of its time (docs/results.md)."""
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


@cache
def _cpu_has_bf16() -> bool:
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and any(f in flags.read_text() for f in ("avx512_bf16", "amx_bf16"))
