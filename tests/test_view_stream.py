"""Patches part by part are the patches of the whole."""

import io
import json
import math
import sys
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytequilt import load
from bytequilt.cli import main
from bytequilt.codec import encode
from bytequilt.config import RuleConfig
from bytequilt.patching import kinds, rules
from bytequilt.view import cut, stream

TEXT = "Vier Äpfel, 日本語 и привет. \n\n" * 20
RULES = [
    RuleConfig(kind="entropy", threshold=2.4),
    RuleConfig(kind="entropy", threshold=2.4, max_length=3),
    RuleConfig(kind="monotonic", rise=0.3, max_length=5),
    RuleConfig(kind="budget", threshold=6.0),
    RuleConfig(kind="entropy", threshold=2.4, characters=True, digits="each", max_length=4),
    RuleConfig(kind="space"),
    RuleConfig(kind="fixed", stride=4),
]


@pytest.fixture(scope="module")
def lm():
    return load("tiny")


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(cut, "PART", 64)
    monkeypatch.setattr(cut, "CHUNK", 50)


def by_batch(patcher, data):
    """Start and opening entropy of each patch, decided in one batch."""
    rule, ids = patcher.rule, torch.from_numpy(encode(data))[None]
    nats = torch.from_numpy(patcher.entropies([data])[0][None, :-1]) if rule.needs_entropy else None
    starts = [start - 1 for start in rules.patches(rule, ids, nats).starts[0][1:]]
    if nats is None:
        return [(start, None) for start in starts]
    if rule.kind == "budget":
        spent, limit = kinds.parts(nats[0]).cumsum(0).tolist(), kinds.threshold_parts(rule)
        runs = pairwise(starts)
        opened = [end for start, end in runs if spent[end] - (spent[start - 1] if start else 0) > limit]
    else:
        alone = rules.natural(rule).model_copy(update={"after": "", "digits": None})
        opened = [start - 1 for start in rules.patches(alone, ids, nats).starts[0][1:]]
    bits = (nats[0] / math.log(2)).tolist()
    return [(start, bits[start] if start and start in opened else None) for start in starts]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.kind}-{rule.max_length}")
def test_a_text_is_cut_as_by_a_batch(lm, small_parts, rule, monkeypatch):
    monkeypatch.setattr(lm.patcher, "rule", rule)
    data = TEXT.encode() + b"\xff\xfe end"
    wanted, found = by_batch(lm.patcher, data), lm.patch(data)
    assert [patch.start for patch in found] == [start for start, _ in wanted]
    assert [patch.start + patch.length for patch in found] == [*(start for start, _ in wanted[1:]), len(data)]
    assert b"".join(patch.data for patch in found) == data
    assert found.entropy_bits is None or len(found.entropy_bits) == len(data)
    for patch, (_, bits) in zip(found, wanted, strict=True):
        assert patch.entropy_bits == (None if bits is None else pytest.approx(bits, abs=1e-3))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.kind}-{rule.max_length}")
def test_parts_together_are_the_whole(lm, small_parts, rule, monkeypatch):
    monkeypatch.setattr(lm.patcher, "rule", rule)
    data = TEXT.encode() + b"\xff\xfe end"
    whole = lm.patch(data)
    parts = list(cut.patched_parts(lm.patcher, [data[:7], b"", data[7:301], data[301:]]))
    assert len(parts) > 5
    assert [place for place, _ in parts] == [sum(len(p.data) for _, p in parts[:n]) for n in range(len(parts))]
    assert b"".join(part.data for _, part in parts) == data
    found = [(place + patch.start, patch.data, patch.entropy_bits) for place, part in parts for patch in part]
    assert [entry[:2] for entry in found] == [(patch.start, patch.data) for patch in whole]
    for (_, _, bits), patch in zip(found, whole, strict=True):
        assert bits == (None if patch.entropy_bits is None else pytest.approx(patch.entropy_bits, abs=1e-3))
    assert all(part.threshold_bits == whole.threshold_bits for _, part in parts)


@settings(deadline=None, max_examples=20)
@given(st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode)))
def test_any_bytes_stream(data):
    patcher = load("tiny").patcher
    patcher.rule = RuleConfig(kind="space")
    parts = cut.patched_parts(patcher, [data])
    out = io.StringIO()
    stream.print_json_parts(parts, out.write)
    found = json.loads(out.getvalue())
    assert b"".join(bytes.fromhex(patch["hex"]) for patch in found["patches"]) == data
    assert found["text"] == data.decode("utf-8", "replace")


def run(monkeypatch, capsys, data, *arguments) -> str:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    main(["patch", "-", *arguments])
    return capsys.readouterr().out


def test_a_long_text_prints_what_a_short_one_does(monkeypatch, capsys, small_parts):
    from bytequilt.verbs import text

    data = TEXT.encode()
    short, short_json = run(monkeypatch, capsys, data), json.loads(run(monkeypatch, capsys, data, "--json"))
    monkeypatch.setattr(text, "WHOLE", 100)
    assert run(monkeypatch, capsys, data) == short
    long_json = json.loads(run(monkeypatch, capsys, data, "--json"))
    assert list(long_json["patches"][0]) == list(short_json["patches"][0])
    for found in (short_json, long_json):
        for patch in found["patches"]:
            patch["entropy_bits"] = patch["entropy_bits"] and round(patch["entropy_bits"], 2)
    assert long_json == short_json
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, capsys, data, "--tokens", "default")
    assert stopped.value.code == 2
    assert "for texts of up to 100 bytes" in capsys.readouterr().err
