"""Meta's two layouts: of the hub (config.json with `args`, model.safetensors) and consolidated (params.json, a .pth).

Either has its entropy model in a folder of its own: entropy_model/params.json and a .pth. Both are read; the first is
written.
"""

from .reading import read_config, read_tensors, recognise
from .writing import export, write_tensors

__all__ = ["export", "read_config", "read_tensors", "recognise", "write_tensors"]
