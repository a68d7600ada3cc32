"""Models in any of three layouts, bytequilt's, Hugging Face's and Meta's: read, and turned into one another."""

from .conversion import convert
from .directory import Directory
from .native import FORMAT, ModelConfig

__all__ = ["FORMAT", "Directory", "ModelConfig", "convert"]
