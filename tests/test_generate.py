import dataclasses

import pytest
import torch
from conftest import blt, ids_of, noise, patcher

from bytequilt import load
from bytequilt.codec import BOE, BOS, BPE_DELIMITER, EOS, OFFSET
from bytequilt.config import RuleConfig, UserError
from bytequilt.infer import sampler
from bytequilt.infer.sampling import Sampling
from bytequilt.infer.writer import Writer
from bytequilt.lm import LM


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
    found = lm.generate(prompt, max_bytes=length, temperature=1, seed=2)
    assert len(found.data) == length
    starts = lm.patcher(ids_of(prompt + found.data, eos=False)).starts[0]
    assert found.stats.patches == sum(start > len(prompt) for start in starts)


def test_generation_ends_with_the_eos():
    lm = LM(blt(1), patcher("byte"))
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


# --------------------------------------------------------------------------------------------- what ends a text


def written(data, **options):
    """Steps of a writer that draws these bytes, whatever the logits."""
    writer, steps = Writer([], Sampling(**({"max_bytes": len(data) + 1} | options))), []
    for byte in data:
        steps.append(writer.push(byte + OFFSET))
        if writer.finish_reason:
            break
    return steps


@pytest.mark.parametrize(
    ("data", "stop", "kept"),
    [
        (b"one, two, three", ", t", b"one"),
        (b"aaab", ("aab",), b"a"),
        (b"abcabd!", (b"abd", "xx"), b"abc"),
        (b"stop", "stop", b""),
        (b"xab", ("b", "ab"), b"x"),
        ("caf\u00e9 noir".encode(), "\u00e9", b"caf"),
    ],
)
def test_a_text_ends_before_its_stop_string(data, stop, kept):
    steps = written(data, stop=stop)
    assert b"".join(step.data for step in steps) == kept
    assert steps[-1].finish_reason == "stop"
    assert not any(step.finish_reason for step in steps[:-1])


def test_bytes_are_held_back_only_while_they_may_begin_a_stop_string():
    steps = written(b"a--b-->c", stop="-->")
    assert [step.data for step in steps] == [b"a", b"", b"", b"--b", b"", b"", b""]
    assert [step.data for step in written(b"a--", stop="-->", max_bytes=3)] == [b"a", b"", b"--"]


def test_characters_come_whole_and_broken_ones_as_replacements():
    steps = written("\u00e9".encode() + b"\xff\xc3", max_bytes=4)
    assert [step.text for step in steps] == ["", "\u00e9", "\ufffd", "\ufffd"]
    assert b"".join(step.data for step in steps) == b"\xc3\xa9\xff\xc3"


def test_log_probabilities_are_those_of_the_model_and_lie_with_their_bytes():
    lm, prompt = LM(blt(), patcher("entropy")), b"some words"
    found = lm.generate(prompt, max_bytes=20, temperature=0.5, top_k=9, seed=2, logprobs=True)
    ids_BN = ids_of(prompt + found.data, eos=False)
    with torch.no_grad():
        log_p = lm.model(ids_BN, lm.patcher(ids_BN))[0].log_softmax(-1)
    want = log_p[len(prompt) : -1].gather(1, ids_BN[0, len(prompt) + 1 :, None])[:, 0]
    assert found.logprobs == pytest.approx(want.tolist(), abs=1e-4)
    stopped = lm.generate(prompt, max_bytes=20, temperature=0.5, top_k=9, seed=2, logprobs=True, stop=found.data[7:9])
    assert len(stopped.logprobs) == len(stopped.data) < 20
    assert stopped.logprobs == found.logprobs[: len(stopped.data)]
    assert not lm.generate(prompt, max_bytes=3).logprobs


def test_options_that_there_are_not_are_refused():
    lm = LM(blt(), patcher("space"))
    with pytest.raises(UserError, match="no option heat; there are"):
        lm.generate("Once", heat=1.0)
    with pytest.raises(UserError, match="speculate must"):
        lm.stream("Once", speculate=-1)
    with pytest.raises(UserError, match="one prompt at a time"):
        lm.generate(["a", "b"], speculate=2)


# ------------------------------------------------------------------------------------------- side by side


TINY = load("tiny")
PROMPTS = ["The president of the United States", "And God said", "", "def main(", "x" * 700, "Call me", b"\xff\x00"]


def test_texts_of_a_trained_model_do_not_depend_on_their_neighbours():
    """Seven texts in three places, greedy and sampled, with ends of their own."""
    batcher, found = TINY.batcher(rows=3), {}
    wanted = [
        Sampling(max_bytes=17 + 5 * i, temperature=[0, 0.8][i % 2], seed=i, stop=["the", "zzz"][i % 2])
        for i in range(len(PROMPTS))
    ]
    keys = [
        batcher.insert(prompt.encode() if isinstance(prompt, str) else prompt, sampling)
        for prompt, sampling in zip(PROMPTS, wanted, strict=True)
    ]
    while len(batcher):
        for key, step in batcher.step():
            found[key] = found.get(key, b"") + step.data
    for key, prompt, asked in zip(keys, PROMPTS, wanted, strict=True):
        assert found[key] == TINY.generate(prompt, **dataclasses.asdict(asked)).data


def test_a_list_gives_what_each_gives_alone_and_counts_it():
    options = {"max_bytes": 25, "temperature": 0.7, "seed": 4}
    for prompt, one in zip(PROMPTS, TINY.generate(PROMPTS, **options), strict=True):
        alone = TINY.generate(prompt, **options)
        assert (one.data, one.text, one.finish_reason) == (alone.data, alone.text, alone.finish_reason)
        assert dataclasses.replace(one.stats, seconds=0) == dataclasses.replace(alone.stats, seconds=0)


