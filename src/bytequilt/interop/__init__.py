"""Model directories in three layouts (bytequilt's, Hugging Face's and Meta's): read them, and convert between them."""

from .conversion import convert
from .directory import Directory
from .native import FORMAT, ModelConfig

__all__ = ["FORMAT", "Directory", "ModelConfig", "convert"]
