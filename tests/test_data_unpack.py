"""Compressed files are read as the system's own tools read them."""

import bz2
import gzip
import lzma
import shutil
import subprocess

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from bytequilt.config import DataConfig, UserError
from bytequilt.data import records, unpack
from bytequilt.data.sources import documents

TOOLS = {
    ".gz": ("gzip", gzip.compress),
    ".bz2": ("bzip2", bz2.compress),
    ".xz": ("xz", lzma.compress),
    ".zst": ("zstd", zstandard.ZstdCompressor(write_checksum=True).compress),
}
WARNING = 2
"""Exit code of gzip alone where it read everything and passed over what follows."""


def ours(path) -> bytes | None:
    """What this package reads, None where it calls the file damaged."""
    try:
        with unpack.reading(str(path)), unpack.open_file(path, str(path)) as stream:
            return unpack.read_whole(stream, str(path))
    except UserError:
        return None


def theirs(path, tool: str) -> bytes | None:
    done = subprocess.run([tool, "-dc"], input=path.read_bytes(), capture_output=True)
    read = done.returncode == 0 or (tool == "gzip" and done.returncode == WARNING)
    return done.stdout if read else None


@st.composite
def streams(draw, compress) -> bytes:
    """Members, padding and garbage in any order; then perhaps cut, or a byte changed."""
    member = st.binary(max_size=40).map(compress)
    zeros = st.integers(1, 9).map(bytes)
    part = st.one_of(member, member, member, zeros, st.sampled_from([b"x", b"garbage"]))
    data = draw(member) + b"".join(draw(st.lists(part, max_size=3)))
    change = draw(st.sampled_from(["none", "none", "cut", "damage", "prefix"]))
    if change == "cut":
        data = data[: draw(st.integers(0, len(data)))]
    elif change == "prefix":
        data += compress(b"more text")[: draw(st.integers(1, 12))]
    elif change == "damage" and data:
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :]
    return data


@pytest.mark.parametrize("suffix", TOOLS)
def test_reads_what_the_tool_reads_and_refuses_what_it_refuses(tmp_path, suffix):
    tool, compress = TOOLS[suffix]
    if shutil.which(tool) is None:
        pytest.skip(f"no {tool} here")
    path = tmp_path / f"x{suffix}"

    @settings(deadline=None, max_examples=120, derandomize=True)
    @given(streams(compress))
    def agree(data):
        path.write_bytes(data)
        assert ours(path) == theirs(path, tool)

    agree()


@pytest.mark.parametrize("suffix", TOOLS)
def test_large_members_come_in_bounded_pieces(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"x{suffix}"
    data = bytes(range(256)) * 20_000 + bytes(5_000_000)
    path.write_bytes(TOOLS[suffix][1](data) + TOOLS[suffix][1](b"end"))
    assert ours(path) == data + b"end"
    read = 0

    class Counting(unpack._Stream):
        def readinto(self, buffer):
            nonlocal read
            read += (size := super().readinto(buffer))
            return size

    monkeypatch.setattr(unpack, "_Stream", Counting)
    monkeypatch.setattr(unpack, "LARGEST", 100_000)
    assert ours(path) is None
    assert read <= 2 * unpack.CHUNK


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "LARGEST", 10)
    (tmp_path / "x").write_bytes(b"0123456789\n")
    with unpack.open_file(tmp_path / "x", "x") as stream, pytest.raises(UserError, match="line of more than 10 bytes"):
        list(unpack.lines(stream, "x"))


ENDLESS = {
    "a.txt.xz": b"a" * 20_000,
    "a.jsonl.xz": b'{"text": "' + b"a" * 20_000,
    "a.json.xz": b"[" + b"1," * 20_000,
    "a.csv.xz": b"text\n" + b"a" * 20_000,
    "quoted.csv.xz": b'text\n"' + b"a\n" * 10_000,
    "wide.csv.xz": b"text\n" + b'"a\n",' * 10_000,
    "blank.csv.xz": b"text\n" + b"\n" * 200,
    "blank.jsonl.xz": b'{"text": "a"}\n' + b" \n" * 200,
    "a.parquet.gz": b"PAR1" + bytes(20_000),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_reading_stops_at_a_limit_whatever_the_kind_of_file(tmp_path, name, monkeypatch):
    """A small compressed file may unpack to any size: no more than a limit is read or kept, and one line says so."""
    for room, limit in ((unpack, "LARGEST"), (records, "LARGEST_ROW")):
        monkeypatch.setattr(room, limit, 10_000)
    for room in (unpack, records):
        monkeypatch.setattr(room, "BLANKS", 100)
    path = tmp_path / name
    path.write_bytes((gzip if name.endswith("gz") else lzma).compress(ENDLESS[name]))
    with pytest.raises(UserError, match=rf"{name}.* more than (10,000|100) ") as error:
        list(documents(str(path), DataConfig()))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", TOOLS)
def test_damage_is_one_line_with_the_name(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(TOOLS[suffix][1](b"text" * 100)[:-5])
    with pytest.raises(UserError, match=rf"x\{suffix}.*cut short or damaged") as error, unpack.reading(str(path)):
        unpack.read_whole(unpack.open_file(path, str(path)), str(path))
    assert "\n" not in str(error.value)


def test_what_is_ignored_is_told(tmp_path, capsys):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"text") + b"garbage")
    assert ours(path) == b"text"
    assert "what follows its compressed data is ignored" in capsys.readouterr().err
