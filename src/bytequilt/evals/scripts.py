"""Patch sizes by script: how many bytes, characters and bits a patch has in each writing system."""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any

import numpy as np
import torch

from ..codec import encode
from ..lm import LM
from ..patching import rules
from .corpora import texts

OTHER = "other"
NAMES = {"CJK": "Han", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "KATAKANA-HIRAGANA": "Japanese"} | {
    script.upper(): script
    for script in ("Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Devanagari", "Thai", "Hangul", "Ethiopic")
}
"""Script names by the first word of a character's Unicode name."""
EMOJI = 0x1F000  # first code point from which symbols are pictures (emoji)


@cache
def script_of(character: str) -> str | None:
    """The script of a character; None for characters of all scripts: spaces, digits, punctuation, marks."""
    word = unicodedata.name(character, "").split(" ")[0]
    if word in NAMES:
        return NAMES[word]
    category = unicodedata.category(character)
    if category == "So" and ord(character) >= EMOJI:
        return "emoji"
    return OTHER if category[0] == "L" or category == "Cs" else None  # Cs: a byte that is not UTF-8


@dataclass
class Share:
    """Counts for one script or one file; counts can be added."""

    bytes: int = 0
    characters: int = 0
    patches: int = 0
    cuts_inside: int = 0
    """Number of patches that start inside a character."""
    longest: int = 0
    """Length of the longest patch in bytes."""
    nats: float | None = 0.0
    """Sum of the entropies of all bytes in nats; None without an entropy model."""

    def __add__(self, other: "Share") -> "Share":
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)[:4]}
        nats = None if self.nats is None or other.nats is None else self.nats + other.nats
        return Share(**sums, longest=max(self.longest, other.longest), nats=nats)

    def json(self) -> dict[str, Any]:
        """The counts, and means per patch; entropies are in bits."""
        counts = asdict(self)
        nats, patches = counts.pop("nats"), max(self.patches, 1)
        return counts | {
            "bytes_per_patch": self.bytes / patches,
            "characters_per_patch": self.characters / patches,
            "bits_per_patch": None if nats is None else nats / math.log(2) / patches,
        }


def report(lm: LM, files: Sequence[str]) -> dict[str, Any]:
    """Patch counts of files by script (most bytes first) and by file; the output of `bytequilt patch --report --json`.

    A character without a script counts for the script of the character before it. A patch counts for the script of its
    first byte. Raises UserError for a file that is missing or damaged.
    """
    texts_of = [(path, texts(path)) for path in files]
    scripts: dict[str, Share] = {}
    rows = []
    for path, documents in texts_of:
        whole = _nothing(lm)
        for data in filter(None, documents):
            for script, share in _shares(lm, data).items():
                scripts[script] = scripts.get(script, _nothing(lm)) + share
                whole += share
        rows.append({"path": path} | whole.json())
    ordered = sorted(scripts.items(), key=lambda item: -item[1].bytes)
    total = sum(scripts.values(), _nothing(lm))
    shown = [{"script": script} | share.json() for script, share in ordered]
    return {"rule": lm.patcher.rule.model_dump(exclude_none=True), "scripts": shown, "files": rows, "all": total.json()}


def _nothing(lm: LM) -> Share:
    return Share(nats=None if lm.patcher.model is None else 0.0)


def share_of(lm: LM, data: bytes) -> Share:
    """The counts of a document over all scripts; the document must not be empty."""
    return sum(_shares(lm, data).values(), _nothing(lm))


def _shares(lm: LM, data: bytes) -> dict[str, Share]:
    """The counts of one document by script."""
    patcher, scored = lm.patcher, lm.patcher.model is not None
    nats_N = patcher.entropies([data])[0][: len(data) + 1] if scored else None  # without the entropy after EOS
    ids_BN = torch.from_numpy(encode(data))[None]
    entropy_BN = torch.from_numpy(nats_N)[None] if patcher.rule.needs_entropy and nats_N is not None else None
    start_N = rules.patches(patcher.rule, ids_BN, entropy_BN).start_BN[0, 1:].numpy()
    starts = np.flatnonzero(start_N)
    script_C, first_N = _characters(data)
    script_N = script_C[first_N.cumsum() - 1]
    length_P = np.diff([*starts, len(data)])
    counts = {}
    for script in np.unique(script_C):
        mine_N = script_N == script
        counts[str(script)] = Share(
            bytes=int(mine_N.sum()),
            characters=int((mine_N & first_N).sum()),
            patches=int((mine_N & start_N).sum()),
            cuts_inside=int((mine_N & start_N & ~first_N).sum()),
            longest=int(length_P[mine_N[starts]].max(initial=0)),
            nats=None if nats_N is None else float(nats_N[:-1][mine_N].sum(dtype=np.float64)),
        )
    return counts


def _characters(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The script of each character (C,), and True for each byte (N,) that starts one. Invalid bytes are characters."""
    text = data.decode("utf-8", "surrogateescape")
    last, scripts = None, []
    for script in map(script_of, text):
        last = script or last
        scripts.append(last)
    opening = next(filter(None, scripts), OTHER)  # characters before the first letter belong to its script
    sizes = np.array([len(character.encode("utf-8", "surrogateescape")) for character in text])
    first_N = np.zeros(len(data), dtype=bool)
    first_N[sizes.cumsum() - sizes] = True
    return np.array([script or opening for script in scripts]), first_N
