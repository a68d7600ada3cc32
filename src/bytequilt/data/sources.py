"""Reads documents from sources: files, folders, standard input, the Hugging Face hub, and the package itself."""

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import partial
from importlib import resources
from itertools import chain
from pathlib import Path

from ..config import DataConfig, UserError
from .records import Document, file_records, from_records, hub_records, valid
from .unpack import open_file, read_whole, reading
from .walk import Identity, files_of, identity

Part = Callable[[Counter[str]], Iterator[Document]]
"""A function that reads the documents of one part of a source. The Counter counts documents that `where` leaves out."""


def documents(source: str, config: DataConfig) -> Iterator[Document]:
    """Yield the documents of a source one by one, in a fixed order. Empty documents are skipped.

    A source is a text file (one document, any bytes), a `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv` or `.parquet` file
    (one document per record), any of these compressed as `.gz`, `.bz2`, `.xz` or `.zst`; a directory or glob of such
    files, without duplicates; `-` (standard input, one document); `hf:NAME[:SPLIT]`; or `package:NAME`, a corpus that
    comes with the package. Raises UserError, with file and line, for unreadable input and for a source without
    documents.
    """
    empty = True
    for document in chain.from_iterable(part(Counter()) for part in parts(source, config)):
        if document.data:
            empty = False
            yield document
    if empty:
        raise nothing(source, config)


def nothing(source: str, config: DataConfig) -> UserError:
    """The error for a source without documents."""
    wanted = "; ".join(f"{name} = {' or '.join(values)}" for name, values in config.where.items())
    return UserError(f"{source} has no documents" + (f" with {wanted}" if wanted else ": it is empty"))


def files(source: str) -> list[Path]:
    """The files of a source, without duplicates; empty if the source is not a path, folder or pattern."""
    return [] if source == "-" or source.partition(":")[0] in ("hf", "package") else files_of(source)


def parts(source: str, config: DataConfig, besides: Collection[Identity] = ()) -> list[Part]:
    """The parts of a source, in order: one for each file, without the files in `besides`. A source that is not files
    (`-`, `hf:`) is one part."""
    scheme, _, name = source.partition(":")
    if source == "-":
        return [lambda dropped: (Document("-", _standard_input()) for _ in range(1))]
    if scheme == "hf":
        return [lambda dropped: from_records(hub_records(name, source), config, dropped)]
    if scheme == "package":
        return [partial(_from_file, _shipped(name), source, config)]
    chosen = [path for path in files_of(source) if not besides or identity(path) not in besides]
    if not chosen:
        raise UserError(f"{source} has no files but those that another source reads")
    return [partial(_from_file, path, str(path), config) for path in chosen]


def _from_file(path: Path, name: str, config: DataConfig, dropped: Counter[str]) -> Iterator[Document]:
    """The documents of one file. Messages and ids call the file `name`."""
    records = file_records(path, name, config)
    if records is not None:
        yield from from_records(records, config, dropped)
    else:
        with reading(name), open_file(path, name) as stream:
            yield Document(valid(name), read_whole(stream, name))


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise UserError("standard input is closed")
    with reading("standard input"):
        return read_whole(sys.stdin.buffer, "standard input")


def _shipped(name: str) -> Path:
    folder = Path(str(resources.files("bytequilt") / "corpus"))
    shipped = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if name not in shipped:
        known = ", ".join(shipped)
        raise UserError(f"no corpus named '{name}' comes with the package; shipped are {known}")
    return folder / name
