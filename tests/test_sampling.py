import math
from collections import Counter, defaultdict
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytequilt.codec import BOE, BOS, BPE_DELIMITER, EOS, OFFSET
from bytequilt.config import UserError
from bytequilt.infer.sampler import Past, Sampler, accepted, drawn, redrawn
from bytequilt.infer.sampling import Sampling
from bytequilt.infer.utf8 import ALLOWED, state_of

A, B, C = (ord(letter) + OFFSET for letter in "ABC")


def logits(**by_id):
    """Log-probabilities of A, B and C, nothing else in reach."""
    out = torch.full((260,), -50.0)
    for name, probability in by_id.items():
        out[globals()[name]] = torch.tensor(probability).log()
    return out


def draws(of, times=1500, text=b"", left=4, **options):
    seed = options.pop("seed", 0)
    sampler, random = Sampler([Sampling(**({"temperature": 1.0} | options))]), Random(seed)
    past = Past([byte + OFFSET for byte in text[-64:]], left)
    return [int(sampler.draw(of[None], [past], [random])) for _ in range(times)]


def shares(of, times=1500, **options):
    return {id: count / times for id, count in Counter(draws(of, times, **options)).items()}


def near(**by_id):
    return {globals()[name]: pytest.approx(share, abs=0.05) for name, share in by_id.items()}


def test_greedy_takes_the_likeliest():
    assert set(draws(logits(A=0.3, B=0.4, C=0.3), 9, temperature=0)) == {B}


def test_draws_follow_the_probabilities_and_the_temperature():
    assert shares(logits(A=0.8, B=0.2)) == near(A=0.8, B=0.2)
    assert shares(logits(A=0.8, B=0.2), temperature=2.0) == near(A=2 / 3, B=1 / 3)  # odds of 4 become odds of 2


def test_top_k_keeps_the_k_likeliest():
    of = logits(A=0.5, B=0.3, C=0.2)
    assert set(draws(of, top_k=1)) == {A}
    assert shares(of, top_k=2) == near(A=5 / 8, B=3 / 8)
    assert set(draws(of, top_k=1000)) == {A, B, C}


@pytest.mark.parametrize(("top_p", "kept"), [(0.4, {A}), (0.6, {A, B}), (0.9, {A, B, C}), (1e-9, {A})])
def test_top_p_keeps_the_fewest_that_reach_p(top_p, kept):
    assert set(draws(logits(A=0.5, B=0.3, C=0.2), top_p=top_p)) == kept


@pytest.mark.parametrize(("min_p", "kept"), [(0.3, {A, B, C}), (0.5, {A, B}), (0.7, {A})])
def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest(min_p, kept):
    assert set(draws(logits(A=0.5, B=0.3, C=0.2), min_p=min_p)) == kept


def test_filters_work_one_after_another():
    of = logits(A=0.5, B=0.3, C=0.2)
    assert shares(of, temperature=0.5, top_k=2) == near(A=25 / 34, B=9 / 34)
    assert set(draws(of, top_k=2, min_p=0.7)) == {A}


def test_repeated_bytes_are_less_likely():
    of = torch.full((260,), -50.0)
    of[[A, B]] = torch.tensor([3.0, 3.0])
    assert shares(of, text=b"C" + b"A" + b"x" * 63, repetition_penalty=1.5) == near(
        A=1 / (1 + math.e), B=math.e / (1 + math.e)
    )
    assert shares(of, text=b"A" + b"x" * 64, repetition_penalty=1.5) == near(A=0.5, B=0.5)  # out of sight
    assert set(draws(-of.abs(), text=b"A", temperature=0, repetition_penalty=2)) == {B}


def test_the_same_seed_draws_the_same():
    flat = torch.zeros(260)
    assert draws(flat, 20, seed=3) == draws(flat, 20, seed=3) != draws(flat, 20, seed=4)
    assert draws(flat, 20, seed=None) != draws(flat, 20, seed=None)


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_ids_that_are_no_text_are_never_drawn(temperature):
    of = torch.zeros(260)
    of[[BOE, BOS, BPE_DELIMITER]] = 100.0
    of[EOS] = 4.0
    drawn = set(draws(of, 300, temperature=temperature))
    assert not drawn & {BOE, BOS, BPE_DELIMITER}
    assert EOS in drawn


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1}, {"temperature": math.nan}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.5}, {"min_p": 1},
        {"min_p": -0.1}, {"repetition_penalty": 0}, {"max_bytes": -1}, {"stop": ""}, {"stop": ("a", b"")},
        {"max_bytes": 1.5}, {"max_bytes": "3"}, {"top_k": 1.5}, {"stop": 5}, {"stop": (5,)}, {"seed": 10**30},
        {"temperature": math.inf}, {"repetition_penalty": 1e-45}, {"max_bytes": True}, {"utf8": 1}, {"top_p": "1"},
        {"logit_bias": {256: 1.0}}, {"logit_bias": {65: math.nan}}, {"logit_bias": [1]}, {"logit_bias": {"a": 1.0}},
        {"frequency_penalty": 2.1}, {"presence_penalty": -2.1}, {"top_logprobs": 6}, {"top_logprobs": -1},
        {"temperature": torch.ones(2)}, {"max_bytes": None}, {"seed": 1.0},
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UserError, match="must"):
        Sampling(**options)


