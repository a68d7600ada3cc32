"""Files on disk: written whole or not at all, in UTF-8; folders that one process uses at a time."""

import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from threading import get_ident
from typing import Any, BinaryIO

from .config import UserError, one_line, read_text


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file that appears under its name when it is whole and on the disk. Raises UserError where it cannot."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Like `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode("utf-8", "surrogatepass"))


def check_folder(path: Path) -> None:
    """Raises UserError if the folder of a file that is to be written does not exist."""
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}")


def finite(value: Any) -> Any:
    """A value for JSON, which has no word for a number that is not finite: it becomes None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """Like `write_text`: one JSON document and a newline."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON document in a file. Raises UserError where there is none, or it is damaged."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {one_line(error)}") from None


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose bytes become the file `path` when the block ends, or leave it as it was.

    Raises UserError where the disk refuses.
    """
    partial = path.with_name(f".{path.name[:100]}.{os.getpid()}-{get_ident()}.partial")  # its own in each thread
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise UserError(f"cannot write {path}: {error.strerror or one_line(error)}") from None
        raise


@contextmanager
def replacing_folder(folder: Path, replace: bool = True, stale: Sequence[str] = ("*",)) -> Iterator[Path]:
    """An empty folder that takes the name `folder` when the block ends, or leaves what is there as it was.

    Of a folder that has this name, files that match none of the patterns `stale` stay. Raises UserError where there
    is a file of that name or the disk refuses; FileExistsError where there is such a folder and `replace` is False.
    """
    if not replace and folder.exists():
        raise FileExistsError(f"{folder} exists already")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"cannot write {folder}: it is a file, and a folder is written; give another name")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(mkdtemp(prefix=f".{folder.name[:100]}.", suffix=".partial", dir=folder.parent))
    try:
        (partial := scratch / "new").mkdir()
        yield partial
        if replace and folder.exists():
            _keep(folder, partial, stale)
        for path in [*partial.rglob("*"), partial]:
            sync(path)
        if replace and folder.exists():
            folder.rename(scratch / "old")  # renamed, then deleted: half a folder never bears a final name
        partial.rename(folder)
        sync(folder.parent)
    except OSError as error:
        if not replace and folder.exists():
            raise UserError(f"cannot write {folder}: another process has made it meanwhile") from None
        raise UserError(f"cannot write {folder}: {error.strerror or one_line(error)}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _keep(old: Path, new: Path, stale: Sequence[str]) -> None:
    """Link into a folder what another holds that is neither stale nor in it yet."""
    for path in old.iterdir():
        if any(path.match(pattern) for pattern in (*stale, "*.partial")) or (new / path.name).exists():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new / path.name, symlinks=True, copy_function=_link)
        else:
            _link(path, new / path.name)


def _link(source: str | Path, target: str | Path) -> None:
    """The same file under another name; a copy where the disk knows no such links."""
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(source, target, follow_symlinks=False)


def remove_folder(folder: Path) -> None:
    """Delete a folder, renamed first: half a folder never bears its final name."""
    scratch = Path(mkdtemp(prefix=f".{folder.name[:100]}.", suffix=".partial", dir=folder.parent))
    folder.rename(scratch / "old")
    shutil.rmtree(scratch, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Delete what interrupted writers left in a folder that nobody else is writing to."""
    for path in folder.glob("*.partial"):  # hidden ones among them
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Whether this process alone has `folder` until the block ends; a process that dies lets go of it.

    With `wait`, this waits until the folder is free. The lock is the file `lock` in the folder.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / "lock", timeout=-1 if wait else 0).acquire()
    except Timeout:
        yield False
        return
    with lock:
        yield True


def sync(path: Path) -> None:
    if os.name == "nt":
        return  # Windows cannot open a folder to sync it
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
