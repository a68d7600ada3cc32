"""Sources: files, folders, standard input, the hub, the package itself -> documents of bytes, one after another."""

import glob
import gzip
import io
import json
import lzma
import shutil
import sys
import tempfile
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ..codec import as_bytes
from ..config import DataConfig, UserError

COMPRESSIONS = (".gz", ".xz", ".zst")


@dataclass(frozen=True)
class Document:
    """One text, as bytes."""

    id: str
    data: bytes
    prompt: int = 0
    """How many leading bytes are read but not learnt."""


def documents(source: str, config: DataConfig) -> Iterator[Document]:
    """The documents of a source, in a fixed order and one at a time; those without a byte are passed over.

    A source is a text file (one document, any bytes), a `.jsonl` or `.parquet` file (one document a record), each also
    as `.gz`, `.xz` or `.zst`; a directory or glob of such files; `-` (standard input, one document);
    `hf:NAME[:SPLIT]`; or `package:NAME`, a corpus that comes with the package. Raises UserError, with file and line,
    for what cannot be read and for a source without documents.
    """
    empty = True
    for document in _any_source(source, config):
        if document.data:
            empty = False
            yield document
    if empty:
        wanted = "; ".join(f"{name} = {' or '.join(values)}" for name, values in config.where.items())
        raise UserError(f"{source} has no documents" + (f" with {wanted}" if wanted else ": it is empty"))


def _any_source(source: str, config: DataConfig) -> Iterator[Document]:
    scheme, _, name = source.partition(":")
    if source == "-":
        yield Document("-", sys.stdin.buffer.read())
    elif scheme == "hf":
        yield from _from_records(_hub_records(name, source), config)
    elif scheme == "package":
        yield from _from_file(_shipped(name), source, config)
    else:
        for path in _files(source):
            yield from _from_file(path, str(path), config)


def _files(source: str) -> list[Path]:
    """The files that a path or glob stands for, sorted; hidden ones only where they are named themselves."""
    path = Path(source).expanduser()
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.is_file())
        found = [p for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts)]
        if not found:
            raise UserError(f"directory {source} holds no files")
    elif path.exists() or not glob.has_magic(source):
        found = [path]
    else:
        found = [p for p in map(Path, sorted(glob.glob(str(path), recursive=True))) if p.is_file()]
        if not found:
            raise UserError(f"no file matches {source}")
    return found


def _shipped(name: str) -> Path:
    folder = Path(str(resources.files("bytequilt") / "corpus"))
    if not (folder / name).is_file():
        known = ", ".join(sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")))
        raise UserError(f"no corpus named '{name}' comes with the package; shipped are {known}")
    return folder / name


# ------------------------------------------------------------------------------------------------------------ files


def _from_file(path: Path, name: str, config: DataConfig) -> Iterator[Document]:
    """Documents of one file; `name` is what messages and ids call it."""
    plain = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    match plain.suffix.lower():
        case ".jsonl":
            yield from _from_records(_jsonl_records(path, name), config)
        case ".parquet":
            yield from _from_records(_parquet_records(path, name, config), config)
        case _:
            with _reading(name), _open(path) as stream:
                yield Document(_valid(name), stream.read())


def _open(path: Path) -> io.BufferedIOBase:
    """The bytes of a file, decompressed. A compressed file that is cut short raises at its end, whatever its kind."""
    match path.suffix.lower():
        case ".gz":
            return gzip.open(path)
        case ".xz":
            return lzma.open(path)
        case ".zst":
            pa = _pyarrow()  # unlike the zstandard package's reader, it notices a missing end
            return io.BufferedReader(pa.input_stream(open(path, "rb"), compression="zstd"))
        case _:
            return open(path, "rb")


@contextmanager
def _reading(name: str) -> Generator[None]:
    """Turns what goes wrong with a file into one line."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"no file at {name}") from None
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{name} is cut short or damaged: {error}") from None
    except OSError as error:
        reason = error.strerror or f"it is cut short or damaged: {error}"
        raise UserError(f"cannot read {name}: {reason}") from None


def _jsonl_records(path: Path, name: str) -> Iterator[tuple[str, bytes]]:
    with _reading(name), _open(path) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield f"{name}:{number}", line


def _parquet_records(path: Path, name: str, config: DataConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    pa = _pyarrow()
    import pyarrow.parquet as pq

    with _reading(name), _open(path) as stream, tempfile.TemporaryFile() as unpacked:
        packed = path.suffix.lower() in COMPRESSIONS
        if packed:  # Parquet is read from its end, which a compressed stream cannot be
            shutil.copyfileobj(stream, unpacked)
        try:
            file = pq.ParquetFile(unpacked if packed else stream)
            columns = file.schema_arrow.names
            needed = [field for field in (config.field, config.prompt_field) if field is not None]
            for field in needed:
                if field not in columns:
                    raise UserError(f"{name} has no column '{field}'; it has {', '.join(columns)}")
            used = {*needed, "id", *config.where} & set(columns)
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=sorted(used)):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{name}:{number}", record
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise UserError(f"{name} is not a sound Parquet file: {_first_line(error)}") from None


def _hub_records(name: str, source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        from datasets import load_dataset
    except ImportError:
        raise UserError(f"{source} needs the datasets package: pip install 'bytequilt[data]'") from None
    name, _, split = name.partition(":")
    try:
        for number, record in enumerate(load_dataset(name, split=split or "train", streaming=True), 1):
            yield f"{source}:{number}", record
    except Exception as error:  # the hub, the network and the data set's own format each raise their own kinds
        raise UserError(f"cannot read {source}: {_first_line(error)}") from None


# ---------------------------------------------------------------------------------------------------------- records


def _from_records(records: Iterable[tuple[str, bytes | dict[str, Any]]], config: DataConfig) -> Iterator[Document]:
    """Documents of records, each given as (place, JSON or fields)."""
    for place, record in records:
        try:
            document = _document(place, record, config)
        except (ValueError, RecursionError) as error:
            if not config.skip_bad_records:
                raise UserError(f"{place}: {error}; `skip_bad_records` goes on without it") from None
            print(f"{place}: {error}; skipped", file=sys.stderr)
            continue
        if document is not None:
            yield document


def _document(place: str, record: bytes | dict[str, Any], config: DataConfig) -> Document | None:
    """The document of a record, or None where `where` leaves it out. Raises ValueError for a bad record."""
    if isinstance(record, bytes):
        try:
            record = json.loads(record)
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"a record must be a JSON object, not {type(record).__name__}")
    if any(str(record.get(name)) not in values for name, values in config.where.items()):
        return None
    prompt = _field(record, config.prompt_field) if config.prompt_field is not None else b""
    name = record.get("id")
    return Document(_valid(place if name is None else str(name)), prompt + _field(record, config.field), len(prompt))


def _field(record: dict[str, Any], field: str) -> bytes:
    if field not in record:
        raise ValueError(f"no field '{field}'; the record has {', '.join(record) or 'none at all'}")
    value = record[field]
    if not isinstance(value, str | bytes):
        raise ValueError(f"field '{field}' must be a string, not {type(value).__name__}")
    try:
        return as_bytes(value)
    except UnicodeEncodeError as error:
        raise ValueError(f"field '{field}' has a lone surrogate at character {error.start}") from None


def _valid(name: str) -> str:
    """A name that UTF-8 can write: file names and JSON may hold lone surrogates, Parquet strings may not."""
    return name.encode("utf-8", "backslashreplace").decode()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise UserError("Parquet and .zst files need pyarrow: pip install 'bytequilt[train]'") from None
    return pyarrow
