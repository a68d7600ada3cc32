"""The verbs of the command line, one function each, which imports what it needs: help should not wait for torch."""

from collections.abc import Callable

from .models import bench, convert, eval, info
from .text import generate, patch
from .training import distill, prepare, train

FUNCTIONS: dict[str, Callable[..., None]] = {
    verb.__name__: verb for verb in (patch, generate, train, prepare, distill, eval, info, bench, convert)
}
