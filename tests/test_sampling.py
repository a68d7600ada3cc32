from collections import Counter

import pytest
import torch
from conftest import blt, ids_of, noise, patcher

from bytequilt.codec import BOE, BOS, BPE_DELIMITER, EOS, OFFSET
from bytequilt.config import UserError
from bytequilt.infer.sampling import sampler
from bytequilt.lm import LM

A, B, C = (ord(letter) + OFFSET for letter in "ABC")


def logits(**by_id):
    """Log-probabilities of A, B and C, nothing else in reach."""
    out = torch.full((260,), -50.0)
    for name, probability in by_id.items():
        out[globals()[name]] = torch.tensor(probability).log()
    return out


def shares(draw, of, times=1500):
    counts = Counter(draw(of) for _ in range(times))
    return {id: count / times for id, count in counts.items()}


def test_greedy_takes_the_likeliest():
    assert {sampler(temperature=0)(logits(A=0.3, B=0.4, C=0.3)) for _ in range(9)} == {B}


def test_draws_follow_the_probabilities_and_the_temperature():
    assert shares(sampler(seed=0), logits(A=0.8, B=0.2)) == {
        A: pytest.approx(0.8, abs=0.05),
        B: pytest.approx(0.2, abs=0.05),
    }
    warm = shares(sampler(temperature=2.0, seed=0), logits(A=0.8, B=0.2))  # odds of 4 become odds of 2
    assert warm[A] == pytest.approx(2 / 3, abs=0.05)


def test_top_k_keeps_the_k_likeliest():
    of = logits(A=0.5, B=0.3, C=0.2)
    assert set(shares(sampler(top_k=1, seed=0), of)) == {A}
    assert shares(sampler(top_k=2, seed=0), of) == {
        A: pytest.approx(5 / 8, abs=0.05),
        B: pytest.approx(3 / 8, abs=0.05),
    }
    assert set(shares(sampler(top_k=1000, seed=0), of)) == {A, B, C}


@pytest.mark.parametrize(("top_p", "kept"), [(0.4, {A}), (0.6, {A, B}), (0.9, {A, B, C}), (1e-9, {A})])
def test_top_p_keeps_the_fewest_that_reach_p(top_p, kept):
    assert set(shares(sampler(top_p=top_p, seed=0), logits(A=0.5, B=0.3, C=0.2))) == kept


def test_the_same_seed_draws_the_same():
    def draws(seed):
        draw = sampler(seed=seed)
        return [draw(torch.zeros(260)) for _ in range(20)]

    assert draws(3) == draws(3) != draws(4)
    assert draws(None) != draws(None)


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_ids_that_are_no_text_are_never_drawn(temperature):
    of, draw = torch.zeros(260), sampler(temperature=temperature, seed=0)
    of[[BOE, BOS, BPE_DELIMITER]] = 100.0
    of[EOS] = 4.0
    drawn = set(shares(draw, of, 300))
    assert not drawn & {BOE, BOS, BPE_DELIMITER}
    assert EOS in drawn


@pytest.mark.parametrize("options", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.5}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UserError, match="temperature and top_k"):
        sampler(**options)


def greedy(lm, prompt, count):
    """The slow twin: a full forward for every byte."""
    data = b""
    while len(data) < count:
        ids_BN = ids_of(prompt + data, eos=False)
        with torch.no_grad():
            last = lm.model(ids_BN, lm.patcher(ids_BN))[0, -1]
        last[[BOE, BOS, BPE_DELIMITER]] = -torch.inf
        if int(last.argmax()) == EOS:
            break
        data += bytes([int(last.argmax()) - OFFSET])
    return data


@pytest.mark.parametrize("kind", ["entropy", "monotonic", "space-max"])
def test_greedy_generation_is_the_full_forward_byte_by_byte(kind):
    lm = LM(blt(), patcher(kind))
    prompt = b"\xff not UTF-8 \xe2\x82"
    found = lm.generate(prompt, max_bytes=40, temperature=0)
    assert found.data == greedy(lm, prompt, 40)
    assert found.text == found.data.decode("utf-8", "replace")
    assert (found.finish_reason, found.stats.bytes) == ("length", 40)


@pytest.mark.parametrize("kind", ["entropy", "space", "byte", "fixed"])
@pytest.mark.parametrize("length", [0, 1, 2, 30])
def test_stats_count_the_patches_that_begin_with_a_generated_byte(kind, length):
    lm, prompt = LM(blt(), patcher(kind)), noise(11)
    found = lm.generate(prompt, max_bytes=length, temperature=1, seed=1)
    assert len(found.data) == length
    starts = lm.patcher(ids_of(prompt + found.data, eos=False)).starts[0]
    assert found.stats.patches == sum(start > len(prompt) for start in starts)


def test_generation_ends_with_the_eos():
    lm = LM(blt(), patcher("byte"))
    with torch.no_grad():
        lm.model.decoder.head.weight[EOS] *= 3  # likely, and far from certain
    found = {prompt: lm.generate(prompt, max_bytes=9, temperature=0) for prompt in (noise(5, s) for s in range(12))}
    for prompt, completion in found.items():
        assert completion.data == greedy(lm, prompt, 9)
        assert completion.finish_reason == ("length" if len(completion.data) == 9 else "eos")
        assert completion.stats.patches == len(completion.data)
    assert {0, 9} < {len(completion.data) for completion in found.values()}


def test_steps_are_the_completion_byte_by_byte():
    lm = LM(blt(), patcher("space"))
    steps, whole = (call("Once", max_bytes=60, temperature=1.0, seed=5) for call in (lm.stream, lm.generate))
    steps = list(steps)
    assert b"".join(s.data for s in steps) == whole.data
    assert "".join(s.text for s in steps) == whole.text == whole.data.decode("utf-8", "replace")
    assert [s.finish_reason for s in steps] == [None] * (len(steps) - 1) + [whole.finish_reason]


def test_no_bytes_asked_for_are_none():
    (step,) = LM(blt(), patcher("space")).stream("Once", max_bytes=0)
    assert (step.data, step.text, step.finish_reason) == (b"", "", "length")
    with pytest.raises(UserError, match="max_bytes"):
        LM(blt(), patcher("space")).generate("Once", max_bytes=-1)


def test_a_list_of_prompts_gives_each_its_own():
    lm = LM(blt(), patcher("space"))
    both = lm.generate(["one", "two"], max_bytes=9, seed=0)
    assert [c.data for c in both] == [lm.generate(p, max_bytes=9, seed=0).data for p in ("one", "two")]
