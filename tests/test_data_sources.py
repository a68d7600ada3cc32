import bz2
import gzip
import io
import json
import lzma
import os
import sys
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from bytequilt.config import DataConfig, UserError, load_recipe
from bytequilt.data.corpus import Corpus
from bytequilt.data.sources import Document, documents, parts
from bytequilt.data.walk import identity
from bytequilt.overrides import override

RECORDS = [{"id": "a", "text": "one"}, {"text": "zwei ä"}, {"id": 7, "text": "\udcff\n"}]
WANTED = [("a", b"one"), (None, "zwei ä".encode()), ("7", b"\xff\n")]
COMPRESS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def read(source, **config) -> list[Document]:
    return list(documents(str(source), DataConfig(**config)))


def jsonl(records) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def parquet(records, kind=None) -> bytes:
    out = io.BytesIO()
    data = [r["text"].encode("utf-8", "surrogateescape") for r in records]
    ids = pa.array([str(r["id"]) if "id" in r else None for r in records])
    pq.write_table(pa.table({"id": ids, "text": pa.array(data, kind or pa.binary())}), out)
    return out.getvalue()


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("kind", ["txt", "jsonl", "ndjson", "parquet"])
def test_every_format_and_compression(tmp_path, kind, ending):
    path = tmp_path / f"x.{kind}{ending}"
    raw = {"txt": bytes(range(256)), "parquet": parquet(RECORDS)}.get(kind, jsonl(RECORDS) + b"\n")
    path.write_bytes(COMPRESS[ending](raw))
    if kind == "txt":
        assert read(path) == [Document(str(path), raw)]
    else:
        assert [(d.id, d.data) for d in read(path)] == [(id or f"{path}:2", data) for id, data in WANTED]


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_a_compressed_file_cut_short_is_noticed(tmp_path, kind, ending):
    path = tmp_path / f"x.{kind}{ending}"
    path.write_bytes(COMPRESS[ending](jsonl(RECORDS * 100))[:-6])
    with pytest.raises(UserError, match=r"x\.\w+\.\w+.*cut short or damaged"):
        read(path)
    path.write_bytes(b"not compressed at all")
    with pytest.raises(UserError, match="cut short or damaged"):
        read(path)


def test_two_compressed_files_in_one(tmp_path):
    path = tmp_path / "x.txt.zst"
    path.write_bytes(COMPRESS[".zst"](b"one") + COMPRESS[".zst"](b"two"))
    assert read(path)[0].data == b"onetwo"