def test_the_coldest_sampling_is_greedy():
    assert set(draws(logits(A=0.3, B=0.4, C=0.3), 9, temperature=1e-42)) == {B}


def test_rejection_and_redrawing_leave_the_true_distribution():
    """Speculative sampling on distributions that overlap in part: drafts from one, outcomes as from the other."""
    random = Random(0)
    true, drafted = (torch.zeros(260) for _ in range(2))
    true[[A, B]] = torch.tensor([0.7, 0.3])
    drafted[[A, B, C]] = torch.tensor([0.2, 0.5, 0.3])
    found = Counter()
    for _ in range(4000):
        guess = int(drawn(drafted[None], [random.random()]))
        found[guess if accepted(guess, true, drafted, random) else redrawn(true, drafted, random)] += 1
    assert {id: count / 4000 for id, count in found.items()} == near(A=0.7, B=0.3)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.text(max_size=3), st.integers(0, 3))
def test_text_that_is_to_be_utf8_is_utf8(seed, length, prompt, cut):
    """From noise, after a prompt that breaks off in the middle of a character or not, up to its last byte."""
    text, random = prompt.encode(), torch.Generator().manual_seed(seed)
    text = text[: len(text) - cut] if cut < len(text) else text
    missing = next(n for n in range(4) if _decodes(text + b"\x80" * n) or _decodes(text + b"\xa0" * n) or n == 3)
    for left in range(length + missing, 0, -1):
        (id,) = draws(torch.randn(260, generator=random) * 3, 1, text, left, utf8=True, seed=seed + left)
        if id == EOS:
            break
        text += bytes([id - OFFSET])
    text.decode()


def test_a_byte_may_follow_if_some_character_goes_on_so():
    """The slow twin: all characters. After any beginning of one, with enough bytes left, and between characters."""
    following, sizes = defaultdict(set), {EOS: 1}
    for number in [*range(0xD800), *range(0xE000, 0x110000)]:
        character = chr(number).encode()
        sizes[character[0] + OFFSET] = len(character)
        for count in range(len(character)):
            following[character[:count]].add(character[count] + OFFSET)
    allowed = [set(mask_V.isfinite().nonzero()[:, 0].tolist()) for mask_V in ALLOWED]
    following[b""].add(EOS)
    assert all(allowed[state_of(b"\xe2\x82\xac" + begun, 4)] == ids for begun, ids in following.items())
    for left in range(1, 5):
        assert allowed[state_of(b"a", left)] == {id for id, size in sizes.items() if size <= left}


def _decodes(data):
    try:
        return bool(data.decode() or True)
    except UnicodeDecodeError:
        return False


def test_a_prompt_that_is_no_utf8_can_go_on_as_utf8():
    for prompt in (b"\xff", b"\x80\x80\x80\x80", b"\xe0\x80", b"\xed\xa0", b"\xf4\x90", b"a\xc3\xc3"[:2] + b"\xff"):
        drawn = draws(torch.zeros(260), 400, text=prompt, utf8=True)
        assert not {id for id in drawn if 0x80 <= id - OFFSET < 0xC2}
        assert {id for id in drawn if id - OFFSET >= 0xC2}


def test_numbers_of_numpy_and_torch_are_numbers():
    plain = Sampling(max_bytes=3, temperature=0.5, top_k=2, seed=7, stop=None)
    other = Sampling(
        max_bytes=np.int64(3), temperature=np.float32(0.5), top_k=torch.tensor(2), seed=np.uint8(7), stop=()
    )
    assert plain == other
    assert type(other.max_bytes) is type(other.top_k) is type(other.seed) is int
    assert Sampling(temperature=torch.tensor(0.5)).temperature == 0.5


