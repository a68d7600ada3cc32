"""Language models on raw bytes, in patches: train, evaluate and run the Byte Latent Transformer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import BLTConfig, EntropyConfig, UserError
    from .infer.session import Session
    from .interop import convert
    from .lm import LM, load
    from .model.blt import BLT
    from .model.entropy import EntropyModel
    from .model.segments import Patches
    from .patching.patcher import Patcher

# Imported on first use: torch takes seconds, and `bytequilt --help` should not.
_HOMES = {
    "BLTConfig": "config",
    "EntropyConfig": "config",
    "UserError": "config",
    "Session": "infer.session",
    "LM": "lm",
    "load": "lm",
    "convert": "interop",
    "BLT": "model.blt",
    "EntropyModel": "model.entropy",
    "Patches": "model.segments",
    "Patcher": "patching.patcher",
}
__all__ = [
    "BLT",
    "LM",
    "BLTConfig",
    "EntropyConfig",
    "EntropyModel",
    "Patcher",
    "Patches",
    "Session",
    "UserError",
    "convert",
    "load",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bytequilt' has no attribute '{name}'")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    """What completion offers: the names for users, most of which are imported on first use."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
