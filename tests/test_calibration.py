"""Rules calibrated in scripts of one, two, three and four bytes a character, with the entropies of a shipped model.

The texts are the first articles of the Universal Declaration of Human Rights, which anyone may reproduce, pictures
between English words, and code of the package. Half of each calibrates, and the other half is new.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from streaming import Stream

from bytequilt import load
from bytequilt.codec import encode
from bytequilt.config import RuleConfig
from bytequilt.patching import rules
from bytequilt.patching.calibration import calibrated

TEXTS = json.loads((Path(__file__).parent / "declarations.json").read_text("utf-8")) | {
    "emoji": "I 😀 like 🍕 and 🎉🎈, 🐱🐶🐭 or 🚗🚕! ☀️🌧️ then 🌈… ok 👍🏽 👩‍🚀 🇩🇪 yes 💯🔥 " * 8,
    "code": Path(rules.__file__).read_text("utf-8")[1200:2400],
}
AIM = 4.5  # bytes per patch
NEAR = 0.25  # of it
RULES = {
    "entropy": RuleConfig(threshold=0),
    "entropy, characters": RuleConfig(threshold=0, characters=True),
    "entropy, characters, max_length": RuleConfig(threshold=0, characters=True, max_length=16),
    "monotonic": RuleConfig(kind="monotonic", rise=0),
    "monotonic, characters": RuleConfig(kind="monotonic", rise=0, characters=True),
    "combined": RuleConfig(kind="combined", threshold=0, rise=0),
    "budget": RuleConfig(kind="budget", threshold=0),
    "budget, after": RuleConfig(kind="budget", threshold=0, after="\n"),
}


@pytest.fixture(scope="module")
def halves():
    """Ids (1, N) and entropies (1, N) of each half of each text, and its bytes."""
    patcher, halves = load("tiny").patcher, {}
    for script, text in TEXTS.items():
        middle = len(text) // 2
        parts = [text[:middle].encode(), text[middle:].encode()]
        nats = patcher.entropies(parts)
        halves[script] = [
            (torch.from_numpy(encode(part, eos=True))[None], torch.from_numpy(own)[None], part)
            for part, own in zip(parts, nats, strict=True)
        ]
    return halves


def starts(rule: RuleConfig, half) -> np.ndarray:
    """Which bytes of a half start a patch, id by id in plain Python."""
    ids_1N, nats_1N, part = half
    stream = Stream(rule)
    closes = [stream.feed(id, nats) for id, nats in zip(ids_1N[0].tolist(), nats_1N[0].tolist(), strict=True)]
    return np.array(closes[: len(part)])


def test_there_are_fourteen_scripts():
    assert len(TEXTS) == 14


@pytest.mark.parametrize("name", RULES)
def test_each_rule_is_near_its_aim_in_every_script(halves, name):
    for script, (first, _) in halves.items():
        rule, told = calibrated(RULES[name], first[0], first[1], AIM)
        mean = len(first[2]) / starts(rule, first).sum()
        assert mean == pytest.approx(AIM, rel=NEAR), script
        assert told.mean_patch_bytes == pytest.approx(mean)


@pytest.mark.parametrize("name", ["budget", "budget, after"])
def test_a_budget_is_near_its_aim_on_text_it_was_not_calibrated_on(halves, name):
    """Thresholds are not, least of all in Chinese."""
    for script, (first, second) in halves.items():
        rule, _ = calibrated(RULES[name], first[0], first[1], AIM)
        assert len(second[2]) / starts(rule, second).sum() == pytest.approx(AIM, rel=NEAR), script


def test_one_budget_for_all_scripts_is_spent_alike_in_each_and_cuts_no_character(halves):
    whole = [half for both in halves.values() for half in both]
    ids_1N, nats_1N = (torch.cat([half[place] for half in whole], 1) for place in (0, 1))
    rule, _ = calibrated(RULES["budget"], ids_1N, nats_1N, AIM)
    spent = {}
    for script, both in halves.items():
        start = np.concatenate([starts(rule, half) for half in both])
        data = np.frombuffer(b"".join(half[2] for half in both), np.uint8)
        assert not ((data & 0xC0) == 0x80)[start].any(), script
        nats = sum(float(half[1][0, : len(half[2])].sum()) for half in both)
        spent[script] = nats / start.sum()
    mean = np.exp(np.mean(np.log(list(spent.values()))))
    assert spent == pytest.approx(
        dict.fromkeys(spent, mean), rel=0.35
    )  # a character is never cut, and one of Hindi has three bytes
