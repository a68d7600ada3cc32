"""How functions are compiled, and where the result is kept between processes.

numba keeps an entry for each function, by the date of its own file alone. A function that another one has taken in may
change without that; so everything lies in a folder that is named by a digest of all these files.
"""

import hashlib
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numba
from numba import njit

HERE = Path(__file__).parent
FASTMATH = {"reassoc", "contract", "nsz", "arcp"}
"""Sums in any order. Numbers that are not finite stay what they are: a caller looks for them."""


@lru_cache
def folder() -> Path | None:
    """Where compiled functions are kept: where numba was told to, in the package, or with the user's caches."""
    digest = hashlib.sha256(f"{numba.__version__} {sys.version}".encode())
    for file in sorted(HERE.glob("*.py")):
        digest.update(file.read_bytes())
    told = [Path(numba.config.CACHE_DIR)] if numba.config.CACHE_DIR else []
    for parent in (*told, HERE / "__pycache__", Path.home() / ".cache" / "bytequilt"):
        path = parent / f"native-{digest.hexdigest()[:12]}"
        try:
            path.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=path):
                return path
        except OSError:
            continue
    return None


@lru_cache
def tell() -> None:
    """Say on stderr, once, that the first steps of this process will take their time."""
    path = folder()
    if path is None:
        print("compiling the native step (about 30 s): no folder can be written to keep it", file=sys.stderr)
    elif not any(path.rglob("*.decoder_step-*.nbi")):
        print("compiling the native step (once, about 30 s)", file=sys.stderr)


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function compiled for the arguments it is called with, single-threaded."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder() or "")
    try:
        compiled = njit(cache=folder() is not None, fastmath=FASTMATH, error_model="numpy", nogil=True)
        return compiled(function)
    finally:
        numba.config.CACHE_DIR = before
