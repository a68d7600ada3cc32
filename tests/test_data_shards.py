import json
from collections import Counter
from contextlib import suppress

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytequilt.config import DataConfig, NgramConfig, RuleConfig, UserError
from bytequilt.data import prepare, shards
from bytequilt.data import sources as sources_module
from bytequilt.data.corpus import paragraph, split_by_bytes
from bytequilt.data.prepare import ingest, score
from bytequilt.data.shards import held_out
from bytequilt.data.sources import Document
from bytequilt.model.ngram import NgramEntropy
from bytequilt.patching.patcher import Patcher


class FirstByte:
    """Scores every id of a text with the text's length, and can break off."""

    rule = RuleConfig(kind="entropy", threshold=1.5)

    def __init__(self, fingerprint="first", calls=10**9):
        self.fingerprint, self.calls, self.seen = fingerprint, calls, []

    def entropies(self, texts, advance=None):
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        self.seen += texts
        if advance:
            advance(sum(map(len, texts)))
        return [np.full(len(text) + 2, len(text), dtype=np.float32) for text in texts]


def corpus(path, count=60, bad=None):
    lines = [json.dumps({"id": str(n), "text": f"{n:03d} " * (1 + n % 7)}) for n in range(count)]
    if bad is not None:
        lines[bad] = "broken"
    path.write_text("\n".join(lines))
    return DataConfig(train=(str(path),), val_every=5, shard_bytes=150)


