"""Models that only count: their probabilities sum to one, are those of the slow way, and cost what they should."""

import os
from collections import Counter

import numpy as np
import pytest

from bytequilt.baselines.counts import KneserNey, _in_a_copy, discounts, ppmd_bits
from bytequilt.baselines.vocabulary import BPE, Bytes
from bytequilt.codec import BOS, EOS, OFFSET
from bytequilt.config import UserError

TEXTS = [
    b"The cat sat on the mat. " * 3,
    b"the dog ran to the red house!",
    b"Why did they sing all day?",
    b"",
    b"aaaabaab",
]


def slow(texts, order, history, next_id):
    """The definition, with dictionaries."""
    grams = Counter()
    for text in texts:
        ids = [BOS] * (order - 2) + Bytes().encode(text, eos=True).tolist()
        grams.update(tuple(ids[at - order + 1 : at + 1]) for at in range(order - 1, len(ids)))
    levels = [grams]
    for _ in range(order - 1):
        levels.insert(0, Counter(gram[1:] for gram in levels[0]))
    p = 1 / 257
    for length, counts in enumerate(levels, 1):
        context = tuple(history)[len(history) - length + 1 :]
        discount = discounts(np.array([*counts.values()]))
        after = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == context}
        if total := sum(after.values()):
            taken = sum(discount[min(count, 3)] for count in after.values())
            own = after.get(next_id, 0)
            p = (own - discount[min(own, 3)]) / total + taken / total * p
    return p


@pytest.mark.parametrize("order", [2, 3, 6])
def test_probabilities_are_those_of_the_definition_and_sum_to_one(order):
    model, rng = KneserNey(TEXTS, Bytes(), order), np.random.default_rng(0)
    ids = Bytes().encode(b"the cat ran all day to ", bos=False)
    followers = np.array([EOS, *range(OFFSET, 260)])
    for at in range(order - 1, len(ids), 4):
        history = ids[at - order + 1 : at]
        keys = (history @ 260 ** np.arange(order - 1, 0, -1)) + followers
        p = model.probabilities(keys)
        assert p.sum() == pytest.approx(1)
        assert p.min() > 0
        for place in rng.integers(0, 257, 5):
            assert p[place] == pytest.approx(slow(TEXTS, order, history.tolist(), int(followers[place])))


def test_bits_are_of_all_bytes_and_the_end():
    model = KneserNey(TEXTS, Bytes(), 3)
    ids = [BOS, *Bytes().encode(b"the", eos=True).tolist()]
    wanted = sum(-np.log2(slow(TEXTS, 3, ids[at - 2 : at], ids[at])) for at in range(2, len(ids)))
    assert model.bits(b"the") == pytest.approx(wanted)
    assert model.bits(b"the cat") < model.bits(b"zqx jkv")


def test_tokens_count_as_bytes_do_and_too_long_ngrams_are_refused():
    ours = BPE.learn([TEXTS[0] * 20], 270)
    assert KneserNey(TEXTS, ours, 3).bits(TEXTS[1]) > 0
    with pytest.raises(UserError, match="63 bits"):
        KneserNey(TEXTS, Bytes(), 8)


def test_ppmd_costs_a_known_document_little_and_noise_eight_bits():
    pytest.importorskip("pyppmd")
    noise = np.random.default_rng(1).bytes(2000)
    known, new = ppmd_bits([b"The cat sat on the mat. " * 100], [TEXTS[0], noise], 6)
    assert known / len(TEXTS[0]) < 1
    assert 7.5 < new / len(noise) < 10


def test_ppmd_in_copies_of_the_process_counts_as_reading_all_again_does(monkeypatch):
    pytest.importorskip("pyppmd")
    training, noise = [text * 20 for text in TEXTS], np.random.default_rng(2).bytes(500)
    copied = list(ppmd_bits(training, [*TEXTS, noise], 4))
    monkeypatch.delattr("os.fork", raising=False)
    assert copied == list(ppmd_bits(training, [*TEXTS, noise], 4))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that copies processes")
def test_a_copy_that_dies_is_told():
    with pytest.raises(UserError, match="broke off"):
        _in_a_copy(lambda: 1 // 0)
