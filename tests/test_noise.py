"""The five noises, and what texts cost under them."""

import itertools
import math
import re

import pytest
from conftest import blt, ids_of, patcher, undecided
from hypothesis import given, settings
from hypothesis import strategies as st

from bytequilt.config import UserError
from bytequilt.evals.noise import (
    CLEAN,
    NOISES,
    Noised,
    ant_speak,
    drop,
    noised,
    random_case,
    repeat,
    robustness,
    upper_case,
)
from bytequilt.infer.score import Score
from bytequilt.lm import LM

SEEDS = st.integers(0, 2**64)
LONG = "The quick brown fox jumps over the lazy dog. " * 200
DOCUMENTS = [b"The quick brown fox jumps.", b"", "Ёж: naïve ß\n".encode(), b"a\xff\xfeb c"]


def one_by_one(text: str, *forms) -> str:
    """A pattern of the texts in which each character has one of the forms, each a pattern."""
    return "".join(f"(?:{'|'.join(form(character) for form in forms)})" for character in text)


@settings(deadline=None)
@given(st.text())
def test_upper_case_is_the_text_up_to_case(text):
    assert upper_case(text) == text.upper()


@settings(deadline=None)
@given(st.text())
def test_ant_speak_without_its_spaces_is_upper_case(text):
    assert ant_speak(text)[::2] == text.upper()
    assert set(ant_speak(text)[1::2]) <= {" "}


@settings(deadline=None)
@given(st.text(), SEEDS)
def test_random_case_is_the_text_up_to_case(text, seed):
    forms = (lambda c: re.escape(c.upper())), (lambda c: re.escape(c.lower()))
    assert re.fullmatch(one_by_one(text, *forms), random_case(text, seed))


@settings(deadline=None)
@given(st.text(), SEEDS)
def test_drop_leaves_a_subsequence(text, seed):
    rest = iter(text)
    assert all(character in rest for character in drop(text, seed))


@settings(deadline=None)
@given(st.text(), SEEDS)
def test_repeat_writes_each_character_up_to_four_times(text, seed):
    assert re.fullmatch(one_by_one(text, lambda c: re.escape(c) + "{1,4}"), repeat(text, seed))


@settings(deadline=None)
@given(st.text("ab ", max_size=50).map(lambda s: "".join(c for c, _ in itertools.groupby(s))), SEEDS)
def test_repeat_collapses_back_to_a_text_without_doubles(text, seed):
    assert "".join(c for c, _ in itertools.groupby(repeat(text, seed))) == text


@pytest.mark.parametrize("seed", range(3))
def test_shares_are_those_of_the_paper(seed):
    letters = "".join(filter(str.isalpha, LONG))
    assert len(drop(LONG, seed)) == pytest.approx(0.9 * len(LONG), rel=0.02)
    assert sum(map(str.isupper, random_case(letters, seed))) == pytest.approx(0.5 * len(letters), rel=0.05)
    runs = [len(list(run)) for _, run in itertools.groupby(repeat("ab" * 5000, seed))]
    counts = {length: runs.count(length) / len(runs) for length in set(runs)}
    assert counts == pytest.approx({1: 0.8, 2: 0.2 / 3, 3: 0.2 / 3, 4: 0.2 / 3}, abs=0.012)


@settings(deadline=None)
@given(st.one_of(st.binary(), st.text().map(str.encode)), st.sampled_from(sorted(NOISES)), SEEDS)
def test_any_bytes_bear_noise_and_the_seed_decides_it(data, name, seed):
    once = noised(data, name, seed)
    assert once == noised(data, name, seed)
    # compared as bytes: repeated, the bytes of a broken character may make a whole one
    assert once == NOISES[name](data.decode("utf-8", "surrogateescape"), seed).encode("utf-8", "surrogateescape")


def test_seeds_differ():
    for name in ("Drop", "RandomCase", "Repeat"):
        assert noised(LONG.encode(), name, 0) != noised(LONG.encode(), name, 1)


def test_bytes_that_are_not_utf_8_come_through():
    assert noised(b"a\xff\xc3b", "UpperCase") == b"A\xff\xc3B"
    assert noised(b"a\xffb", "AntSpeak") == b"A \xff B"


def test_an_unknown_noise_is_named_beside_those_there_are():
    with pytest.raises(UserError, match="'Shout'; there are AntSpeak, Drop, RandomCase, Repeat, UpperCase"):
        noised(b"a", "Shout")


def nats(lm: LM, document: bytes) -> float:
    """-log p of all bytes and the EOS, from one forward pass."""
    ids_BN = ids_of(document)
    log_p = lm.model(ids_BN, lm.patcher(ids_BN)).detach().double().log_softmax(-1)
    return -float(log_p[0, :-1].gather(1, ids_BN[0, 1:, None]).sum())


@pytest.mark.parametrize("kind", ["entropy", "space"])
def test_robustness_is_what_noised_documents_cost(kind):
    lm = LM(blt(), patcher(kind))
    rows = robustness(lm, DOCUMENTS, seed=3)
    assert list(rows) == [CLEAN, *NOISES]
    for name, row in rows.items():
        read = DOCUMENTS if name == CLEAN else [noised(d, name, 3 + place) for place, d in enumerate(DOCUMENTS)]
        assert not any(undecided(lm.patcher, ids_of(document)) for document in read)
        bits = sum(nats(lm, document) for document in read) / math.log(2)
        assert row["bpb"] == pytest.approx(bits / len(b"".join(read)), rel=1e-5)
        assert row["bits_per_clean_byte"] == pytest.approx(bits / len(b"".join(DOCUMENTS)), rel=1e-5)
        assert row["bytes"] == len(b"".join(read))
        patches = sum(int((lm.patcher(ids_of(d)).start_BN & (ids_of(d) >= 4)).sum()) for d in read)
        assert row["mean_patch_bytes"] == row["bytes"] / patches


class Uniform:
    """A model that finds all bytes alike, and has no patches."""

    def score_documents(self, documents):
        return [Score(len(d) * math.log(256), len(d)) for d in documents]


def test_a_model_need_not_have_patches():
    rows = robustness(Uniform(), [LONG.encode()])
    assert {row["mean_patch_bytes"] for row in rows.values()} == {None}
    assert [row["bpb"] for row in rows.values()] == pytest.approx([8] * 6)
    longer = rows["AntSpeak"]["bits_per_clean_byte"] / rows[CLEAN]["bits_per_clean_byte"]
    assert longer == pytest.approx((2 * len(LONG) - 1) / len(LONG))


@pytest.mark.parametrize("documents", [[], [b""]])
def test_noise_needs_text(documents):
    with pytest.raises(UserError, match="needs text"):
        robustness(Uniform(), documents)


def test_tasks_are_read_through_noise_and_answered_without():
    lm = LM(blt(), patcher("space"))
    pairs, dirty = [("The cat ", "sat"), ("a b", "c")], [("THE CAT ", "sat"), ("A B", "c")]
    assert [s.nats for s in Noised(lm, "UpperCase").score(pairs)] == [s.nats for s in lm.score(dirty)]
    found = Noised(lm, "UpperCase").generate(["The cat "], max_bytes=5, temperature=0)
    assert [one.data for one in found] == [lm.generate("THE CAT ", max_bytes=5, temperature=0).data]
