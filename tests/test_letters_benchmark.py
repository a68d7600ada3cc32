"""What the comparison on letters reads and draws; it trains for a quarter of an hour, which no test does."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytequilt.baselines.tokenizer import Tokenizer
from bytequilt.codec import BOS, EOS
from bytequilt.evals.wordings import LANGUAGES, TASKS


def benchmark():
    path = Path(__file__).parents[1] / "benchmarks" / "letters.py"
    spec = importlib.util.spec_from_file_location("letters_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


letters = benchmark()
SEEN = "Spell the word mirror, слово".encode()
TOKENS = letters.Tokens(Tokenizer.find("default"), [SEEN])


@given(st.binary(max_size=40))
def test_any_text_comes_back_from_the_tokens_that_are_kept(text):
    ids = TOKENS.encode(text, eos=True)
    assert (ids[0], ids[-1]) == (BOS, EOS)
    assert ids.max() < TOKENS.size
    assert b"".join(TOKENS.text(int(id)) for id in ids) == text


def test_single_bytes_are_ids_of_their_own():
    units = letters.Tokens(letters.SingleBytes(), [SEEN])
    assert (units.encode(SEEN, bos=False) - letters.OFFSET).tolist() == list(SEEN)
    assert units.size == 256 + letters.OFFSET


def test_texts_that_were_seen_have_the_tokens_of_the_tokenizer():
    pieces = [SEEN[start : start + length] for start, length in Tokenizer.find("default").pieces(SEEN)]
    assert [TOKENS.text(int(id)) for id in TOKENS.encode(SEEN, bos=False)] == pieces
    assert TOKENS.size == 4 + 256 + len({piece for piece in pieces if len(piece) > 1})


@pytest.mark.parametrize(("share", "count"), [(0.0, 100), (0.3, 50), (1.0, 100)])
def test_intervals_are_those_that_a_score_test_does_not_reject(share, count):
    low, middle, high = letters.interval(share, count)
    assert -1e-9 < low < high < 1 + 1e-9
    assert low - 1e-9 < middle == share < high + 1e-9
    for end in (end for end in (low, high) if abs(end - share) > 1e-9):
        assert abs(share - end) == pytest.approx(1.96 * np.sqrt(end * (1 - end) / count))


def test_curves_are_drawn_from_results(tmp_path):
    pytest.importorskip("matplotlib")
    names = [f"{task}, {language.name}" for task in TASKS for language in LANGUAGES]
    points = [{"examples": n, **dict.fromkeys(names, n / 3000)} for n in (1000, 2000)]
    (tmp_path / "results.json").write_text(json.dumps({"sides": {"blt": {"items": 20, "points": points}}}))
    letters.Draw(tmp_path / "results.json", tmp_path / "curves.svg").run()
    assert b"<svg" in (tmp_path / "curves.svg").read_bytes()
