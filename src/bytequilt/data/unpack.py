"""Compressed files, as the system's own tools read them: every member, padding between them, and damage told."""

import bz2
import io
import lzma
import os
import re
import sys
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ..config import UserError, one_line

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
CHUNK = 1 << 20
LARGEST = 1 << 30
"""Bytes of the largest document, and of the longest line."""


def open_file(path: Path, name: str) -> io.BufferedReader:
    """The bytes of a file, decompressed as its suffix says. Damage raises when reading comes to it."""
    # A pipe that nobody writes to would hang when it is opened.
    file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(file.fileno(), True)
    match path.suffix.lower():
        case ".gz":
            chunks = _members(file, lambda: zlib.decompressobj(31), lambda tail: _after_gzip(tail, file, name))
        case ".bz2":
            chunks = _members(file, bz2.BZ2Decompressor, lambda tail: _after_bzip2(tail, file, name))
        case ".xz":
            chunks = _members(file, lzma.LZMADecompressor, lambda tail: _after_xz(tail, file))
        case ".zst":
            chunks = _zstd(file)
        case _:
            return file
    return io.BufferedReader(_Stream(file, chunks), CHUNK)


def read_whole(stream: BinaryIO, name: str) -> bytes:
    """All that is left of a stream. Raises UserError, in bounded memory, where a document may not have as many."""
    buffer = io.BytesIO()
    while chunk := stream.read(CHUNK):
        if buffer.tell() + len(chunk) > LARGEST:
            raise UserError(f"{name} has more than {LARGEST:,} bytes; cut it into smaller documents")
        buffer.write(chunk)
    return buffer.getvalue()


def lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """The lines of a stream, ends included. Raises UserError for one that is longer than a document may be."""
    while line := stream.readline(LARGEST + 1):
        if len(line) > LARGEST:
            raise UserError(f"{name} has a line of more than {LARGEST:,} bytes")
        yield line


@contextmanager
def reading(name: str) -> Generator[None]:
    """Turns what goes wrong with a file into one line."""
    name = name if len(name) <= 200 else f"{name[:120]}...{name[-60:]}"
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"no file at {name}") from None
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{name} is cut short or damaged: {one_line(error)}") from None
    except OSError as error:
        reason = error.strerror or f"it is cut short or damaged: {one_line(error)}"
        raise UserError(f"cannot read {name}: {reason}") from None


def pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise UserError("Parquet and .zst files need pyarrow: pip install 'bytequilt[train]'") from None
    return pyarrow


# ------------------------------------------------------------------------------------------------------------ members


class _Stream(io.RawIOBase):
    """Chunks of bytes as a file."""

    def __init__(self, file: BinaryIO, chunks: Iterator[bytes]) -> None:
        self._file, self._chunks, self._left = file, chunks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            if (chunk := next(self._chunks, None)) is None:
                return 0
            self._left = memoryview(chunk)
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


def _members(file: BinaryIO, new: Callable[[], Any], after: Callable[[bytes], bytes]) -> Iterator[bytes]:
    """What a file of one or more compressed members holds, at most CHUNK bytes at a time.

    `after` is given the bytes read beyond a member, and returns those that the next one begins with, if any.
    """
    data = file.read(CHUNK)
    if not data:
        raise EOFError("it is empty")
    while data:
        member = new()
        while not member.eof:
            hungry = getattr(member, "needs_input", True)
            if not data and hungry:
                data = file.read(CHUNK)
            ended = hungry and not data
            out = member.decompress(data, CHUNK)
            data = getattr(member, "unconsumed_tail", b"")  # bz2 and lzma keep what they have not used
            if out:
                yield out
            elif ended and not member.eof:
                raise EOFError("it ends too early")
        data = after(member.unused_data)


def _after_gzip(tail: bytes, file: BinaryIO, name: str) -> bytes:
    """gzip passes over zeros at the end, and over anything else that is no member, with a warning."""
    tail += file.read(2) if len(tail) < 2 else b""
    if tail[:2] == b"\x1f\x8b":
        return tail
    if len(tail) == 1 and tail != b"\0":
        raise EOFError("it ends too early")
    if _zeros(tail, file)[1]:
        _ignored(name)
    return b""


def _after_bzip2(tail: bytes, file: BinaryIO, name: str) -> bytes:
    """bzip2 passes over whatever is no member, with a warning."""
    tail += file.read(4) if len(tail) < 4 else b""
    if re.fullmatch(b"B(Z(h[1-9]?)?)?", tail[:4]):
        return tail
    if tail:
        _ignored(name)
    return b""


def _after_xz(tail: bytes, file: BinaryIO) -> bytes:
    """xz passes over zeros in groups of four, and over nothing else."""
    count, tail = _zeros(tail, file)
    if count % 4:
        raise EOFError("its padding is not a multiple of four bytes")
    return tail


def _zeros(data: bytes, file: BinaryIO) -> tuple[int, bytes]:
    """How many zeros come next, and what was read beyond them."""
    count = 0
    while True:
        left = data.lstrip(b"\0")
        count += len(data) - len(left)
        if left or not (data := file.read(CHUNK)):
            return count, left


def _ignored(name: str) -> None:
    print(f"{name}: what follows its compressed data is ignored", file=sys.stderr)


def _zstd(file: BinaryIO) -> Iterator[bytes]:
    empty = not file.peek(1)  # type: ignore[attr-defined]
    if empty:
        raise EOFError("it is empty")
    stream = pyarrow().input_stream(file, compression="zstd")
    while chunk := stream.read(CHUNK):
        yield chunk
