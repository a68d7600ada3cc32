"""Texts that are generated together: in any company, at any time, with one read of the device a step."""

import math

import pytest
import torch
from conftest import blt, noise, patcher
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from bytequilt.baselines.baseline import Baseline, build
from bytequilt.baselines.vocabulary import Bytes
from bytequilt.codec import OFFSET
from bytequilt.config import BaselineConfig, StackConfig, UserError
from bytequilt.infer.sampling import Sampling
from bytequilt.lm import LM

LMS = {kind: LM(blt(), patcher(kind)) for kind in ("entropy", "space-max")}


def baseline():
    torch.manual_seed(0)
    config = BaselineConfig(stack=StackConfig(dim=16, layers=2, heads=2, ffn_dim=24, window=12))
    return Baseline(build(config), Bytes(), config)


LMS["baseline"] = baseline()


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(LMS)), st.lists(st.sampled_from(["", "Th", "a longer prompt", "\xff"]), max_size=9))
def test_any_list_of_prompts_gives_what_each_gives_alone(name, prompts):
    options = {"max_bytes": 6, "temperature": 1.0, "seed": 0}
    found = [completion.data for completion in LMS[name].generate(prompts, **options)]
    assert found == [LMS[name].generate(prompt, **options).data for prompt in prompts]


@settings(max_examples=25, deadline=None)
@given(st.data(), st.sampled_from(sorted(LMS)), st.integers(1, 4))
def test_texts_that_come_and_go_at_any_time_are_as_if_alone(data, name, rows):
    lm, found, wanted = LMS[name], {}, {}
    batcher = lm.batcher(rows)
    for _ in range(25):
        action = data.draw(st.sampled_from(["insert", "remove", "step", "step", "step"]))
        if action == "insert":
            prompt = noise(data.draw(st.integers(0, 30)), data.draw(st.integers(0, 5)))
            options = {
                "max_bytes": data.draw(st.integers(0, 8)),
                "temperature": 1.0,
                "seed": data.draw(st.integers(0, 3)),
            }
            key = batcher.insert(prompt, Sampling(**options))
            wanted[key], found[key] = lm.generate(prompt, **options).data, b""
        elif action == "remove" and wanted:
            key = data.draw(st.sampled_from(sorted(wanted)))
            batcher.remove(key)
            wanted.pop(key)
        else:
            for key, step in batcher.step():
                found[key] += step.data
    while len(batcher):
        for key, step in batcher.step():
            found[key] += step.data
    assert {key: found[key] for key in wanted} == wanted


class Reads(TorchFunctionMode):
    """Counts what would wait for a device and copy from it."""

    NAMES = frozenset(
        {"item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__", "__array__"}
    )

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in self.NAMES:
            self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


OPTIONS = [{}, {"temperature": 0.0}, {"top_k": 5, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2}]
OPTIONS += [{"logprobs": True, "top_logprobs": 3}, {"utf8": True}, {"frequency_penalty": 1.0, "logit_bias": {65: 1.0}}]


@pytest.mark.parametrize("name", sorted(LMS))
@pytest.mark.parametrize("rows", [1, 4, 16])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_step_reads_the_device_once_for_all_texts(name, rows, options):
    batcher = LMS[name].batcher(rows)
    for seed in range(rows):
        batcher.insert(noise(5 + seed, seed), Sampling(**({"max_bytes": 40, "seed": seed} | options)))
    batcher.step()
    for _ in range(12):
        with Reads() as reads:
            steps = batcher.step()
        assert reads.names == ["tolist"]
        assert steps


def test_a_session_reads_the_device_once_a_step():
    session = LMS["entropy"].session()
    session.feed(torch.tensor([1, 70, 71]))
    for id in (72, 36, 1, 80):
        with Reads() as reads:
            session.step(torch.tensor([id]))
        assert reads.names == ["tolist"]


