"""Lists the files of a path, a folder or a glob pattern. A file is listed once, even if several links lead to it."""

import glob
import os
import sys
from fnmatch import fnmatchcase
from pathlib import Path

from ..config import UserError
from .unpack import reading

Identity = tuple[int, int]
"""(device, inode) of a file: the same for all its names."""


def files_of(source: str) -> list[Path]:
    """The sorted files. Hidden files are included only if the source names them. Links are followed, but not in loops.

    Raises UserError if there are none.
    """
    with reading(source):
        if not source or "\0" in source:
            raise UserError(f"a source has {'a NUL byte in its' if source else 'no'} name")
        path = Path(os.path.expanduser(source))
        if path.is_dir():
            paths, complaint = _reached(path, ["**", "*"]), f"directory {source} holds no files"
        elif os.path.lexists(path) or not glob.has_magic(source):
            return [path]
        else:
            root = Path(path.anchor)
            parts = list(path.parts[1:] if path.anchor else path.parts)
            paths, complaint = _reached(root, parts), f"no file matches {source}"
    if not paths:
        raise UserError(complaint)
    return paths


def identity(path: Path) -> Identity:
    """The `Identity` of a file. Raises UserError if the file cannot be read."""
    with reading(str(path)):
        status = os.stat(path)
    return status.st_dev, status.st_ino


def _reached(root: Path, parts: list[str]) -> list[Path]:
    """The files below `root` that match the parts of a pattern, by a name without links to folders if there is one."""
    paths: dict[Identity, Path] = {}
    been: set[tuple[Identity, int]] = set()  # folders below which `**` and what follows it have been matched
    waiting, links = [(root, parts)], []
    while waiting or links:
        path, (head, *tail) = (waiting or links).pop(0)
        below: list[tuple[Path, list[str]]] = []
        if head == "**":
            if (mark := (identity(path), len(tail))) in been:
                continue
            been.add(mark)
            below.append((path, tail or ["*"]))
            for folder in (path / name for name in _names(path) if not name.startswith(".")):
                if folder.is_dir():
                    (links if folder.is_symlink() else below).append((folder, [head, *tail]))
        elif glob.has_magic(head):
            shown = [name for name in _names(path) if head.startswith(".") or not name.startswith(".")]
            below = [(path / name, tail) for name in shown if fnmatchcase(name, head)]
        elif os.path.lexists(path / head):
            below = [(path / head, tail)]
        for place, _ in (pair for pair in below if not pair[1]):
            if _is_file(place):
                paths.setdefault(identity(place), place)
            elif place.is_symlink() and not place.exists():
                print(f"{place} is a link to nothing; passed over", file=sys.stderr)
        waiting = [(place, later) for place, later in below if later and place.is_dir()] + waiting
    return sorted(paths.values())


def _is_file(path: Path) -> bool:
    with reading(str(path)):  # access to some names may be denied
        return path.is_file()


def _names(folder: Path) -> list[str]:
    """The sorted names in a folder. If it cannot be read, print a message and return none."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        print(f"cannot read {folder}: {error.strerror}; passed over", file=sys.stderr)
        return []