def contents(folder):
    """Every file of a folder with its rows and what it says of itself."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {
        str(p.relative_to(folder)): (pq.read_table(p).to_pylist(), shards.read_about(p))
        if p.suffix == ".parquet"
        else p.read_bytes()
        for p in files
    }


def rows(folder):
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_ingest_writes_every_document_once_and_counts(tmp_path):
    config = corpus(tmp_path / "x.jsonl")
    manifest = ingest(config, tmp_path / "out")
    train, val = rows(tmp_path / "out/train"), rows(tmp_path / "out/val")
    assert [int(r["id"]) for r in val] == list(range(4, 60, 5))
    assert [int(r["id"]) for r in train] == [n for n in range(60) if n % 5 != 4]
    assert pq.read_schema(tmp_path / "out/train/000000.parquet").equals(shards.CORPUS_SCHEMA)
    for split, found in (("train", train), ("val", val)):
        assert manifest[split]["documents"] == len(found) == manifest[split]["sources"][0]["documents"]
        assert manifest[split]["bytes"] == sum(len(r["data"]) for r in found)
        assert manifest[split]["shards"] == len(list((tmp_path / "out" / split).iterdir())) > 1
    assert ingest(config, tmp_path / "out") == manifest == prepare.read_manifest(tmp_path / "out")


def test_separate_held_out_sources_and_prompts(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"q": "ab", "text": "cd"}\n')
    (tmp_path / "b.jsonl").write_text('{"q": "x", "text": "y"}\n{"q": "", "text": "zz"}\n')
    (tmp_path / "c.jsonl").write_text('{"q": "ab", "text": "cd"}\n')
    config = DataConfig(train=(str(tmp_path / "[ac].jsonl"),), val=(str(tmp_path / "b.jsonl"),), prompt_field="q")
    ingest(config, tmp_path / "out")
    assert [(r["source"], r["prompt"], r["data"]) for r in rows(tmp_path / "out/train")] == [
        (0, 2, b"abcd"),
        (0, 2, b"abcd"),
    ]
    found = held_out(tmp_path / "out")
    assert [(d.prompt, d.data) for d in found] == [(1, b"xy"), (0, b"zz")]
    assert [d.data for d in held_out(tmp_path / "out", 3)] == [b"xy", b"z"]
    assert [d.data for d in held_out(tmp_path / "out", 2)] == [b"xy"]


def test_an_interrupted_ingest_goes_on(tmp_path):
    config = corpus(tmp_path / "x.jsonl", bad=50)
    with pytest.raises(UserError, match=r"x\.jsonl:51: not JSON"):
        ingest(config, tmp_path / "out")
    assert not (tmp_path / "out/manifest.json").exists()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/train").iterdir()}
    assert kept
    corpus(tmp_path / "x.jsonl")
    ingest(config, tmp_path / "out")
    assert all(p.stat().st_mtime_ns == time for p, time in kept.items())
    ingest(config, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_changed_configuration_or_a_lost_shard_is_done_again(tmp_path):
    config = corpus(tmp_path / "x.jsonl")
    before = ingest(config, tmp_path / "out")
    (tmp_path / "out/train/000001.parquet").write_bytes(b"PAR1")
    assert ingest(config, tmp_path / "out") == before
    larger = config.model_copy(update={"shard_bytes": 10_000})
    manifest = ingest(larger, tmp_path / "out")
    assert manifest["train"]["shards"] == 1
    ingest(larger, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_ranks_share_the_shards(tmp_path, monkeypatch):
    config = corpus(tmp_path / "x.jsonl")
    ingest(config, tmp_path / "one")
    score(tmp_path / "one", tmp_path / "one/scored", FirstByte())
    monkeypatch.setenv("WORLD_SIZE", "3")
    written = []
    for rank in (2, 0, 1):
        monkeypatch.setenv("RANK", str(rank))
        assert not (tmp_path / "three/manifest.json").exists()
        before = set((tmp_path / "three").rglob("*.parquet"))
        ingest(config, tmp_path / "three")
        written.append(set((tmp_path / "three").rglob("*.parquet")) - before)
    assert all(written)
    seen = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        patcher = FirstByte()
        score(tmp_path / "three", tmp_path / "three/scored", patcher)
        seen += patcher.seen
    assert len(seen) == len(rows(tmp_path / "three/train"))
    assert contents(tmp_path / "three") == contents(tmp_path / "one")


@pytest.mark.parametrize("change", [{}, {"share": 0.7}, {"where": {"kind": ("a",)}}, {"val": True}])
def test_ranks_read_the_files_of_their_own_shards(tmp_path, monkeypatch, change):
    """Whatever the number of processes, the corpus is that of one, and no file is read more than three times."""
    reads = Counter()
    for name in ("text", "more"):
        (tmp_path / name).mkdir()
        for number in range(12):
            lines = [json.dumps({"text": f"{name} {number} {n} " * 3, "kind": "ab"[n % 2]}) for n in range(9)]
            (tmp_path / name / f"{number:02d}.jsonl").write_text("\n".join(lines))
    sources = {"train": (f"{tmp_path}/text", f"{tmp_path}/more")}
    change = {"val": (f"{tmp_path}/more/0*.jsonl",)} if "val" in change else change
    config = DataConfig(**sources | {"val_every": 5, "shard_bytes": 300} | change)
    wanted = ingest(config, tmp_path / "one")
    original = sources_module._from_file

    def from_file(path, *rest):
        reads[path] += 1
        return original(path, *rest)

    monkeypatch.setattr(sources_module, "_from_file", from_file)
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in (1, 2, 0):
        monkeypatch.setenv("RANK", str(rank))
        manifest = ingest(config, tmp_path / "three")
    assert manifest == wanted
    assert contents(tmp_path / "three") == contents(tmp_path / "one")
    assert len(reads) == 24
    assert max(reads.values()) <= 1 + 2  # counted once, then read by at most two neighbours
    assert sum(reads.values()) < 24 * 2.5  # of 24 * 3


def test_a_source_that_changes_while_ranks_read_it_is_told(tmp_path, monkeypatch):
    for number in range(8):
        (tmp_path / f"{number}.txt").write_text("some text " * 9)
    config = DataConfig(train=(f"{tmp_path}/?.txt",), val_every=4, shard_bytes=250)
    monkeypatch.setenv("WORLD_SIZE", "2")
    ingest(config, tmp_path / "out")
    for number in range(8):
        (tmp_path / f"{number}.txt").write_text("longer than it was " * 30)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UserError, match="changed while it was read"):
        ingest(config, tmp_path / "out")


def test_nothing_to_learn_or_to_hold_out(tmp_path):
    with pytest.raises(UserError, match="names no source"):
        ingest(DataConfig(), tmp_path / "out")
    (tmp_path / "x.jsonl").write_text('{"q": "a", "text": "b"}')
    with pytest.raises(UserError, match="no text is left to hold out"):
        ingest(DataConfig(train=(str(tmp_path / "x.jsonl"),), prompt_field="q"), tmp_path / "out")
    with pytest.raises(UserError, match="no text is left to train on"):
        ingest(corpus(tmp_path / "x.jsonl").model_copy(update={"share": 1e-9}), tmp_path / "out")
    assert not (tmp_path / "out/manifest.json").exists()


def test_few_documents_are_split_by_bytes(tmp_path):
    book = b"".join(b"paragraph %03d\nof two lines\n\n" % n for n in range(100))
    (tmp_path / "book.txt").write_bytes(book)
    config = DataConfig(train=(str(tmp_path / "book.txt"),))
    manifest = ingest(config, tmp_path / "out")
    train, val = (b"".join(row["data"] for row in rows(tmp_path / "out" / split)) for split in ("train", "val"))
    assert train + val == book
    assert train.endswith(b"\n\n")
    assert len(book) / 10 <= len(val) < len(book) / 10 + 30
    assert (manifest["train"]["bytes"], manifest["val"]["bytes"]) == (len(train), len(val))


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=30), st.booleans()), min_size=2, max_size=8))
def test_a_split_by_bytes_loses_nothing_and_cuts_no_prompt(parts):
    given = [(0, Document(str(n), data, int(prompted))) for n, (data, prompted) in enumerate(parts)]
    found = list(split_by_bytes(given))
    assert b"".join(document.data for _, _, document in found) == b"".join(data for data, _ in parts)
    assert [held for held, _, _ in found] == sorted(held for held, _, _ in found)
    assert not found[0][0]
    assert found[-1][0] or parts[-1][1]
    whole = {document.data for _, document in given}
    assert all(document.data in whole for _, _, document in found if document.prompt)


def test_a_cut_falls_into_no_character():
    text = "\u65e5" * 20
    for near in range(1, 60):
        assert paragraph(text.encode(), near) == (near - near % 3 or near)
    assert paragraph(b"one two\nthree four", 17) == 14
    assert paragraph(b"one two\nthree four\n\nfive", 23) == 20


def test_a_held_out_file_is_never_trained_on(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name)
    config = DataConfig(train=(str(tmp_path), str(tmp_path / "*.txt")), val=(str(tmp_path / "b.txt"),))
    with pytest.raises(UserError, match="no files but those that another source reads"):
        ingest(config, tmp_path / "out")
    ingest(config.model_copy(update={"train": (str(tmp_path / "*.txt"),)}), tmp_path / "out")
    assert [row["data"] for row in rows(tmp_path / "out/train")] == [b"a", b"c"]
    assert [row["data"] for row in rows(tmp_path / "out/val")] == [b"b"]


def test_what_is_left_out_is_told(tmp_path, capsys):
    lines = [json.dumps({"id": str(n), "text": "x", "lang": "ru" if n % 4 else "en"}) for n in range(400)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    config = DataConfig(train=(str(tmp_path / "x.jsonl"),), where={"lang": ("ru",)}, share=0.5)
    manifest = ingest(config, tmp_path / "out")
    left = 300 - manifest["train"]["documents"] - manifest["val"]["documents"]
    wanted = f"corpus: of 400 documents, `where` (lang = ru) leaves out 100 and `share` (0.5) leaves out {left}\n"
    assert capsys.readouterr().err == wanted
    assert left > 100
    ingest(corpus(tmp_path / "x.jsonl"), tmp_path / "other")
    assert capsys.readouterr().err == ""


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(shards, "GROUP_BYTES", 40)


def test_score_adds_an_entropy_for_every_id(tmp_path, small_groups):
    ingest(corpus(tmp_path / "x.jsonl"), tmp_path)
    done = []
    score(tmp_path, tmp_path / "scored", FirstByte(), done.append)
    found = rows(tmp_path / "scored")
    assert [{k: v for k, v in r.items() if k != "entropies"} for r in found] == rows(tmp_path / "train")
    assert all(r["entropies"] == [len(r["data"])] * (len(r["data"]) + 2) for r in found)
    first = tmp_path / "scored/000000.parquet"
    assert pq.read_schema(first).equals(shards.SCORED_SCHEMA)
    assert pq.ParquetFile(first).num_row_groups == pq.ParquetFile(tmp_path / "train/000000.parquet").num_row_groups > 1
    about = shards.read_about(first)
    assert (about["format"], about["patcher"]) == (shards.FORMAT, "first")
    assert RuleConfig(**about["rule"]) == FirstByte.rule
    assert sum(done) == sum(len(r["data"]) for r in found)


def test_the_bar_moves_within_a_long_document_and_ends_at_its_total(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "CALL_BYTES", 30)
    manifest = ingest(corpus(tmp_path / "x.jsonl"), tmp_path)
    done = []
    score(tmp_path, tmp_path / "scored", FirstByte(), done.append)
    assert sum(done) == manifest["train"]["bytes"]
    assert max(done) <= 30
    patcher, told = Patcher(RuleConfig(kind="entropy", threshold=1.0), NgramEntropy(NgramConfig(rows=64))), []
    patcher.entropies([b"x" * 10_000, b"y" * 7_000], told.append)
    assert sum(told) == 17_000
    assert len(told) > 1


def test_an_interrupted_score_goes_on(tmp_path, capsys):
    ingest(corpus(tmp_path / "x.jsonl"), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        score(tmp_path, tmp_path / "scored", FirstByte(calls=2))
    assert [p.name for p in sorted((tmp_path / "scored").iterdir())] == ["000000.parquet", "000001.parquet"]
    assert "stopped: 2 finished shards are kept in" in capsys.readouterr().err
    second, done = FirstByte(), []
    score(tmp_path, tmp_path / "scored", second, done.append)
    assert rows(tmp_path / "train")[0]["data"] not in second.seen
    assert sum(done) == sum(len(r["data"]) for r in rows(tmp_path / "train"))
    score(tmp_path, tmp_path / "whole", FirstByte())
    assert contents(tmp_path / "scored") == contents(tmp_path / "whole")


def test_another_patcher_or_corpus_scores_again(tmp_path):
    config = corpus(tmp_path / "x.jsonl")
    ingest(config, tmp_path)
    score(tmp_path, tmp_path / "scored", FirstByte())
    (tmp_path / "scored/000000.parquet").write_bytes(b"PAR1")
    for patcher, count in ((FirstByte(), 1), (FirstByte(), 0), (FirstByte("second"), 48)):
        score(tmp_path, tmp_path / "scored", patcher)
        assert len(patcher.seen) >= count
        assert bool(patcher.seen) == bool(count)
    ingest(config.model_copy(update={"shard_bytes": 1000}), tmp_path)
    score(tmp_path, tmp_path / "scored", FirstByte("second"))
    assert [r["id"] for r in rows(tmp_path / "scored")] == [r["id"] for r in rows(tmp_path / "train")]


def test_score_refuses_what_is_not_finished_or_not_whole(tmp_path):
    with pytest.raises(UserError, match="not a finished corpus"):
        score(tmp_path, tmp_path / "scored", FirstByte())
    ingest(corpus(tmp_path / "x.jsonl"), tmp_path)
    first = tmp_path / "train/000000.parquet"
    first.write_bytes(first.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"000000\.parquet is not a whole shard: delete it"):
        score(tmp_path, tmp_path / "scored", FirstByte())


def test_a_shard_with_damage_inside_is_named(tmp_path):
    ingest(corpus(tmp_path / "x.jsonl"), tmp_path)
    first = tmp_path / "train/000000.parquet"
    data = first.read_bytes()
    first.write_bytes(data[:8] + bytes(50) + data[58:])
    with pytest.raises(UserError, match=r"000000\.parquet is damaged .*: delete it"):
        score(tmp_path, tmp_path / "scored", FirstByte())
    assert not list((tmp_path / "scored").glob("*"))


def test_a_bit_that_is_wrong_is_never_read_over(tmp_path):
    ingest(corpus(tmp_path / "x.jsonl"), tmp_path)
    first = tmp_path / "train/000000.parquet"
    data, wanted, refused = first.read_bytes(), list(shards.row_groups(first)), 0
    end = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for place in range(4, end):  # all before what the file says of itself
        first.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        with suppress(UserError):
            assert list(shards.row_groups(first)) == wanted, place
            refused -= 1
        refused += 1
    assert refused > 0.8 * (end - 4)


def test_leftovers_of_interrupted_writers_go(tmp_path):
    ingest(corpus(tmp_path / "x.jsonl"), tmp_path)
    (tmp_path / "scored").mkdir()
    (tmp_path / "scored/.000000.parquet.123.partial").write_bytes(b"half")
    score(tmp_path, tmp_path / "scored", FirstByte())
    assert all(path.suffix == ".parquet" for path in (tmp_path / "scored").iterdir())


def test_a_shard_of_another_format_or_patcher_is_named(tmp_path, monkeypatch):
    ingest(corpus(tmp_path / "x.jsonl"), tmp_path)
    first = tmp_path / "train/000000.parquet"
    with pytest.raises(UserError, match=r"000000\.parquet was not scored by this patcher \(other\): delete it"):
        shards.check_patcher(first, shards.read_about(first), "other")
    monkeypatch.setattr(shards, "FORMAT", 2)
    with pytest.raises(UserError, match="is a shard of format 1, and this is format 2: delete it"):
        shards.read_about(first)


def test_a_patcher_that_miscounts_is_noticed(tmp_path):
    class Short(FirstByte):
        def entropies(self, texts, advance=None):
            return [values[1:] for values in super().entropies(texts)]

    ingest(corpus(tmp_path / "x.jsonl"), tmp_path)
    with pytest.raises(ValueError, match="one entropy for each id"):
        score(tmp_path, tmp_path / "scored", Short())
    assert not list((tmp_path / "scored").iterdir())