def test_texts_come_and_go():
    batcher = TINY.batcher(rows=2)
    first, second, third = (batcher.insert(b"The", Sampling(max_bytes=n, seed=0)) for n in (30, 30, 0))
    seen = [key for _ in range(5) for key, _ in batcher.step()]
    assert {first, second} == set(seen)
    assert len(batcher) == 3
    batcher.remove(first)
    batcher.remove(99)
    seen = [batcher.step() for _ in range(40)]
    keys = [key for steps in seen for key, _ in steps]
    assert first not in keys
    assert keys.count(third) == 1
    assert keys.count(second) == 25
    assert not len(batcher)
    assert batcher.step() == []


def test_a_long_prompt_does_not_hold_up_the_others():
    batcher = TINY.batcher(rows=2)
    short = batcher.insert(b"The", Sampling(max_bytes=20, seed=0))
    batcher.step()
    long = batcher.insert(b"word " * 500, Sampling(max_bytes=2, seed=0))
    steps = [batcher.step() for _ in range(6)]
    assert all(any(key == short for key, _ in step) for step in steps)
    assert [sum(key == long for key, _ in step) for step in steps] == [0, 0, 0, 0, 1, 1]


# ------------------------------------------------------------------------------------------- self-speculation


@pytest.mark.parametrize("kind", ["entropy", "monotonic", "space-max", "byte"])
@pytest.mark.parametrize("guesses", [1, 2, 5, 16])
def test_greedy_text_is_the_same_with_speculation(kind, guesses):
    lm = LM(blt(), patcher(kind))
    plain, drafted = (lm.generate(b"a prompt", max_bytes=50, temperature=0, speculate=k) for k in (0, guesses))
    assert (drafted.data, drafted.finish_reason) == (plain.data, plain.finish_reason)
    assert drafted.stats.patches == plain.stats.patches
    assert drafted.stats.drafted >= drafted.stats.accepted


def test_speculation_on_a_trained_model_saves_latent_calls():
    for prompt in PROMPTS[:2]:
        plain, drafted = (TINY.generate(prompt, max_bytes=80, temperature=0, speculate=k) for k in (0, 8))
        assert drafted.data == plain.data
        assert drafted.stats.accepted > 40
        assert drafted.stats.latent_calls < 0.8 * plain.stats.latent_calls


def test_stop_strings_and_lengths_end_a_drafted_text_too():
    plain = TINY.generate(PROMPTS[0], max_bytes=60, temperature=0)
    for options in ({"stop": plain.data[30:34]}, {"max_bytes": 31}, {"max_bytes": 0}, {"max_bytes": 1}):
        one, other = (
            TINY.generate(PROMPTS[0], temperature=0, speculate=k, **({"max_bytes": 60} | options)) for k in (0, 7)
        )
        assert (one.data, one.finish_reason) == (other.data, other.finish_reason)
        assert one.stats.patches == other.stats.patches


@pytest.mark.parametrize("eos", [0.0, 5.5], ids=["no EOS", "EOS"])
def test_sampling_with_speculation_has_the_true_distribution(monkeypatch, eos):
    """Texts of up to three bytes that top-k leaves, drawn often, beside their probabilities from the full forward."""
    text_only = sampler.TEXT_ONLY.clone()
    text_only[EOS] = eos or -torch.inf
    monkeypatch.setattr(sampler, "TEXT_ONLY", text_only)
    lm, prompt = LM(blt(3), patcher("entropy-max")), b"some prompt "
    with torch.no_grad():
        lm.model.decoder.head.weight[OFFSET : OFFSET + 200] *= 1.5
    going, ended = {b"": 1.0}, {}
    for _ in range(3):
        longer = {}
        for text, chance in going.items():
            ids_BN = ids_of(prompt + text, eos=False)
            with torch.no_grad():
                top = (lm.model(ids_BN, lm.patcher(ids_BN))[0, -1] + text_only).topk(2)
            for share, id in zip((top.values / 1.5).softmax(-1).tolist(), top.indices.tolist(), strict=True):
                if id == EOS:
                    ended[text, "eos"] = chance * share
                else:
                    longer[text + bytes([id - OFFSET])] = chance * share
        going = longer
    ended |= {(text, "length"): chance for text, chance in going.items()}
    assert len(ended) == (4 if eos else 8)
    times, options = 300, {"max_bytes": 3, "temperature": 1.5, "top_k": 2}
    drawn = [lm.generate(prompt, speculate=3, seed=seed, **options) for seed in range(times)]
    assert 0 < sum(d.stats.accepted for d in drawn) <= sum(d.stats.drafted for d in drawn)
    counts = {end: sum((d.data, d.finish_reason) == end for d in drawn) for end in ended}
    assert sum(counts.values()) == times
    surprise = sum((counts[end] - times * chance) ** 2 / (times * chance) for end, chance in ended.items())
    assert surprise < (16.3 if eos else 24.3)  # chi-square of 3 and 7 degrees of freedom: one in a thousand


def test_every_guess_of_an_exact_draft_is_counted():
    lm = LM(blt(), patcher(RuleConfig(kind="fixed", stride=50)))
    stats = lm.generate(b"a prompt", max_bytes=20, temperature=0, speculate=8).stats
    assert stats.drafted == stats.accepted > 10


@pytest.mark.parametrize("change", [{"utf8": True}, {"repetition_penalty": 1.7}, {"logprobs": True}])
def test_speculation_goes_with_every_option(change):
    lm = LM(blt(), patcher("entropy"))
    plain, drafted = (lm.generate(b"a prompt", max_bytes=40, temperature=0, speculate=k, **change) for k in (0, 5))
    assert (drafted.data, drafted.finish_reason) == (plain.data, plain.finish_reason)
    assert drafted.logprobs == pytest.approx(plain.logprobs, abs=1e-4)
