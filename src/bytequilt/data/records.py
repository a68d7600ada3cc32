"""Converts records (lines of JSON, rows of tables or data sets) to documents, by the names of their fields."""

import csv
import io
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import DataConfig, UserError, foreign, library, one_line
from ..config.base import UTF_16
from .chat import chat
from .unpack import BLANKS, COMPRESSIONS, lines, open_file, pyarrow, read_whole, reading, too_blank, unpack_to

Record = tuple[str, bytes | dict[str, Any]]
"""(place for messages, such as file:line; the record as JSON bytes or as a dict of fields)."""
UNREAD = {"7z", "br", "lz", "lz4", "lzma", "lzo", "rar", "sz", "tar", "tbz", "tbz2", "tgz", "txz", "tzst", "z", "zip"}
UNREAD |= {"arrow", "avro", "feather", "ods", "orc", "xlsx"}
"""Suffixes of archives, compressed files and tables that are refused. Otherwise they would be read as plain text."""
LARGEST_ROW = 1 << 27
"""Maximum number of characters of a table's row. The csv module needs several bytes of memory for each of them."""
BATCH = 16
"""Number of rows of a Parquet file in memory at a time. A small file may hold the same long text many times."""


@dataclass(frozen=True)
class Document:
    """One text, as bytes."""

    id: str
    data: bytes
    prompt: int = 0
    """Number of leading bytes of `data` that are input only and no targets of the loss."""


def file_records(path: Path, name: str, config: DataConfig) -> Iterator[Record] | None:
    """The records of a file, by its suffix; None if the suffix is not one of records. Messages call the file `name`."""
    plain = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    for suffix in (path.suffix.lower(), plain.suffix.lower()):
        if suffix[1:] in UNREAD:
            raise UserError(f"{name[-150:]}: {suffix} is not unpacked here; unpack it, or save its table as .csv first")
    match plain.suffix.lower():
        case ".jsonl" | ".ndjson":
            return _jsonl_records(path, name)
        case ".json":
            return _json_records(path, name)
        case ".csv":
            return _table_records(path, name, config, ",")
        case ".tsv":
            return _table_records(path, name, config, "\t")
        case ".parquet":
            return _parquet_records(path, name, config)
        case _:
            return None


def _jsonl_records(path: Path, name: str) -> Iterator[Record]:
    with reading(name), open_file(path, name) as stream:
        _check_utf8(stream, name)
        for number, line in enumerate(lines(stream, name), 1):
            if line.strip():
                yield f"{name}:{number}", line


def _json_records(path: Path, name: str) -> Iterator[Record]:
    with reading(name), open_file(path, name) as stream:
        data = read_whole(stream, name)
    if not data.strip():
        return
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is not one JSON document ({one_line(error)}); lines of JSON end with .jsonl") from None
    records = value if isinstance(value, list) else [value]
    if not all(isinstance(record, dict) for record in records):
        raise UserError(f"{name} must hold one JSON object, or a list of them; anything else belongs into .jsonl")
    for number, record in enumerate(records, 1):
        yield f"{name}:{number}", record


def _table_records(path: Path, name: str, config: DataConfig, delimiter: str) -> Iterator[Record]:
    with reading(name), open_file(path, name) as stream:
        _check_utf8(stream, name)
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        columns: list[str] = []
        for place, row in _rows(text, name, delimiter):
            if not columns:
                columns = row
                _check_columns(columns, name, config)
            elif len(row) > len(columns):
                raise UserError(f"{place}: {len(row)} fields in a table of {len(columns)} columns")
            elif row:
                yield place, dict(zip(columns, row, strict=False))


