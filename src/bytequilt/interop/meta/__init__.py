"""Meta's two layouts: for the hub (config.json with `args`, model.safetensors), and consolidated (params.json, a .pth
file).

In both, the entropy model has its own folder with entropy_model/params.json and a .pth file. Both layouts can be read;
the hub layout can be written.
"""

from .reading import read_config, read_tensors, recognise
from .writing import export, write_tensors

__all__ = ["export", "read_config", "read_tensors", "recognise", "write_tensors"]
