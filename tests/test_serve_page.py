"""The page in a real browser: it shows whole letters, obeys the threshold, and asks nobody but its server."""

import os
from pathlib import Path

import pytest
from serving import TEXTS, WAIT, process

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("BYTEQUILT_CHROMIUM", "/usr/bin/chromium")
pytestmark = pytest.mark.skipif(
    not Path(CHROMIUM).exists(), reason=f"no browser at {CHROMIUM}: install chromium, or name one in BYTEQUILT_CHROMIUM"
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATCHES = "[data-patch]"


@pytest.fixture(scope="module")
def address():
    with process("tiny", "--max-output", "5000") as (_, address):
        yield address


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as library:
        running = library.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def page(address, browser):
    """The page, open; whatever it complains of, or asks of others, fails the test."""
    opened = browser.new_page(viewport={"width": 1180, "height": 1000})
    opened.set_default_timeout(1000 * WAIT)
    wrong = []
    opened.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("request", lambda request: request.url.startswith((address, "data:")) or wrong.append(request.url))
    opened.goto(address)
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


@pytest.mark.parametrize("text", [*TEXTS, "a\n\tb", ""])
def test_typing_shows_whole_letters(page, text):
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
    for _ in range(60):
        page.keyboard.press("ArrowRight")
    patches_change(page, before)
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


def test_bytes_come_from_a_file_and_the_address_holds_them(page, tmp_path):
    file = tmp_path / "bytes"
    file.write_bytes(b"A\xff\x00\xd0\xb6")
    page.locator("#file").set_input_files(file)
    shows(page, "A\ufffd\0ж")
    assert page.locator("#bytes").text_content() == "5"
    page.wait_for_function("() => location.hash.includes(encodeURIComponent('Qf8A0LY='))")
    page.reload()
    shows(page, "A\ufffd\0ж")


def test_samples_of_many_scripts_are_a_click_away(page):
    for chip in page.locator("#samples button").all():
        chip.click()
        shows(page, page.locator("textarea").first.input_value())
