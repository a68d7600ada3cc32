"""A limit on what is read before a byte: stated with the figure, and nothing else where no document meets it."""

import json

import pytest
from conftest import blt, noise, patcher

from bytequilt import LM, load
from bytequilt.cli import main
from bytequilt.evals import corpora
from bytequilt.infer import score


@pytest.fixture
def model(tmp_path):
    LM(blt(), patcher("space")).save(tmp_path / "model")
    return str(tmp_path / "model")


def measured(capfd, *arguments):
    main(["eval", *map(str, arguments), "--json"])
    return json.loads(capfd.readouterr().out)


def test_a_context_that_no_document_meets_changes_nothing(model, tmp_path, capfd):
    (tmp_path / "text").write_bytes(noise(300))
    full = measured(capfd, model, tmp_path / "text")
    assert measured(capfd, model, tmp_path / "text", "--context", "301") == full
    assert "context" not in full
    assert full["bpb"] == pytest.approx(load(model).bits_per_byte(noise(300)))


def test_a_context_is_read_and_stated(model, tmp_path, capfd):
    (tmp_path / "text").write_bytes(noise(200))
    result = measured(capfd, model, tmp_path / "text", "--context", "32")
    assert result["context"] == 32
    (wanted,) = load(model).score_documents([noise(200)], context=32)
    assert result["bpb"] == pytest.approx(wanted.bits_per_byte)
    assert result["bpb"] != pytest.approx(load(model).bits_per_byte(noise(200)))
    assert result["bytes"] == 200


def test_a_long_document_is_cut_and_said_so(model, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(corpora, "FULL", 100)
    (tmp_path / "text").write_bytes(noise(400))
    assert measured(capfd, model, tmp_path / "text")["context"] == 100
    main(["eval", model, str(tmp_path / "text")])
    assert "context of at most 100" in capfd.readouterr().out


@pytest.mark.parametrize("long", [8, 10**6], ids=["in chunks", "side by side"])
def test_what_is_read_twice_is_counted_once(monkeypatch, long):
    """The patches of windows that overlap, and the ids that the progress is told, are those of the text."""
    monkeypatch.setattr(score, "LONG", long)
    lm, counted = LM(blt(), patcher("fixed")), []
    (whole,) = lm.score_documents([noise(300)])
    (windows,) = lm.score_documents([noise(300)], counted.append, context=60)
    assert sum(counted) == 302
    assert windows.patches == pytest.approx(whole.patches, rel=0.05)


@pytest.mark.parametrize("text", ["a" * 100, "abc"])
def test_documents_without_end_are_refused(model, tmp_path, capfd, monkeypatch, text):
    """Each document is small; together they would fill the memory."""
    monkeypatch.setattr(corpora, "LARGEST", 10_000)
    (tmp_path / "a.jsonl").write_text((json.dumps({"text": text}) + "\n") * 1000)
    with pytest.raises(SystemExit, match="2"):
        main(["eval", model, str(tmp_path / "a.jsonl")])
    assert "fill more than 10,000 bytes of memory" in capfd.readouterr().err


@pytest.mark.parametrize("context", ["0", "1", "-5"])
def test_a_context_of_nothing_is_refused(model, tmp_path, capfd, context):
    (tmp_path / "text").write_bytes(b"abc")
    with pytest.raises(SystemExit) as stop:
        main(["eval", model, str(tmp_path / "text"), "--context", context])
    assert stop.value.code == 2
    assert len(capfd.readouterr().err.splitlines()) == 1
