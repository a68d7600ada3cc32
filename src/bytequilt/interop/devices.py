"""Devices and number types by name, checked before anything is loaded."""

from typing import Any

import torch

from ..config import UserError
from ..model.layers import lay_out

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


def choose_device(name: str | torch.device) -> torch.device:
    """The device with this name; `auto` is a CUDA GPU if there is one, otherwise an Apple GPU, otherwise the CPU.
    Raises UserError if this machine or its PyTorch does not have the device."""
    if str(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError, ValueError):
        raise UserError(f"cannot use device {str(name)[:40]!r}: it must be auto, cpu, cuda, cuda:N or mps") from None
    if reason := _missing(device):
        raise UserError(f"cannot use device '{name}': {reason}")
    return device


def _missing(device: torch.device) -> str | None:
    """The reason why a device cannot be used; None if it can be used."""
    if device.type == "cuda" and not torch.cuda.is_available():
        return "PyTorch finds no CUDA GPU on this machine"
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        return f"this machine has {torch.cuda.device_count()} CUDA GPU(s), counted from 0"
    if device.type == "mps" and not _has_mps():
        return "PyTorch finds no Apple GPU on this machine"
    if device.type not in ("cpu", "cuda", "mps"):
        return "it must be auto, cpu, cuda, cuda:N or mps"
    return None


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def choose_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The torch type with this name. Raises UserError for a type in which a BLT cannot run."""
    name = str(dtype).removeprefix("torch.")
    if name == "float16":
        raise UserError("float16 is too narrow for the residual stream of a BLT: use bfloat16 or float32")
    if name not in DTYPES:
        raise UserError(f"dtype must be one of {', '.join(DTYPES)}, not {name[:40]}")
    return DTYPES[name]


def choose_scoring(dtype: str | torch.dtype | None, has_model: bool) -> torch.dtype:
    """The type of an entropy model's weights: float32 by default, or int8. Raises UserError for any other."""
    if dtype is not None and not has_model:
        raise UserError("entropy_dtype is for an entropy model, and this model patches without one")
    kind = torch.float32 if dtype is None else choose_dtype(dtype)
    if kind is torch.bfloat16:
        raise UserError("entropy_dtype must be float32 or int8: bfloat16 is too coarse for boundaries")
    return kind


def put_on(network: Any, device: torch.device, native: bool = False) -> Any:
    """Move a network to a device. For plain steps, weights are also stored in the order that is fastest for one
    row."""
    network.to(device)
    if not native:
        lay_out(network)
    return network
