"""The byte step compiled by numba (extra `fast`). Nothing here is imported before a session takes its steps with it."""

from importlib.util import find_spec

import torch

from ..config import UserError


def chosen(native: bool | None, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether steps are compiled: as told, and where nothing is told (None), wherever they can be.

    Raises UserError where they shall be and cannot.
    """
    if native is False:
        return False
    reason = _missing(device, dtype)
    if native and reason:
        raise UserError(reason)
    return reason is None


def _missing(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cpu" or dtype is not torch.float32:
        name = str(dtype).removeprefix("torch.")
        return f"the compiled step runs on the CPU in float32, not on {device.type} in {name}"
    if find_spec("numba") is None:
        return "the compiled step needs numba; install it with: pip install 'bytequilt[fast]'"
    return None