def _rows(text: io.TextIOWrapper, name: str, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (place, fields) of each row. Raises UserError for a row that is too long, and for too many blank rows."""
    size = blank = 0

    def bounded() -> Iterator[str]:
        nonlocal size
        while line := text.readline(LARGEST_ROW + 1):
            size += len(line)  # since the last row began: a quoted field may hold many lines
            if size > LARGEST_ROW:
                raise UserError(f"{name} has a row of more than {LARGEST_ROW:,} characters; is a quote left open?")
            yield line

    csv.field_size_limit(LARGEST_ROW)
    rows = csv.reader(bounded(), delimiter=delimiter, strict=True)
    try:
        for row in rows:
            size, blank = 0, 0 if row else blank + 1
            if blank > BLANKS:
                raise too_blank(name)
            yield f"{name}:{rows.line_num}", row
    except csv.Error as error:
        raise UserError(f"{name}:{rows.line_num}: {one_line(error)}") from None


def _parquet_records(path: Path, name: str, config: DataConfig) -> Iterator[Record]:
    pa = pyarrow()
    import pyarrow.parquet as pq

    with reading(name), open_file(path, name) as stream, tempfile.TemporaryFile() as unpacked:
        packed = path.suffix.lower() in COMPRESSIONS
        if packed:  # Parquet is read from its end; a compressed stream cannot be
            unpack_to(stream, unpacked, name)
        try:
            file = pq.ParquetFile(unpacked if packed else stream)
            columns = file.schema_arrow.names
            needed = _check_columns(columns, name, config)
            used = {*needed, "id", *config.where} & set(columns)
            number = 0
            for batch in file.iter_batches(batch_size=BATCH, columns=sorted(used)):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{name}:{number}", record
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise UserError(f"{name} is not a sound Parquet file: {one_line(error)}") from None


def _check_utf8(stream: io.BufferedReader, name: str) -> None:
    """Raises UserError for records in UTF-16, which some Windows programs write."""
    if (head := stream.peek(2)[:2]) in UTF_16:
        raise UserError(f"{name} is not UTF-8 text but {foreign(head)}; save it as UTF-8")


def _check_columns(columns: list[str], name: str, config: DataConfig) -> list[str]:
    """The names of the columns with text. Raises UserError if a column is missing or occurs twice."""
    if config.messages_field in columns:
        return [config.messages_field]
    needed = [field for field in (config.field, config.prompt_field) if field is not None]
    for field in needed:
        if field not in columns:
            raise UserError(one_line(Exception(f"{name} has no column '{field}'; it has {', '.join(columns)}")))
        if columns.count(field) > 1:
            raise UserError(f"{name[-150:]} has two columns '{field[:60]}'")
    return needed


def hub_records(name: str, source: str) -> Iterator[Record]:
    """The rows of a data set of the Hugging Face hub, named NAME or NAME:SPLIT."""
    datasets = library("datasets", f"{source} needs the datasets package: pip install 'bytequilt[data]'")
    name, _, split = name.partition(":")
    if not name:
        raise UserError(f"{source} names no data set: give hf:NAME or hf:NAME:SPLIT")
    try:
        for number, record in enumerate(datasets.load_dataset(name, split=split or "train", streaming=True), 1):
            yield f"{source}:{number}", record
    except Exception as error:  # the hub, the network and the data format raise many kinds of errors
        raise UserError(one_line(Exception(f"cannot read {source}: {one_line(error)}"))) from None


def from_records(records: Iterable[Record], config: DataConfig, dropped: Counter[str]) -> Iterator[Document]:
    """Convert records to documents. `dropped["where"]` counts the records that `where` leaves out."""
    for place, record in records:
        try:
            document = _document(place, record, config)
        except (ValueError, RecursionError) as error:
            if not config.skip_bad_records:
                line = f"{place}: {error}"[:240]
                raise UserError(f"{line}; a training goes on without it with `data.skip_bad_records`") from None
            print(f"{one_line(ValueError(f'{place}: {error}'))}; skipped", file=sys.stderr)
            continue
        if document is None:
            dropped["where"] += 1
        else:
            yield document


def _document(place: str, record: bytes | dict[str, Any], config: DataConfig) -> Document | None:
    """Convert a record to a document; None if `where` leaves it out. Raises ValueError for a bad record."""
    if isinstance(record, bytes):
        try:
            record = json.loads(record)
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"a record must be a JSON object, not {type(record).__name__}")
    if any(str(record.get(name)) not in values for name, values in config.where.items()):
        return None
    prompt, text = _texts(record, config)
    name = record.get("id")
    return Document(valid(place if name is None else str(name)), prompt + text, len(prompt))


def _texts(record: dict[str, Any], config: DataConfig) -> tuple[bytes, bytes]:
    """(prompt, text to learn) of a record."""
    if config.messages_field in record:
        asked = dict(zip(("prompt", "answer"), chat(record[config.messages_field]), strict=True))
        return _field(asked, "prompt"), _field(asked, "answer")
    prompt = _field(record, config.prompt_field) if config.prompt_field is not None else b""
    return prompt, _field(record, config.field)


def _field(record: dict[str, Any], field: str) -> bytes:
    if field not in record:
        raise ValueError(f"no field '{field}'; the record has {', '.join(record) or 'none at all'}")
    value = record[field]
    if not isinstance(value, str | bytes):
        raise ValueError(f"field '{field}' must be a string, not {type(value).__name__}")
    try:
        return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ValueError(f"field '{field}' has a lone surrogate at character {error.start}") from None


def valid(name: str) -> str:
    """Escape lone surrogates in a name. File names and JSON may contain them, but Parquet strings may not."""
    return name.encode("utf-8", "backslashreplace").decode()
