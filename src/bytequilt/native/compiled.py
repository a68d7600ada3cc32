"""Compilation by numba, and the folder that keeps compiled functions between processes.

numba recompiles a function if the file that defines it changes. It does not notice a change in a function of
another file that is compiled into it. So the name of the folder contains a digest of all files of this package.
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
"""LLVM may reorder sums. It must keep NaN and infinity, because callers test for them."""


@lru_cache
def folder() -> Path | None:
    """The first writable folder for compiled functions: in NUMBA_CACHE_DIR, in the package, or in the user's cache
    directory. None if no folder is writable."""
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
    """Print to stderr, once per process, that functions must be compiled, unless compiled functions are on disk."""
    path = folder()
    if path is None:
        print("compiling the native step (about 30 s): no folder can be written to keep it", file=sys.stderr)
    elif not any(path.rglob("*.decoder_step-*.nbi")):
        print("compiling the native step (once, about 30 s)", file=sys.stderr)


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: compile a function at its first call, for the argument types of that call. It runs on one thread."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder() or "")
    try:
        compiled = njit(cache=folder() is not None, fastmath=FASTMATH, error_model="numpy", nogil=True)
        return compiled(function)
    finally:
        numba.config.CACHE_DIR = before
