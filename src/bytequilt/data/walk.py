"""Lists the files of a path, a folder or a glob pattern. A file is listed once, even if several links lead to it."""

import glob
import os
import sys
from collections.abc import Iterator
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
    """The files below `root` that match the parts of a pattern. A file with several names has the first of them."""
    paths: dict[Identity, Path] = {}
    walk = _Walk()
    waiting = [(root, parts)]
    while waiting:
        for path in walk.matches(*waiting.pop(0)):
            if _is_file(path):
                paths.setdefault(identity(path), path)
            elif path.is_symlink() and not path.exists():
                print(f"{path} is a link to nothing; passed over", file=sys.stderr)
        if not waiting:  # links come last, so that a name without links is preferred
            waiting, walk.links = walk.links, []
    return sorted(paths.values())


def _is_file(path: Path) -> bool:
    with reading(str(path)):  # access to some names may be denied
        return path.is_file()


class _Walk:
    """Walks down folders. It enters a folder only once for the same position in a pattern."""

    def __init__(self) -> None:
        self.links: list[tuple[Path, list[str]]] = []
        """Links to folders, each with the parts of the pattern to match below. They are walked last."""
        self._been: set[tuple[Identity, int]] = set()

    def matches(self, folder: Path, parts: list[str]) -> Iterator[Path]:
        """Yield the paths below a folder that match the parts of a pattern. `**` matches any number of folders."""
        head, *tail = parts
        if head == "**":
            yield from self._anywhere(folder, parts)
        elif glob.has_magic(head):
            for name in _names(folder):
                if fnmatchcase(name, head) and (head.startswith(".") or not name.startswith(".")):
                    yield from self._below(folder / name, tail)
        elif os.path.lexists(folder / head):
            yield from self._below(folder / head, tail)

    def _below(self, path: Path, tail: list[str]) -> Iterator[Path]:
        if not tail:
            yield path
        elif path.is_dir():
            yield from self.matches(path, tail)

    def _anywhere(self, folder: Path, parts: list[str]) -> Iterator[Path]:
        mark = (identity(folder), len(parts))
        if mark in self._been:
            return
        self._been.add(mark)
        yield from self.matches(folder, parts[1:] or ["*"])
        for name in _names(folder):
            path = folder / name
            if name.startswith(".") or not path.is_dir():
                continue
            if path.is_symlink():
                self.links.append((path, parts))
            else:
                yield from self._anywhere(path, parts)


def _names(folder: Path) -> list[str]:
    """The sorted names in a folder. If it cannot be read, print a message and return none."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        print(f"cannot read {folder}: {error.strerror}; passed over", file=sys.stderr)
        return []
