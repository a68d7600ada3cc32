"""The single steps of decoding, compiled by numba (extra `fast`). numba is imported only if a session uses them."""

from importlib.util import find_spec

import torch

from ..config import UserError


def chosen(native: bool | None, device: torch.device, dtype: torch.dtype) -> bool:
    """True if a session is to use compiled steps (CPU) or recorded steps (GPU). None means yes where it is possible.

    Raises UserError if it is impossible and `native` is True, or `native` is None and `dtype` is int8: int8 in PyTorch
    is slow, so it must be requested by False.
    """
    if not (native is None or isinstance(native, bool)):
        raise UserError(f"native must be True, False or None, not {repr(native)[:60]}")
    if native is False:
        return False
    reason = missing(device, dtype)
    if reason and (native or dtype is torch.int8):
        raise UserError(reason)
    return reason is None


def missing(device: torch.device, dtype: torch.dtype) -> str | None:
    """The reason why steps can be neither compiled nor recorded; None if they can."""
    if device.type == "cuda" and dtype is not torch.int8:
        return None
    if device.type != "cpu" or dtype not in (torch.float32, torch.int8):
        name = str(dtype).removeprefix("torch.")
        return f"the compiled step runs on the CPU in float32 or int8, not on {device.type} in {name}"
    if find_spec("numba") is None:
        return "the compiled step needs numba; install it with: pip install 'bytequilt[fast]'"
    return None