def test_parquet_of_strings_and_other_columns(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_bytes(parquet(RECORDS[:2], pa.string()))
    assert [d.data for d in read(path)] == [b"one", "zwei ä".encode()]
    with pytest.raises(UserError, match="no column 'body'; it has id, text"):
        read(path, field="body")
    path.write_bytes(b"PAR1 or not")
    with pytest.raises(UserError, match="not a sound Parquet file"):
        read(path)


def test_directory_and_glob_are_sorted_and_hidden_files_skipped(tmp_path):
    for name in ("b.txt", "a/z.txt", "a/c.jsonl", ".hidden", ".git/x.txt", "empty.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jsonl(RECORDS[:1]) if name.endswith("jsonl") else name.encode())
    (tmp_path / "empty.txt").write_bytes(b"")
    assert [d.data for d in read(tmp_path)] == [b"one", b"a/z.txt", b"b.txt"]
    assert [d.data for d in read(tmp_path / "**/*.txt")] == [b"a/z.txt", b"b.txt"]
    (tmp_path / "odd[1].txt").write_bytes(b"odd")
    assert read(tmp_path / "odd[1].txt")[0].data == b"odd"


def test_tables_and_json_documents(tmp_path):
    rows = b'id,text,lang\r\n1,"a, ""b""\nc",en\r\n\r\n2,\xff,ru\r\n'
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbf" + rows)
    (tmp_path / "x.tsv").write_bytes(b"text\tid\nx, y\t1\n")
    (tmp_path / "x.json").write_bytes(json.dumps(RECORDS[:2]).encode())
    (tmp_path / "one.json").write_bytes(json.dumps(RECORDS[0]).encode())
    assert [(d.id, d.data) for d in read(tmp_path / "x.csv")] == [("1", b'a, "b"\nc'), ("2", b"\xff")]
    assert [d.data for d in read(tmp_path / "x.csv", field="lang", where={"id": ("2",)})] == [b"ru"]
    assert [d.data for d in read(tmp_path / "x.tsv")] == [b"x, y"]
    assert [d.data for d in read(tmp_path / "x.json")] == [b"one", "zwei ä".encode()]
    assert [d.data for d in read(tmp_path / "one.json")] == [b"one"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.csv", b"id,body\n1,2\n", "no column 'text'; it has id, body"),
        ("x.csv", b'text\n"open', r"x.csv:2: unexpected end of data"),
        ("x.csv", b"text\na,b\n", "x.csv:2: 2 fields in a table of 1 columns"),
        ("x.tsv", b"id\ttext\n1\n", "x.tsv:2: no field 'text'"),
        ("x.json", b'{"text": "a"}\n{"text": "b"}\n', r"not one JSON document .*\.jsonl"),
        ("x.json", b'{"data": []}', "no field 'text'; the record has data"),
        ("x.json", b"[1, 2]", "must hold one JSON object, or a list of them"),
        ("x.json", b"[" * 100_000, "not one JSON document"),
        ("x.csv", b"", "it is empty"),
        ("x.json", b"", "it is empty"),
    ],
)
def test_tables_and_json_that_are_not_plain_are_refused(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        read(tmp_path / name)


def test_a_file_counts_once_whatever_the_way_to_it(tmp_path):
    for name in ("a/one.txt", "a/b/two.txt", "out/three.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "a/b/up").symlink_to(tmp_path / "a")
    (tmp_path / "a/again").symlink_to(tmp_path / "a")
    (tmp_path / "a/self").symlink_to("self")
    (tmp_path / "a/0.txt").symlink_to(tmp_path / "a/one.txt")
    os.link(tmp_path / "a/one.txt", tmp_path / "a/same.txt")
    (tmp_path / "a/out").symlink_to(tmp_path / "out")
    everything = [b"a/b/two.txt", b"a/one.txt", b"out/three.txt"]
    for source in ("a", "a/**/*.txt", "**/*.txt", "**/**/*.txt", "a/*/../**/*.txt", "*/**/*.txt"):
        assert sorted(d.data for d in read(tmp_path / source)) == everything, source
    assert [d.data for d in read(tmp_path / "a/*.txt")] == [b"a/one.txt"]
    assert [d.data for d in read(tmp_path / "a/**/t*.txt")] == [b"a/b/two.txt", b"out/three.txt"]


def test_files_of_another_source_are_left_out(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    besides = {identity(tmp_path / "b.txt")}
    (part,) = parts(str(tmp_path), DataConfig(), besides)
    assert [d.data for d in part(Counter())] == [b"a"]
    with pytest.raises(UserError, match="no files but those that another source reads"):
        parts(str(tmp_path / "b.txt"), DataConfig(), besides)


def test_what_where_leaves_out_is_counted(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(jsonl([{"text": "a", "lang": lang} for lang in ("en", "ru", "ru")]))
    dropped = Counter()
    (part,) = parts(str(tmp_path / "x.jsonl"), DataConfig(where={"lang": ("en",)}))
    found = part(dropped)
    assert (len(list(found)), dropped["where"]) == (1, 2)


def test_odd_names_end_with_one_line(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for source in ("~$doc.txt", "a\0b", "x" * 1000, str(tmp_path / "pipe"), f"{tmp_path}/{'[' * 900}"):
        with pytest.raises(UserError) as error:
            read(source)
        assert len(str(error.value)) <= 300


def test_a_closed_standard_input_is_told(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="standard input is closed"):
        read("-")


def test_standard_input_is_one_document(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n\n")))
    assert read("-") == [Document("-", b"\xff\n\n")]
    with pytest.raises(UserError, match="- has no documents: it is empty"):
        read("-")


def test_prompt_comes_first_and_where_selects(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(jsonl([{"q": "1+1=", "text": "2", "level": n, "ok": True} for n in (1, 2, 3)] + [{"text": "?"}]))
    found = read(path, prompt_field="q", where={"level": ("1", "3"), "ok": ("True",)})
    assert found == [Document(f"{path}:{line}", b"1+1=2", 4) for line in (1, 3)]
    with pytest.raises(UserError, match="no documents with level = 8 or 9"):
        read(path, where={"level": ("8", "9")})


BAD = [
    (b'{"text": ', "not JSON"),
    (b'{"text": "\xff"}', "not JSON"),
    (b"[1]", "must be a JSON object, not list"),
    (b'{"body": "x"}', "no field 'text'; the record has body"),
    (b'{"text": null}', "field 'text' must be a string, not NoneType"),
    (b'{"text": 3}', "field 'text' must be a string, not int"),
    (b'{"text": "ab\\ud800"}', "lone surrogate at character 2"),
    (b"[" * 100_000, "recursion"),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_a_bad_record_ends_the_run_or_is_skipped(tmp_path, capsys, line, message):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "first"}\n\n' + line + b'\n{"text": "last"}')
    with pytest.raises(UserError, match=f"x.jsonl:3: .*{message}"):
        read(path)
    assert [d.data for d in read(path, skip_bad_records=True)] == [b"first", b"last"]
    out, err = capsys.readouterr()
    assert not out
    assert f"{path}:3: " in err
    assert message in err


def test_names_that_are_not_text_become_valid_ids(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.txt")
    path.write_bytes(b"x")
    (tmp_path / "x.jsonl").write_bytes(b'{"id": "\\ud800", "text": "y"}')
    assert [d.id for d in read(tmp_path)] == ["\\ud800", f"{tmp_path}/\\udcff.txt"]


def test_what_cannot_be_read(tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "empty.jsonl.zst").touch()
    (tmp_path / "void").mkdir()
    for source, message in {
        "missing.txt": "no file at .*missing.txt",
        "missing.parquet.zst": "no file at .*missing.parquet.zst",
        "no*.txt": "no file matches .*no",
        "void": "holds no files",
        "empty.txt": "it is empty",
        "empty.jsonl.zst": "it is empty",
    }.items():
        with pytest.raises(UserError, match=message):
            read(tmp_path / source)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path):
    (tmp_path / "x.txt").touch(mode=0)
    with pytest.raises(UserError, match=r"cannot read .*x\.txt: Permission denied"):
        read(tmp_path / "x.txt")


def test_the_corpus_of_the_package():
    first = next(documents("package:sotu.jsonl.xz", DataConfig()))
    assert first.data.startswith(b"Fellow-Citizens")
    with pytest.raises(UserError, match=r"no corpus named 'x'.*shipped are .*sotu\.jsonl\.xz"):
        read("package:x")


def test_hub(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "validation.jsonl").write_bytes(jsonl([{"text": "one"}, {"text": "two"}]))
    assert [d.data for d in read(f"hf:{tmp_path}:validation")] == [b"one", b"two"]
    with pytest.raises(UserError, match="cannot read hf:"):
        read(f"hf:{tmp_path / 'nothing'}")


def test_missing_extras_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"bytequilt\[data\]"):
        read("hf:x")
    (tmp_path / "x.parquet").touch()
    with pytest.raises(UserError, match=r"bytequilt\[train\]"):
        read(tmp_path / "x.parquet")


def test_own_data_on_the_command_line_resets_what_belongs_to_the_recipes_corpus():
    recipe = load_recipe("tiny").model_copy(update={"data": DataConfig(train=("a",), where={"x": ("1",)}, share=0.2)})
    assert override(recipe, ["--data.train", "b", "c"]).data == DataConfig(train=("b", "c"))
    assert override(recipe, ["--data.share", "0.5", "--data.train", "b"]).data == DataConfig(train=("b",), share=0.5)
    assert override(recipe, ["--data.share", "0.5"]).data == DataConfig(train=("a",), where={"x": ("1",)}, share=0.5)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.7z", "a.lz4", "a.Z", "a.xlsx", "a.zip.xz"])
def test_what_is_not_unpacked_is_refused_and_not_read_as_a_text(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    for source in (tmp_path / name, tmp_path):
        with pytest.raises(UserError, match="not unpacked here"):
            list(documents(str(source), DataConfig()))


@pytest.mark.parametrize(
    "source", ["", "package:", "package:/etc/passwd", "package:../recipes/demo.toml", "hf:", "hf::x"]
)
def test_sources_without_a_name(source):
    pytest.importorskip("datasets")
    with pytest.raises(UserError, match=r"no name|no data set|no corpus named"):
        list(documents(source, DataConfig()))


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "ndjson.gz"])
def test_records_in_utf16_are_named(tmp_path, suffix):
    data = '{"text": "Привет"}\n'.encode("utf-16")
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    with pytest.raises(UserError, match="is not UTF-8 text but UTF-16"):
        list(documents(str(path), DataConfig()))


def test_a_column_that_is_there_twice(tmp_path):
    (tmp_path / "a.csv").write_text("text,text\n1,2\n")
    with pytest.raises(UserError, match="two columns 'text'"):
        list(documents(str(tmp_path / "a.csv"), DataConfig()))


def test_texts_that_are_not_utf8_are_told_once(tmp_path):
    for name, encoding in (("a", "cp1251"), ("b", "utf-16"), ("c", "koi8-r"), ("d", "utf-8")):
        (tmp_path / f"{name}.txt").write_bytes("Мороз и солнце".encode(encoding))
    corpus = Corpus(DataConfig(train=(str(tmp_path),)))
    assert sum(1 for _ in corpus.documents()) >= 4
    assert "a.txt is other bytes (byte 0), not UTF-8, and so are 2 more" in corpus.not_utf8()
