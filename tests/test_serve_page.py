"""The page in a real browser: it shows whole letters, obeys the threshold, and asks nobody but its server."""

import math
import os
import re
from pathlib import Path

import pytest
from serving import TEXTS, WAIT, process

from bytequilt import LM, Patcher, load
from bytequilt.config import RuleConfig

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("BYTEQUILT_CHROMIUM", "/usr/bin/chromium")
pytestmark = pytest.mark.skipif(
    not Path(CHROMIUM).exists(), reason=f"no browser at {CHROMIUM}: install chromium, or name one in BYTEQUILT_CHROMIUM"
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATCHES = "[data-patch]"


RULES = {"entropy": RuleConfig(threshold=1.7), "budget": RuleConfig(kind="budget", threshold=10.0)}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The same model twice: it patches by the entropy of a byte, and by the sum of entropies in a patch."""
    tiny, folder = load("tiny"), tmp_path_factory.mktemp("models")
    for name, rule in RULES.items():
        LM(tiny.model, Patcher(rule, tiny.patcher.model)).save(folder / name)
    with process(*(str(folder / name) for name in RULES), "--max-output", "5000") as (_, address, _):
        yield address


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as library:
        running = library.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=1000 * WAIT)
        yield running
        running.close()


@pytest.fixture(params=RULES)
def page(request, address, browser):
    """The page, open at one of the models; whatever it complains of, or asks of others, fails the test."""
    opened = browser.new_page(viewport={"width": 1180, "height": 1000})
    opened.set_default_timeout(1000 * WAIT)
    wrong = []
    opened.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("request", lambda request: request.url.startswith((address, "data:")) or wrong.append(request.url))
    opened.wrong = wrong
    opened.goto(f"{address}/#m={request.param}")
    opened.wait_for_selector(PATCHES)
    yield opened
    opened.close()
    assert wrong == []


def texts(page):
    return page.locator(PATCHES).all_text_contents()


def shows(page, text):
    """Wait until the patches are those of this text."""
    page.wait_for_function(
        "text => [...document.querySelectorAll('[data-patch]')].map(e => e.textContent).join('') === text", arg=text
    )


def patches_change(page, before):
    page.wait_for_function("count => document.querySelectorAll('[data-patch]').length !== count", arg=before)


def middle(page, selector):
    box = page.locator(selector).first.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_typing_shows_whole_letters(page):
    for text in (*TEXTS, "a\n\tb", ""):
        page.locator("textarea").first.fill(text)
        shows(page, text)
        assert page.locator("#bytes").text_content() == str(len(text.encode()))


def test_dragging_the_threshold_changes_the_patches(page):
    before, saved = len(texts(page)), page.locator("#saved").text_content()
    x, y = middle(page, ".grip")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y - 30, steps=3)
    page.mouse.up()
    patches_change(page, before)
    assert len(texts(page)) < before
    assert page.locator("#saved").text_content() != saved
    page.wait_for_function("() => location.hash.includes('b=')")
    page.locator("#own").click()
    page.wait_for_function("count => document.querySelectorAll('[data-patch]').length === count", arg=before)


def test_the_keyboard_does_all_of_it(page):
    before = len(texts(page))
    page.locator("input[type=range]").first.focus()
    page.keyboard.press("End")
    patches_change(page, before)
    assert len(texts(page)) < before
    page.keyboard.press("Home")
    page.wait_for_function("count => document.querySelectorAll('[data-patch]').length > count", arg=before)
    page.locator("#quilt").focus()
    page.keyboard.press("ArrowRight")
    assert "0x61 byte 1" in page.locator("#byte").text_content()  # Daenerys
    page.keyboard.press("End")
    assert "0x2e" in page.locator("#byte").text_content()


def test_a_byte_tells_what_it_is(page):
    page.locator("textarea").first.fill("ж")
    shows(page, "ж")
    page.hover("[data-byte='1']")
    said = page.locator("#byte").text_content()
    assert all(word in said for word in ("0xb6", "U+0436", "entropy", "patch"))
    page.locator("textarea").first.fill("Daenerys Targaryen")
    shows(page, "Daenerys Targaryen")
    second = len(texts(page)[0])
    page.hover(f"[data-byte='{second}']")
    said = page.locator("#byte").text_content()
    if "with it, the entropies" in said:
        total, limit = map(float, re.search(r"([\d.]+) of ([\d.]+) bits$", said).groups())
        assert total > limit == pytest.approx(10 / math.log(2), abs=0.01)
    else:
        assert "entropy above the threshold" in said


def test_generation_streams_stops_and_can_be_undone(page):
    box = page.locator("textarea").first
    start = box.input_value()
    page.locator("#most").fill("5000")
    page.locator("#write").click()
    page.wait_for_function("size => document.querySelector('textarea').value.length > size + 10", arg=len(start))
    page.keyboard.press("Escape")
    page.wait_for_selector("#write:enabled")
    written = box.input_value()
    assert written.startswith(start)
    shows(page, written)
    page.wait_for_timeout(300)
    assert box.input_value() == written
    page.locator("#back").click()
    shows(page, start)


def test_what_is_wrong_with_a_number_is_told_until_it_is_right(page):
    """Though patches are asked for after each generation, and come."""
    for box, wrong, right in [("#most", "99999999", "3"), ("#temperature", "9999", "0"), ("#seed", "1.5", "")]:
        page.locator(box).fill(wrong)
        with page.expect_response("**/v1/completions"), page.expect_response("**/v1/patches"):
            page.locator("#write").click()
        page.wait_for_selector("#write:enabled")
        page.wait_for_timeout(300)
        assert page.locator("#problem").is_visible()
        page.locator(box).fill(right)
        page.locator("#write").click()
        page.wait_for_selector("#write:enabled")
        assert page.locator("#problem").is_hidden()
    told = [message for message in page.wrong if "with a status of 4" in message]
    assert len(told) == 3
    page.wrong[:] = [message for message in page.wrong if message not in told]


def test_bytes_come_from_a_file_and_the_address_holds_them(page, tmp_path):
    file = tmp_path / "bytes"
    file.write_bytes(b"A\xff\x00\xd0\xb6")
    page.locator("#file").set_input_files(file)
    shows(page, "A\ufffd\0ж")
    assert page.locator("#bytes").text_content() == "5"
    page.wait_for_function("() => location.hash.includes(encodeURIComponent('Qf8A0LY='))")
    page.reload()
    shows(page, "A\ufffd\0ж")
    page.evaluate("location.hash = 't=0LY='")
    shows(page, "ж")
    for wrong in ("t=?&b=x&m=none", "b=1e300", "b=-1e9", "b=NaN"):
        page.evaluate("hash => (location.hash = hash)", wrong)
        shows(page, "Daenerys Targaryen is in Game of Thrones, a fantasy epic by George R.R. Martin.")
    assert page.locator("#problem").is_hidden()


def test_samples_of_many_scripts_are_a_click_away(page):
    for chip in page.locator("#samples button").all():
        chip.click()
        shows(page, page.locator("textarea").first.input_value())
