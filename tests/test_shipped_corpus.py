"""The corpus of the shipped model: permitted sources alone, whole languages left out, and the same whenever made."""

import importlib.util
import json
import lzma
import sys
from pathlib import Path

import pytest

from bytequilt.evals.words import is_held_out

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "shipped_corpus.py"
SPEC = importlib.util.spec_from_file_location("shipped_corpus", SCRIPT)
corpus = sys.modules["shipped_corpus"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(corpus)

SOURCES = {
    "english": [("sotu", "en"), ("brown", "en"), ("debian_descriptions", "en"), ("python_doc", "en")],
    "multilingual": [
        ("bible", "ru"),
        ("bible", "ko"),
        ("bible", "fr"),
        ("fortunes", "ru"),
        ("libreoffice_help", "ko"),
        ("libreoffice_help", "en"),
        ("ua_gec", "uk"),
    ],
    "code": [("django", "python")],
}
PERMITTED = {
    ("sotu", "en"),
    ("python_doc", "en"),
    ("bible", "ru"),
    ("bible", "fr"),
    ("libreoffice_help", "ko"),
    ("ua_gec", "uk"),
    ("django", "python"),
}
PAGE = (
    '<!doctype html>\n<html data-code="{0}" data-iso6393="{0}" dir="ltr"><head><title>{0}</title></head>'
    "<body><article><p>{1}</p></article></body></html>"
)


@pytest.fixture
def data(tmp_path):
    for folder, sources in SOURCES.items():
        for split in ("train", "val"):
            lines = [
                {
                    "id": f"{src}-{lang}-{number}",
                    "src": src,
                    "lang": lang,
                    "text": f"{split} {src} {lang} {number} " * 40,
                }
                for src, lang in sources
                for number in range(20)
            ]
            path = tmp_path / "data" / folder / f"{split}.jsonl.xz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(lzma.compress("\n".join(map(json.dumps, lines)).encode()))
    pages = tmp_path / "package" / "declaration"
    pages.mkdir(parents=True)
    for number in range(30):
        (pages / f"l{number}.html").write_text(PAGE.format(f"l{number}", f"Право {number}. " * 99), encoding="utf-8")
    return tmp_path


def lines(path):
    return [json.loads(line) for line in lzma.decompress(path.read_bytes()).splitlines()]


def test_sources_are_permitted_and_parts_have_their_shares(data):
    manifest = corpus.build(data / "data", data / "out", data / "package", 0.2)
    train = lines(data / "out" / "train.jsonl.xz")
    sources = {(one["src"], one["lang"]) for one in train if one["src"] not in ("udhr", "questions")}
    assert sources == PERMITTED
    for part, share in corpus.SHARES.items():
        assert manifest[part]["bytes"] == pytest.approx(share * 0.2e6, rel=0.2)
    assert all(one["text"].startswith("train") for one in train if one["src"] in ("sotu", "bible"))
    assert all(one["text"].startswith("val") for one in lines(data / "out" / "val.jsonl.xz"))


def test_held_out_declarations_stay_out(data):
    corpus.build(data / "data", data / "out", data / "package", 0.2)
    languages = {one["lang"] for one in lines(data / "out" / "train.jsonl.xz") if one["src"] == "udhr"}
    assert languages == {f"l{number}" for number in range(30) if not is_held_out(f"l{number}")}
    assert len(languages) < 30


def test_only_questions_have_a_part_that_is_not_learnt(data):
    corpus.build(data / "data", data / "out", data / "package", 0.2)
    for one in lines(data / "out" / "train.jsonl.xz"):
        assert bool(one["prompt"]) == (one["src"] == "questions")


def test_the_same_data_make_the_same_corpus(data):
    for out in ("out", "again"):
        corpus.build(data / "data", data / out, data / "package", 0.1)
    assert (data / "out" / "train.jsonl.xz").read_bytes() == (data / "again" / "train.jsonl.xz").read_bytes()
