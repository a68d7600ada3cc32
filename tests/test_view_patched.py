"""Patched text: its contract, its glyphs, and what a terminal shows."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from bytequilt.view import report, terminal
from bytequilt.view.glyphs import BYTES, glyphs, harmless
from bytequilt.view.histogram import mean, shares
from bytequilt.view.patched import Patch, PatchedText

BLT = "bits per byte, held out"


@st.composite
def patched_texts(draw) -> PatchedText:
    """Arbitrary bytes, or text, cut anywhere."""
    data = draw(st.one_of(st.binary(max_size=200), st.text(max_size=80).map(str.encode)))
    cuts = draw(st.sets(st.integers(1, max(1, len(data) - 1)), max_size=40))
    starts = sorted({0} | {cut for cut in cuts if cut < len(data)}) if data else []
    bits = draw(st.one_of(st.none(), st.lists(st.floats(0, 8.1), min_size=len(data), max_size=len(data))))
    limit = draw(st.one_of(st.none(), st.floats(0, 8)))
    return PatchedText.cut(data, starts, entropy_bits=bits, threshold_bits=limit)


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
    starts = {patch.start for patch in patched}
    at = 0
    for glyph in glyphs(patched.data, starts):
        assert glyph.start == at
        assert not starts & set(range(at + 1, at + glyph.length))
        assert glyph.shown.isprintable() or glyph.shown in "\u200c\u200d"
        if glyph.kind in BYTES:
            assert bytes.fromhex(glyph.shown) == patched.data[at : at + 1]
        elif glyph.kind == "plain":
            assert glyph.shown.encode() == patched.data[at : at + glyph.length]
        at += glyph.length
    assert at == len(patched.data)


@settings(deadline=None)
@given(patched_texts())
def test_terminal_shows_no_control_bytes(patched):
    text = terminal.coloured(patched).plain
    assert all(char == "\n" or char.isprintable() or char in "\u200c\u200d" for char in text)
    assert text.count("↵\n") >= patched.data.count(b"\n")


def test_entropies_open_all_patches_but_the_first():
    patched = PatchedText.cut(b"abcd", [0, 2], entropy_bits=[3, 1, 4, 1], threshold_bits=2)
    assert [patch.entropy_bits for patch in patched] == [None, 4.0]
    assert [patch.entropy_bits for patch in PatchedText.cut(b"abcd", [0, 2])] == [None, None]
    assert patched.mean_patch_bytes == 2.0
    assert PatchedText.cut(b"", []).mean_patch_bytes == 0.0


def test_plain_repr_has_bars_between_patches():
    patched = PatchedText.cut("a\n\té\xa0\x1b".encode() + b"\xff", [0, 4, 5], threshold_bits=1.5)
    assert repr(patched) == "a↵\n→‹c3›|‹a9›| ·�\n3 patches, mean 3.00 bytes · threshold 1.50 bits"


def test_repr_is_coloured_where_colours_are_forced(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in repr(PatchedText.cut(b"one two", [0, 4]))
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in repr(PatchedText.cut(b"one two", [0, 4]))


@pytest.mark.parametrize(
    ("data", "starts", "bits"),
    [
        (b"abc", [], None),
        (b"", [0], None),
        (b"abc", [1], None),
        (b"abc", [0, 3], None),
        (b"abc", [0, 5], [1, 2, 3]),
        (b"abc", [0, 2, 1], None),
        (b"abc", [0], [1]),
    ],
)
def test_bad_cuts_are_refused(data, starts, bits):
    with pytest.raises(ValueError):
        PatchedText.cut(data, starts, entropy_bits=bits)


def test_patches_of_another_text_are_refused():
    with pytest.raises(ValueError, match="not the bytes of the text"):
        PatchedText(b"abc", (Patch(0, 3, b"abd", None),), None, None)


def test_report_shows_what_it_has():
    full = {
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
    }
    text = printed(report.report(full))
    for words in (BLT, "1.500", "1.750", "xz -9", "gzip -9", "16+", "4.50 on average", "1,200 steps", "48.2 kB/s"):
        assert words in text
    assert "1.5 MFLOPs per byte" in text
    assert "and ·[31mseven" in text
    assert printed(report.report({})).strip() == ""
    assert BLT not in printed(report.report({"steps": 3, "bpb": None}))
    paragraph = PatchedText.cut(b"a\x00", [0])
    assert PatchedText.from_json(paragraph.json()) == paragraph
    assert "1 patch, mean 2.00 bytes" in printed(report.report({"paragraph": paragraph.json()}))


def test_bars_are_as_long_as_the_numbers():
    lines = printed(report.report({"bpb": 1.0, "gzip_bpb": 2.0})).splitlines()
    half, whole = (next(line for line in lines if name in line).count("━") for name in ("BLT", "gzip"))
    assert whole == 2 * half > 0


def test_report_fits_a_narrow_terminal():
    text = printed(report.report({"bpb": 1.0, "gzip_bpb": 2.0, "patch_histogram": {20: 1}}), width=40)
    assert max(map(len, text.splitlines())) <= 40


def test_shares_keep_all_patches():
    assert shares({1: 1, 2: 2, 9: 1}, 3) == [0.25, 0.5, 0.25]
    assert shares({2: 4}, 16) == [0.0, 1.0]
    assert mean({1: 1, 5: 3}) == 4.0
    with pytest.raises(ValueError):
        shares({}, 3)


def test_harmless_keeps_lines():
    assert harmless("a\tb\nc\x00\u202ed\xa0") == "a\tb\nc··d\xa0"


def test_importing_the_room_is_light():
    code = (
        "import sys, bytequilt.view.patched, bytequilt.view.terminal, bytequilt.view.html, bytequilt.view.figures\n"
        "print(*{'torch', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