@pytest.mark.parametrize("name", sorted(LMS))
def test_a_text_that_fails_ends_alone(name, monkeypatch):
    lm, options = LMS[name], {"max_bytes": 12, "seed": 2}
    prompts = [noise(9, seed) for seed in range(3)]
    wanted = [lm.generate(prompt, **options).data for prompt in prompts]
    batcher = lm.batcher(3)
    keys = [batcher.insert(prompt, Sampling(**options)) for prompt in prompts]
    found, reasons, advance = dict.fromkeys(keys, b""), {}, batcher.decoder.advance

    def failing(ids_n, ids, known, rows):
        logits = advance(ids_n, ids, known, rows).clone()
        if len(found[keys[1]]) == 4 and 1 in rows:
            logits[list(rows).index(1)] = math.nan
        return logits

    monkeypatch.setattr(batcher.decoder, "advance", failing)
    while len(batcher):
        for key, step in batcher.step():
            found[key] += step.data
            reasons[key] = step.finish_reason
    assert [found[key] for key in keys] == [wanted[0], wanted[1][:4], wanted[2]]
    assert [reasons[key] for key in keys] == ["length", "error", "length"]


def test_a_model_of_no_numbers_leaves_nothing_to_the_next_text():
    """A text fails in a row because of its own byte; the row is as new afterwards."""
    lm = LM(blt(), patcher("byte"))
    wanted = lm.generate(b"ab", max_bytes=5, seed=0).data
    with torch.no_grad():
        lm.model.encoder.embed.weight[ord("#") + OFFSET] = math.nan
    batcher = lm.batcher(1)
    batcher.insert(b"a#", Sampling(max_bytes=5, seed=0))
    batcher.insert(b"ab", Sampling(max_bytes=5, seed=0))
    steps = [step for _ in range(6) for _, step in batcher.step()]
    assert steps[0].finish_reason == "error"
    assert b"".join(step.data for step in steps) == wanted


def test_memory_does_not_grow_with_the_number_of_prompts():
    batcher = LMS["entropy"].batcher(3)
    session, sizes = batcher.decoder.session, []
    for _ in range(4):
        for seed in range(60):
            batcher.insert(noise(seed % 40, seed), Sampling(max_bytes=4, seed=seed))
        while len(batcher):
            batcher.step()
        caches = (session.boundaries.cache, session.latent, session.decoder, session.encoder.stack)
        sizes.append([cache.kv.numel() for cache in caches] + [session.encoder.states.data_SRLd.numel()])
    assert sizes[1:] == sizes[:1] * 3


def test_top_logprobs_lie_with_their_bytes():
    lm, options = LMS["space-max"], {"max_bytes": 9, "temperature": 0, "logprobs": True, "top_logprobs": 3}
    found = lm.generate(b"some words", **options)
    assert len(found.top_logprobs) == len(found.data) == len(found.logprobs)
    for byte, own, top in zip(found.data, found.logprobs, found.top_logprobs, strict=True):
        assert len(top) == 3
        assert [p for _, p in top] == sorted((p for _, p in top), reverse=True)
        assert top[0] == (byte, pytest.approx(own))
    drafted = lm.generate(b"some words", speculate=4, **options)
    assert drafted.data == found.data
    for one, other in zip(drafted.top_logprobs, found.top_logprobs, strict=True):
        assert [byte for byte, _ in one] == [byte for byte, _ in other]
    assert not lm.generate(b"some words", max_bytes=3).top_logprobs
    two = lm.batcher(2)
    for tops in (2, 5):
        two.insert(b"some words", Sampling(max_bytes=2, temperature=0, top_logprobs=tops))
    assert {len(step.top_logprobs[0]) for _, step in two.step()} == {2, 5}


@pytest.mark.parametrize("prompt", [3, None, 1.5, ["a", 3], [None], {"a": 1}])
def test_what_is_no_text_is_told(prompt):
    for lm in LMS.values():
        with pytest.raises(UserError, match="must be str or bytes"):
            lm.generate(prompt)


def test_a_tuple_of_prompts_is_a_list_of_them():
    for lm in LMS.values():
        assert [c.data for c in lm.generate(("a", b"b"), max_bytes=3, seed=0)] == [
            lm.generate(p, max_bytes=3, seed=0).data for p in ("a", "b")
        ]
        assert lm.generate([]) == []