def test_a_bias_is_added_to_the_logits_of_bytes():
    of = logits(A=0.5, B=0.3, C=0.2)
    assert shares(of, logit_bias={ord("B"): math.log(10)}) == near(A=5 / 37, B=30 / 37, C=2 / 37)
    assert set(draws(of, 20, logit_bias={ord("C"): 100.0})) == {C}


def test_penalties_count_what_was_generated():
    of, sampling = torch.zeros(1, 260), Sampling(temperature=1.0, frequency_penalty=0.5, presence_penalty=-1.0)
    past = Past([A, A], 10)  # of the prompt: not counted
    for id in (B, B, C):
        past.push(id)
    changed = Sampler([sampling]).filtered(of, [past])[0]
    assert [float(changed[id]) for id in (A, B, C)] == pytest.approx([0.0, -2 * 0.5 + 1.0, -0.5 + 1.0])


OPTIONS = [
    {"temperature": 0}, {"temperature": 0.7}, {"temperature": 1.0, "top_k": 3}, {"top_p": 0.5}, {"min_p": 0.2},
    {"repetition_penalty": 1.5}, {"utf8": True}, {"logit_bias": {65: 3.0}}, {"frequency_penalty": 1.0},
    {"presence_penalty": -1.5}, {"top_k": 5, "top_p": 0.9, "min_p": 0.01, "temperature": 1.3},
]  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(OPTIONS), min_size=1, max_size=6), st.integers(0, 2**31))
def test_texts_drawn_together_are_as_if_alone(options, seed):
    """Whatever their neighbours ask for: the same distribution, and the same id from the same number."""
    samplings = [Sampling(**given) for given in options]
    of = torch.randn(len(options), 260, generator=torch.Generator().manual_seed(seed)) * 3
    pasts = [Past([A + row, B, C], 9, Counter({A + row: 2})) for row in range(len(options))]
    together = Sampler(samplings).draw(of, pasts, [Random(row) for row in range(len(options))])
    chances = Sampler(samplings).probabilities(of, pasts)
    for row, sampling in enumerate(samplings):
        alone = Sampler([sampling])
        torch.testing.assert_close(chances[row : row + 1], alone.probabilities(of[row : row + 1], [pasts[row]]))
        assert int(alone.draw(of[row : row + 1], [pasts[row]], [Random(row)])) == int(together[row])


FINITE = st.floats(allow_nan=False, allow_infinity=False)
EXTREME = st.sampled_from(
    [0.0, -0.0, 5e-324, 1e-320, 1e-46, 1e-38, 1e-6, math.nextafter(1, 0), 1.0, 3.4e38, 1e39, 1e308]
)
NUMBER = st.one_of(EXTREME, EXTREME.map(lambda number: -number), FINITE)
REALS = ("temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")
ANY_OPTIONS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(REALS, NUMBER) | {"logit_bias": st.dictionaries(st.integers(0, 255), NUMBER)}
)


def accepts(options):
    try:
        return Sampling(**options)
    except UserError:
        return None


@settings(max_examples=150, deadline=None)
@given(st.lists(ANY_OPTIONS, min_size=1, max_size=4), st.integers(0, 2**31))
def test_whatever_options_are_accepted_an_id_is_drawn(options, seed):
    """Also where a number is 0 or infinite in fp32; and such a text leaves its neighbours as they were."""
    samplings = [sampling for given in options if (sampling := accepts(given)) is not None] or [Sampling()]
    of = torch.randn(len(samplings), 260, generator=torch.Generator().manual_seed(seed)) * 9
    pasts = [Past([A + row, B, C], 9, Counter({A + row: 2})) for row in range(len(samplings))]
    ids = Sampler(samplings).draw(of, pasts, [Random(row) for row in range(len(samplings))]).tolist()
    chances = Sampler(samplings).probabilities(of, pasts)
    torch.testing.assert_close(chances.sum(-1), torch.ones(len(samplings)))
    for row, sampling in enumerate(samplings):
        assert ids[row] == EOS or ids[row] >= OFFSET
        assert chances[row, ids[row]] > 0
        assert ids[row] == int(Sampler([sampling]).draw(of[row : row + 1], [pasts[row]], [Random(row)]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_text_whose_logits_are_no_numbers_fails_alone(bad):
    of = torch.zeros(3, 260)
    of[1, 70] = bad
    for temperature in (0, 1.0):
        sampler = Sampler([Sampling(temperature=temperature)] * 3)
        ids = sampler.draw(of, [Past([], 9)] * 3, [Random(0)] * 3).tolist()
        assert ids[1] == -1
        assert min(ids[0], ids[2]) >= 0
