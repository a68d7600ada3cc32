"""The figure: every byte drawn, everything escaped, nothing fetched."""

import xml.etree.ElementTree as ET
from html import unescape

from conftest import patched_text
from hypothesis import given, settings
from test_view_patched import patched_texts, with_tokens

from bytequilt.view import html
from bytequilt.view.glyphs import glyphs
from bytequilt.view.patched import PatchedText

SVG = "{http://www.w3.org/2000/svg}"


def drawn(patched: PatchedText) -> str:
    """All characters that the figure writes under its curves."""
    texts = ET.fromstring(html.svg(patched)).iter(f"{SVG}text")
    return "".join(text.text for text in texts if text.get("class") not in ("axis", "limit"))


@settings(deadline=None, max_examples=50)
@given(patched_texts())
def test_every_byte_is_drawn_and_every_patch_has_a_tooltip(patched):
    assert sorted(drawn(patched)) == sorted("".join(glyph.shown for glyph in glyphs(patched.data)))
    titles = {title.text for title in ET.fromstring(html.svg(patched)).iter(f"{SVG}title")}
    for patch in patched:
        words = f" · {patch.length} byte{'s' * (patch.length != 1)} from {patch.start}"
        assert any(title.endswith(words) or f"{words} · opened by" in title for title in titles)


def test_characters_stand_over_the_middle_of_their_bytes():
    root = ET.fromstring(html.svg(patched_text("ab日".encode(), [0])))
    places = {text.text: text.get("x") for text in root.iter(f"{SVG}text") if text.get("class") is None}
    assert places == {"ab": "5 15", "日": "35"}


def test_a_split_character_is_drawn_whole_and_marked_and_invalid_bytes_are_hex():
    patched = patched_text("é".encode() + b"\xff\x00", [0, 1])
    assert drawn(patched) == "␀ffé"
    assert '<path class="cut" d="M10 0v20"/>' in html.svg(patched)
    assert "¦" in html.fragment(patched)
    assert 'class="cut"' not in html.svg(patched_text("é".encode(), [0]))


def test_text_from_right_to_left_is_joined_and_isolated():
    patched = patched_text("سلام abc".encode(), [0, 4])
    texts = [text.text for text in ET.fromstring(html.svg(patched)).iter(f"{SVG}text")]
    assert {"سل", "ام"} <= set(texts)
    wanted = '<bdi dir="auto"><span class="bytequilt-n">سل</span><span class="bytequilt-n odd">ام abc</span></bdi>'
    assert wanted in html.fragment(patched)
    lines = html.fragment(patched_text("a\nسلام\n\nb".encode(), [0, 3]))
    assert lines.count('<bdi dir="auto">') == 4


@settings(deadline=None, max_examples=50)
@given(with_tokens())
def test_every_token_is_drawn_below_its_bytes(patched):
    root = ET.fromstring(html.svg(patched))
    strips = [group for group in root.iter(f"{SVG}g") if group.get("class") == "tokens"]
    boxes = [path.get("d") for strip in strips for path in strip]
    rows = sum((a + n - 1) // html.COLUMNS - a // html.COLUMNS + 1 for a, n in patched.tokens.pieces)
    assert len(boxes) == rows
    page = html.page(patched)
    assert "bytequilt-tokens" in page.split("</style>")[-1]
    assert "tokens of t (ours)" in page


def test_everything_is_escaped():
    hostile = "</title><script>alert('1')</script>&\"\x00"
    patched = patched_text(hostile.encode(), [0])
    page = html.page(patched, title=hostile)
    assert "<script" not in page
    assert "\x00" not in page
    assert page.count("</title>") == 2  # of the page and of the only patch
    assert hostile.replace("\x00", "·") in unescape(page)


def test_nothing_is_fetched():
    page = html.page(patched_text(b"one two", [0, 4], entropy_bits=[1.0] * 7, threshold_bits=0.5))
    for word in ("http", "url(", "src=", "href=", "@import", "<script"):
        assert word not in page
    assert html.svg(patched_text(b"a", [0])).count("http") == 1  # the name of the SVG namespace


def test_curve_and_threshold_are_drawn_where_they_exist():
    bits = [8.0, 0.0, 4.0, 2.0]
    curve = html.fragment(patched_text(b"abcd", [0, 2], entropy_bits=bits, threshold_bits=3.0))
    assert 'd="M0 60V0h10V60h10V30h10V45h10V60"' in curve  # 60 high, 0 to 8 bits
    assert "3.00 bits</text>" in curve
    bare = html.fragment(patched_text(b"abcd", [0, 2]))
    assert 'class="curve"' not in bare
    assert 'class="threshold"' not in bare
    assert "opened by" not in bare


def test_empty_text_is_a_figure_too():
    for bits in (None, []):
        patched = patched_text(b"", [], entropy_bits=bits)
        assert drawn(patched) == ""
        assert "0 patches" in patched._repr_html_()


def test_long_text_stays_compact():
    data = b"The quick brown fox jumps over it. " * 300
    bits = [1.37] * len(data)
    page = html.page(patched_text(data, range(0, len(data), 5), entropy_bits=bits, threshold_bits=1.3))
    assert len(page) < 60 * len(data)
