"""Patched text: its contract, its glyphs, and what a terminal shows."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
from conftest import patched_text
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from bytequilt.view import report, terminal
from bytequilt.view.glyphs import glyphs, harmless, parts
from bytequilt.view.legend import BITS, Scale, level
from bytequilt.view.patched import PatchedText, Tokens

BLT = "bits per byte, held out"


@st.composite
def patched_texts(draw) -> PatchedText:
    """Arbitrary bytes, or text, cut anywhere."""
    data = draw(st.one_of(st.binary(max_size=200), st.text(max_size=80).map(str.encode)))
    cuts = draw(st.sets(st.integers(1, max(1, len(data) - 1)), max_size=40))
    starts = sorted({0} | {cut for cut in cuts if cut < len(data)}) if data else []
    bits = draw(st.one_of(st.none(), st.lists(st.floats(0, 8.1), min_size=len(data), max_size=len(data))))
    limit = draw(st.one_of(st.none(), st.floats(0, 8)))
    return patched_text(data, starts, entropy_bits=bits, threshold_bits=limit)


def printed(renderable, width: int = 80) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


@settings(deadline=None)
@given(patched_texts())
def test_json_partitions_the_bytes(patched):
    out = json.loads(json.dumps(patched.json()))
    assert list(out) == ["text", "mean_patch_bytes", "threshold_bits", "patches"]
    assert all(list(p) == ["start", "length", "text", "hex", "entropy_bits"] for p in out["patches"])
    assert b"".join(bytes.fromhex(p["hex"]) for p in out["patches"]) == patched.data
    ends = [p["start"] + p["length"] for p in out["patches"]]
    assert [p["start"] for p in out["patches"]] == [0, *ends][: len(ends)]
    assert out["mean_patch_bytes"] * len(patched) == pytest.approx(len(patched.data))


@settings(deadline=None)
@given(patched_texts())
def test_glyphs_cover_every_byte_once(patched):
    at = 0
    for glyph in glyphs(patched.data):
        assert glyph.start == at
        data = patched.data[at : at + glyph.length]
        assert all(char.isprintable() or char in "\u200c\u200d" for char in glyph.shown)
        if glyph.kind == "invalid":
            assert bytes.fromhex(glyph.shown) == data
            with pytest.raises(UnicodeDecodeError):
                data.decode()
        elif glyph.kind in ("plain", "mark"):
            assert glyph.shown.removeprefix("◌" if glyph.kind == "mark" else "").encode() == data
        at += glyph.length
    assert at == len(patched.data)


@settings(deadline=None)
@given(patched_texts())
def test_every_glyph_is_in_the_patch_of_its_first_byte(patched):
    starts = [patch.start for patch in patched]
    found = parts(patched.data, starts)
    assert [glyph for part in found for glyph in part.glyphs] == list(glyphs(patched.data))
    inside = {place for glyph in glyphs(patched.data) for place in range(glyph.start + 1, glyph.start + glyph.length)}
    for patch, part in zip(patched, found, strict=True):
        assert part.inside == (patch.start in inside)
        assert all(patch.start <= glyph.start < patch.start + patch.length for glyph in part.glyphs)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("привет", list("привет")),
        ("日本語", list("日本語")),
        ("مرحبا", list("مرحبا")),
        ("नमस्ते", ["न", "म", "स्ते"]),
        ("e\u0301a\u0323\u0302b", ["e\u0301", "a\u0323\u0302", "b"]),
        ("👩\u200d🚀x👍🏽", ["👩\u200d🚀", "x", "👍🏽"]),
        ("🇳🇱🇩🇪", ["🇳🇱", "🇩🇪"]),
        ("한글", ["한", "글"]),
        ("\u1112\u1161\u11ab", ["\u1112\u1161\u11ab"]),
        ("\u0301a", ["◌\u0301", "a"]),
        ("\x00\x1b\x7f\u202e", ["␀", "␛", "␡", "·"]),
        ("a\u200d\u0300" * 20, ["a\u200d\u0300"] * 20),
    ],
)
def test_characters_are_what_readers_see(text, wanted):
    assert [glyph.shown for glyph in glyphs(text.encode())] == wanted


def test_cuts_inside_characters_are_marked():
    patched = patched_text("при日".encode() + b"\xd0", [0, 1, 3, 4, 7, 8, 9])
    assert repr(patched).splitlines()[0] == barred_by_hand(patched)
    assert "¦ cuts a character" in terminal.coloured(patched).plain
    assert "¦" not in terminal.coloured(patched_text("при".encode(), [0, 2, 4])).plain


def barred_by_hand(patched) -> str:
    """Each character of valid UTF-8 in full where it begins, and a sign at each cut."""
    data, out = patched.data, ""
    starts = {patch.start for patch in patched} - {0}
    for at, byte in enumerate(data):
        begins = not 0x80 <= byte < 0xC0
        out += ("|" if begins else "¦") * (at in starts)
        size = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3
        if begins:
            whole = data[at : at + size].decode("utf-8", "ignore")
            out += whole or f"‹{byte:02x}›"
    return out


def test_colours_span_the_entropies_that_occur():
    bits = [0.0, 2.5, 3.0, 5.9]
    patched = patched_text(b"abcd", [0, 1, 2, 3], entropy_bits=bits)
    scale = Scale.of(patched)
    assert [level(scale, patch) for patch in patched] == [None, 0, 1, len(BITS) - 1]
    assert scale.ends == ("2.5", "5.9 bits")
    assert "opened by 2.5 " in terminal.coloured(patched).plain
    assert Scale.of(patched_text(b"abcd", [0, 1])) is None
    alone = patched_text(b"ab", [0, 1], entropy_bits=[0.0, 3.0])
    assert Scale.of(alone).levels == (level(Scale.of(alone), alone.patches[1]),)


BLANK = dict.fromkeys(map(ord, " ¦"))


@st.composite
def with_tokens(draw) -> PatchedText:
    patched = draw(patched_texts())
    size = len(patched.data)
    borders = sorted(draw(st.sets(st.integers(0, size), max_size=30)))
    pieces = tuple((a, b - a) for a, b in pairwise(borders) if draw(st.integers(0, 5)))
    return replace(patched, tokens=Tokens("t", pieces, "ours"))


@settings(deadline=None)
@given(with_tokens(), st.integers(8, 60))
def test_tokens_stand_under_the_same_characters(patched, width):
    text = terminal.coloured(patched, width).plain
    lines = text.split("\n")[:-2]
    above, below = lines[0::3], lines[1::3]
    shown = "".join(terminal._shown(glyph).rstrip("\n") for glyph in glyphs(patched.data))
    for layer in (above, below):
        assert "".join(layer).translate(BLANK) == shown.translate(BLANK)
    assert [cell_len(line) for line in above] == [cell_len(line) for line in below]
    assert all(cell_len(line) <= max(width, 64) for line in above)


def test_tokens_in_json_and_in_words():
    patched = replace(patched_text("ab é".encode(), [0, 3]), tokens=Tokens("t", ((0, 2), (3, 1), (4, 1)), "ours"))
    pieces = [{"start": 0, "length": 2}, {"start": 3, "length": 1}, {"start": 4, "length": 1}]
    assert patched.json()["tokens"] == {"name": "t", "count": 3, "pieces": pieces}
    assert "tokens" not in patched_text(b"a", [0]).json()
    words = "5 bytes, 4 characters · 3 tokens of t (ours), mean 1.67 bytes"
    assert repr(patched) == f"ab |é\nab| |é¦\n2 patches, mean 2.50 bytes\n{words}"


@settings(deadline=None)
@given(patched_texts())
def test_terminal_shows_no_control_bytes(patched):
    text = terminal.coloured(patched).plain
    assert all(char == "\n" or char.isprintable() or char in "\u200c\u200d" for char in text)
    assert text.count("↵\n") >= patched.data.count(b"\n")


def test_entropies_open_all_patches_but_the_first():
    patched = patched_text(b"abcd", [0, 2], entropy_bits=[3, 1, 4, 1], threshold_bits=2)
    assert [patch.entropy_bits for patch in patched] == [None, 4.0]
    assert [patch.entropy_bits for patch in patched_text(b"abcd", [0, 2])] == [None, None]
    assert patched.mean_patch_bytes == 2.0
    assert patched_text(b"", []).mean_patch_bytes == 0.0


def test_plain_repr_has_bars_between_patches():
    patched = patched_text("a\n\té\xa0\x1b".encode() + b"\xff", [0, 4, 5], threshold_bits=1.5)
    assert repr(patched) == "a↵\n→é¦| ␛‹ff›\n3 patches, mean 3.00 bytes · threshold 1.50 bits"


def test_repr_is_coloured_where_colours_are_forced(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in repr(patched_text(b"one two", [0, 4]))
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in repr(patched_text(b"one two", [0, 4]))


REPORT = {
    "bpb": 1.5,
    "entropy_model_bpb": 1.75,
    "xz_bpb": 2.25,
    "gzip_bpb": 3.0,
    "mean_patch_bytes": 4.5,
    "patch_histogram": {"1": 5, "4": 20, "30": 1},
    "steps": 1200,
    "bytes_per_second": 48_210,
    "flops_per_byte": 1.5e6,
    "sample": "Four score\nand \x1b[31mseven",
    "paragraph": patched_text(b"a\x00", [0]).json(),
}


def test_report_shows_what_it_has():
    text = printed(report.report(REPORT))
    for words in (BLT, "1.500", "1.750", "xz -9", "gzip -9", "16+", "4.50 on average", "1,200 steps", "48.2 kB/s"):
        assert words in text
    assert "1.5 MFLOPs per byte" in text
    assert "and ·[31mseven" in text
    assert "1 patch, mean 2.00 bytes" in text
    example = {"prompt": "Why?", "wanted": "", "before": "\x1b[1mx", "after": "Therefore."}
    text = printed(report.report(REPORT | {"example": example}))
    assert all(words in text for words in ("Why?", "·[1mx", "Therefore."))
    assert "wanted" not in text
    assert "Four score" not in text
    paragraph = patched_text(b"a\x00", [0])
    assert PatchedText.from_json(paragraph.json()) == paragraph


def test_bars_are_as_long_as_the_numbers():
    lines = printed(report.report(REPORT)).splitlines()
    half, whole = (next(line for line in lines if name in line).count("━") for name in ("BLT", "gzip"))
    assert whole == 2 * half > 0


def test_report_fits_a_narrow_terminal():
    text = printed(report.report(REPORT | {"patch_histogram": {20: 1}}), width=40)
    assert max(map(len, text.splitlines())) <= 40


def test_shares_keep_all_patches():
    shares = report.shares
    assert shares({1: 1, 2: 2, 9: 1}, 3) == [0.25, 0.5, 0.25]
    assert shares({2: 4}, 16) == [0.0, 1.0]


def test_harmless_keeps_lines():
    assert harmless("a\tb\nc\x00\u202ed\xa0") == "a\tb\nc··d\xa0"


def test_importing_the_room_is_light():
    code = (
        "import sys, bytequilt.view.patched, bytequilt.view.terminal, bytequilt.view.html, bytequilt.view.figures\n"
        "print(*{'torch', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
