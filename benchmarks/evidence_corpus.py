"""The texts of the studies `evidence-russian` and `evidence-code`, out of larger collections that have no test split.

    python benchmarks/evidence_corpus.py DATA russian       # writes russian/{train,val,test}.jsonl.xz and manifest.json
    python benchmarks/evidence_corpus.py DATA code --megabytes 20
    bytequilt compare evidence-russian                      # reads them from the same directory

DATA has folders `multilingual` (for Russian) and `code`, each with `train.jsonl.xz` and `val.jsonl.xz`, whose lines
have `id`, `src`, `lang` and `text`. The documents of `train` are ordered by a hash of their text: the first make the
test split, the next ones the training split, of so many megabytes. Documents of equal text have equal hashes and are
taken once; held-out documents that also stand in `train` are taken out of it. So no text is in two splits, and the same
DATA makes the same corpus, whatever the order of its lines.
"""

import argparse
import hashlib
import json
import lzma
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bytequilt.config import UserError
from bytequilt.files import write_bytes, write_json

Record = dict[str, str]
Documents = dict[bytes, Record]
"""By the hash of the text, in the order of the hashes."""

PARTS = {"russian": ("multilingual", "ru"), "code": ("code", "python")}
"""The folder of each corpus in DATA, and the language of its documents."""
TEST_BYTES = VAL_BYTES = 1_000_000


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with multilingual and code")
    parser.add_argument("corpus", choices=PARTS)
    parser.add_argument("--out", type=Path, help="folder to write; by default the name of the corpus")
    parser.add_argument("--megabytes", type=float, default=20.0, help="of training text, about, or all that there is")
    options = parser.parse_args(arguments)
    try:
        manifest = build(options.data, options.corpus, options.out or Path(options.corpus), options.megabytes * 1e6)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(manifest, indent=2))
    return 0


def build(data: Path, corpus: str, out: Path, size: float) -> dict[str, Any]:
    """Write the three splits, and return their documents and bytes by source. Raises UserError for missing text."""
    folder, language = PARTS[corpus]
    held_out = documents(data / folder / "val.jsonl.xz", language)
    texts = documents(data / folder / "train.jsonl.xz", language)
    others = {key: record for key, record in texts.items() if key not in held_out}
    test = taken(others, TEST_BYTES)
    train = taken({key: record for key, record in others.items() if key not in test}, size)
    splits = {"train": train, "val": taken(held_out, VAL_BYTES), "test": test}
    out.mkdir(parents=True, exist_ok=True)
    for name, chosen in splits.items():
        if not chosen:
            raise UserError(f"{data / folder} has no text for {name}")
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in chosen.values())
        write_bytes(out / f"{name}.jsonl.xz", lzma.compress(lines.encode(), preset=6))
    manifest = {name: counted(chosen.values()) for name, chosen in splits.items()}
    write_json(out / "manifest.json", manifest, indent=2)
    return manifest


def documents(path: Path, language: str) -> Documents:
    """The documents of a file in a language, each text once. Raises UserError where there is no such file."""
    if not path.is_file():
        raise UserError(f"there is no {path}")
    return dict(sorted(_hashed(path, language)))


def _hashed(path: Path, language: str) -> Iterator[tuple[bytes, Record]]:
    seen = set[bytes]()
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            key = hashlib.sha256(record["text"].encode()).digest()
            if record["lang"] == language and key not in seen:
                seen.add(key)
                yield key, record


def taken(texts: Documents, size: float) -> Documents:
    """The first documents that have so many bytes together; all where they have fewer."""
    chosen, done = Documents(), 0
    for key, record in texts.items():
        if done >= size:
            break
        chosen[key] = record
        done += len(record["text"].encode())
    return chosen


def counted(records: Iterable[Record]) -> dict[str, dict[str, int]]:
    """Documents and bytes of text by source."""
    counts: dict[str, dict[str, int]] = {}
    for record in records:
        own = counts.setdefault(record["src"], {"documents": 0, "bytes": 0})
        own["documents"] += 1
        own["bytes"] += len(record["text"].encode())
    return dict(sorted(counts.items()))


if __name__ == "__main__":
    sys.exit(main())
