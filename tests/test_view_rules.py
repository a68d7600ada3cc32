"""What people see is right for every rule: entropies that opened a patch, legends, and the curve with its threshold."""

import math
import re

import pytest
from conftest import blt, patched_text, patcher
from streaming import Stream

from bytequilt import LM, load
from bytequilt.cli import main
from bytequilt.codec import encode
from bytequilt.config import RuleConfig
from bytequilt.patching.rules import threshold_parts
from bytequilt.view import html
from bytequilt.view.terminal import coloured

TEXT = "In 1380 and 1381, Äpfel; и привет.\n" * 3
BUDGETS = [
    RuleConfig(kind="budget", threshold=9.0),
    RuleConfig(kind="budget", threshold=30.0, max_length=5),
    RuleConfig(kind="budget", threshold=20.0, digits="each", after=" "),
]
ENTROPIES = [
    RuleConfig(kind="entropy", threshold=4.0, digits="each"),
    RuleConfig(kind="entropy", threshold=4.2, after=" ", max_length=4),
    RuleConfig(kind="combined", threshold=4.0, rise=0.1, digits="each"),
]


def noisy(rule):
    return LM(blt(), patcher(rule))


@pytest.mark.parametrize("rule", BUDGETS, ids=str)
def test_a_patch_is_opened_by_a_budget_only_where_the_sum_exceeds_it(rule):
    lm, data = noisy(rule), TEXT.encode()
    nats, stream, opened = lm.patcher.entropies([data])[0], Stream(rule), {}
    for at, id in enumerate(encode(data)):  # the rule in plain Python, one byte after another
        before = stream.spent
        if stream.feed(int(id), float(nats[at])):
            opened[at] = before + round(float(nats[at]) * 4096) > threshold_parts(rule)
    patches = lm.patch(data).patches
    assert [patch.start for patch in patches] == [at for at in opened if at < len(data)]
    assert [patch.entropy_bits is not None for patch in patches[1:]] == [opened[patch.start] for patch in patches[1:]]
    assert any(patch.entropy_bits is None for patch in patches[1:]) == (rule != BUDGETS[0])


@pytest.mark.parametrize("rule", ENTROPIES, ids=str)
def test_a_patch_that_a_digit_opened_has_no_entropy_unless_it_is_high(rule):
    found = noisy(rule).patch(TEXT)
    limit = rule.threshold / math.log(2)
    cut = [patch.entropy_bits for patch in found.patches[1:]]
    assert all(bits > limit for bits in cut if bits is not None)
    assert None in cut


@pytest.mark.parametrize("rule", [*BUDGETS, *ENTROPIES, RuleConfig(kind="monotonic", rise=0.1)], ids=str)
def test_legends_tell_what_the_threshold_is_about(rule):
    found = noisy(rule).patch(TEXT)
    for shown in (html.page(found), html.svg(found), coloured(found).plain):
        assert ("summed over a patch" in shown) == (rule.kind == "budget")
        assert ("threshold" in re.sub("<style>.*?</style>", "", shown)) == (rule.threshold is not None)
    assert ("adds up within a patch" in html.fragment(found)) == (rule.kind == "budget")


def test_the_curve_of_a_budget_adds_up_within_a_patch_and_stays_below_the_line():
    bits = [1.0, 2.0, 0.5, 3.0]
    drawn = html.svg(patched_text(b"abcd", [0, 2], entropy_bits=bits, threshold_bits=3.2, summed=True))
    heights = [60 * (1 - total / 4) for total in (1.0, 3.0, 0.5, 3.5)]
    assert 'class="curve" d="M0 60' + "".join(f"V{height:g}h10" for height in heights) in drawn


@pytest.mark.parametrize("highest", [0.5, 4, 8, 9, 13, 40, 200])
def test_the_axis_has_few_numbers_and_reaches_the_highest(highest):
    drawn = html.svg(patched_text(b"ab", [0], entropy_bits=[0, highest], threshold_bits=1))
    ticks = [int(number) for number in re.findall(r'class="axis"[^>]*>(\d+)(?: bits)?</text>', drawn)][1:]
    assert 2 <= len(ticks) <= 4
    assert ticks[-1] >= highest


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The shipped model, its text cut by another rule."""
    folder = tmp_path_factory.mktemp("rule") / "model"
    (text := folder.parent / "text.txt").write_text("The president of the United States, in 1861. " * 400)
    main(["convert", "tiny", str(folder), str(text), "--rule", "budget", "--target-bytes", "4.5"])
    return folder


def test_the_shipped_model_under_a_budget(converted, tmp_path, capsys):
    rule = load(converted).patcher.rule
    bits = rule.threshold / math.log(2)
    main(["patch", "Spring has come. Пришла весна.", "--model", str(converted), "--html", str(tmp_path / "a.html")])
    assert f"threshold {bits:.2f} bits, summed over a patch" in capsys.readouterr().out
    assert "adds up within a patch" in (tmp_path / "a.html").read_text("utf-8")
    main(["info", str(converted)])
    assert f"kind budget, max_length 16, threshold {bits:.4g} bits" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit) as stopped:
        main(["convert", str(converted), str(tmp_path / "hf"), "--to", "hf"])
    assert stopped.value.code == 2
    assert "budget" in capsys.readouterr().err
