"""Reads compressed files like the command-line tools gzip, bzip2, xz and zstd: all members, padding, error messages."""

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
from typing import IO, Any, BinaryIO

from ..config import UserError, library, one_line

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
CHUNK = 1 << 20
LARGEST = 1 << 30
"""Maximum number of bytes of a document or of a line."""
BLANKS = 1_000_000
"""Maximum number of blank lines in a row. No sound file has more, and a small compressed file may hold billions."""


def open_file(path: Path, name: str) -> io.BufferedReader:
    """Open a file for reading, decompressed according to its suffix. Damaged data raises when it is read."""
    # Without O_NONBLOCK, opening a pipe without a writer would wait for ever.
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
    """Read a stream to its end. Raises UserError if it has more than LARGEST bytes; memory is bounded."""
    buffer = io.BytesIO()
    while chunk := stream.read(CHUNK):
        if buffer.tell() + len(chunk) > LARGEST:
            raise UserError(f"{name} has more than {LARGEST:,} bytes; cut it into smaller documents")
        buffer.write(chunk)
    return buffer.getvalue()


def lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """Yield the lines of a stream with their line ends. Raises UserError for a line of more than LARGEST bytes and for
    more than BLANKS blank lines in a row."""
    blank = 0
    while line := stream.readline(LARGEST + 1):
        if len(line) > LARGEST:
            raise UserError(f"{name} has a line of more than {LARGEST:,} bytes")
        blank = 0 if line.strip() else blank + 1
        if blank > BLANKS:
            raise too_blank(name)
        yield line


def too_blank(name: str) -> UserError:
    return UserError(f"{name} has more than {BLANKS:,} blank lines in a row: it holds no text there; cut them away")


def unpack_to(stream: BinaryIO, file: IO[bytes], name: str) -> None:
    """Copy a decompressed stream to a file. Raises UserError if it has more than LARGEST bytes."""
    while chunk := stream.read(CHUNK):
        if file.tell() + len(chunk) > LARGEST:
            raise UserError(f"{name} unpacks to more than {LARGEST:,} bytes; unpack it yourself and give the result")
        file.write(chunk)


@contextmanager
def reading(name: str) -> Generator[None]:
    """Convert errors of reading a file to a UserError of one line."""
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
    return library("pyarrow", "Parquet and .zst files need pyarrow: pip install 'bytequilt[train]'")


class _Stream(io.RawIOBase):
    """A file object that reads from an iterator of chunks."""

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
    """Decompress a file of one or more members; yield at most CHUNK bytes at a time. `new` creates a decompressor.

    `after` gets the bytes that were read after the end of a member. It returns the first bytes of the next member, or
    no bytes if there are no more members. Raises EOFError if the file is empty or ends too early.
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
            data = getattr(member, "unconsumed_tail", b"")  # bz2 and lzma keep unused input themselves
            if out:
                yield out
            elif ended and not member.eof:
                raise EOFError("it ends too early")
        data = after(member.unused_data)


def _after_gzip(tail: bytes, file: BinaryIO, name: str) -> bytes:
    """Like gzip: skip zeros after a member; ignore any other data that is not a member, with a warning."""
    tail += file.read(2) if len(tail) < 2 else b""
    if tail[:2] == b"\x1f\x8b":
        return tail
    if len(tail) == 1 and tail != b"\0":
        raise EOFError("it ends too early")
    if _zeros(tail, file)[1]:
        _ignored(name)
    return b""


def _after_bzip2(tail: bytes, file: BinaryIO, name: str) -> bytes:
    """Like bzip2: ignore data that is not a member, with a warning."""
    tail += file.read(4) if len(tail) < 4 else b""
    if re.fullmatch(b"B(Z(h[1-9]?)?)?", tail[:4]):
        return tail
    if tail:
        _ignored(name)
    return b""


def _after_xz(tail: bytes, file: BinaryIO) -> bytes:
    """Like xz: skip zeros in groups of four. Raises EOFError for another number of zeros."""
    count, tail = _zeros(tail, file)
    if count % 4:
        raise EOFError("its padding is not a multiple of four bytes")
    return tail


def _zeros(data: bytes, file: BinaryIO) -> tuple[int, bytes]:
    """Count the zeros that come next. Return this number and the bytes that were read after them."""
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
