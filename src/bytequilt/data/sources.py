"""Sources: files, folders, standard input, the hub, the package itself -> documents of bytes, one after another."""

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import partial
from importlib import resources
from pathlib import Path

from ..config import DataConfig, UserError
from .records import Document, file_records, from_records, hub_records, valid
from .unpack import open_file, read_whole, reading
from .walk import Identity, files_of, identity

__all__ = ["Document", "documents", "files", "nothing", "parts"]

Part = Callable[[Counter[str]], Iterator[Document]]
"""Reads the documents of a part of a source; counts those that `where` leaves out."""


def documents(
    source: str,
    config: DataConfig,
    besides: Collection[Identity] = (),
    dropped: Counter[str] | None = None,
) -> Iterator[Document]:
    """The documents of a source, in a fixed order and one at a time; those without a byte are passed over.

    A source is a text file (one document, any bytes), a `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv` or `.parquet` file
    (one document a record), each also as `.gz`, `.bz2`, `.xz` or `.zst`; a directory or glob of such files, each of
    which counts once; `-` (standard input, one document); `hf:NAME[:SPLIT]`; or `package:NAME`, a corpus that comes
    with the package. Files in `besides` are left out. `dropped` counts, under "where", the records that `where` leaves
    out. Raises UserError, with file and line, for what cannot be read and for a source without documents.
    """
    dropped = Counter() if dropped is None else dropped
    empty = True
    for part in parts(source, config, besides):
        for document in part(dropped):
            if document.data:
                empty = False
                yield document
    if empty:
        raise nothing(source, config)


def nothing(source: str, config: DataConfig) -> UserError:
    """What to say of a source without documents."""
    wanted = "; ".join(f"{name} = {' or '.join(values)}" for name, values in config.where.items())
    return UserError(f"{source} has no documents" + (f" with {wanted}" if wanted else ": it is empty"))


def files(source: str) -> list[Path]:
    """The files that a source reads, each once; none where it is no path, folder or pattern."""
    return [] if source == "-" or source.partition(":")[0] in ("hf", "package") else files_of(source)


def parts(source: str, config: DataConfig, besides: Collection[Identity] = ()) -> list[Part]:
    """The files of a source, in order, each as what reads its documents; of what is no file, all of it as one part."""
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
    """Documents of one file; `name` is what messages and ids call it."""
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
