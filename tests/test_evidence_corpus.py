"""The texts of the Russian and the code study: no text in two splits, and the same whenever they are made."""

import importlib.util
import json
import lzma
import random
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "evidence_corpus.py"
SPEC = importlib.util.spec_from_file_location("evidence_corpus", SCRIPT)
script = sys.modules["evidence_corpus"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(script)


def record(number: int, lang: str = "ru", text: str | None = None) -> dict:
    return {"id": f"d{number}", "src": f"s{number % 2}", "lang": lang, "text": text or f"Документ номер {number}. " * 9}


def written(folder: Path, records: dict[str, list[dict]]) -> Path:
    (folder / "multilingual").mkdir(parents=True)
    for split, lines in records.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "multilingual" / f"{split}.jsonl.xz").write_bytes(lzma.compress(text.encode()))
    return folder


def texts(folder: Path) -> dict[str, list[str]]:
    return {
        split: [json.loads(line)["text"] for line in lzma.open(folder / f"{split}.jsonl.xz", "rt", encoding="utf-8")]
        for split in ("train", "val", "test")
    }


@pytest.fixture
def records(monkeypatch):
    """A collection with a text twice in it, one that is held out as well, and another language."""
    monkeypatch.setattr(script, "TEST_BYTES", 3000)
    train = [record(number) for number in range(60)]
    train += [record(100, text=train[0]["text"]), record(101, text="held out"), record(102, "uk")]
    return {"train": train, "val": [record(number) for number in range(200, 210)] + [record(101, text="held out")]}


def test_no_text_is_in_two_splits_or_twice_in_any(records, tmp_path, capsys):
    data = written(tmp_path / "data", records)
    assert script.main([str(data), "russian", "--out", str(tmp_path / "out")]) == 0
    splits = texts(tmp_path / "out")
    everything = [text for part in splits.values() for text in part]
    assert len(everything) == len(set(everything)) == 60 + 11  # all of it once: the collection is small
    assert "held out" in splits["val"]
    assert record(102)["text"] not in everything  # of another language
    assert 3000 <= sum(len(text.encode()) for text in splits["test"]) < 3500
    manifest = json.loads(capsys.readouterr().out)
    for split, part in splits.items():
        assert sum(source["documents"] for source in manifest[split].values()) == len(part)
        assert sum(source["bytes"] for source in manifest[split].values()) == sum(len(t.encode()) for t in part)


def test_the_order_of_lines_does_not_matter_and_training_text_is_cut(records, tmp_path):
    first = written(tmp_path / "a", records)
    second = written(tmp_path / "b", {split: random.Random(3).sample(r, len(r)) for split, r in records.items()})
    for name, data in {"x": first, "y": second}.items():
        assert script.main([str(data), "russian", "--out", str(tmp_path / name), "--megabytes", "0.004"]) == 0
    x, y = texts(tmp_path / "x"), texts(tmp_path / "y")
    assert x == y
    assert 4000 <= sum(len(text.encode()) for text in x["train"]) < 4500


def test_what_is_missing_is_told(records, tmp_path, capsys):
    assert script.main([str(tmp_path), "code"]) == 2
    assert "there is no" in capsys.readouterr().err
    data = written(tmp_path / "data", records | {"val": [record(1, "uk")]})
    assert script.main([str(data), "russian", "--out", str(tmp_path / "out")]) == 2
    assert "has no text for val" in capsys.readouterr().err
