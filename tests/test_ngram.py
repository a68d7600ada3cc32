import numpy as np
import pytest
import torch
from conftest import blt, ids_of, noise, undecided
from hypothesis import given, settings
from hypothesis import strategies as st

from bytequilt.config import NgramConfig, RuleConfig
from bytequilt.infer.session import Session
from bytequilt.info import describe
from bytequilt.lm import LM, load
from bytequilt.model.ngram import FEWEST, NgramEntropy
from bytequilt.patching.patcher import Patcher

TEXT = noise(400, 1)
IDS = ids_of(TEXT, b"", *[TEXT[:50]] * 3)
NATS = torch.from_numpy(np.random.default_rng(0).random(IDS.shape[1]).astype(np.float32))


def table(sizes=(4, 2), rows=10_007):
    found = NgramEntropy(NgramConfig(sizes=sizes, rows=rows))
    found.learn([(IDS[0], NATS)])
    return found


def mean_after(text_ids, size):
    """Mean entropy after the last `size` ids of a text wherever they come in the corpus; None if that is too rarely."""
    ids = IDS[0].tolist()
    starts = {}
    for place, id in enumerate(ids):
        starts[place] = place if id == 1 else starts[place - 1]
    gram = text_ids[-size:]

    def at(place):
        return [ids[i] if i >= starts[place] else 0 for i in range(place - size + 1, place + 1)]

    places = [place for place in range(len(ids)) if at(place) == gram]
    return float(NATS[places].mean()) if len(places) >= (FEWEST if size > 1 else 1) else None


def test_it_says_what_came_after_the_longest_ngram_that_is_known():
    """Rows enough that no two n-grams fall together; the slow twin counts in the corpus itself."""
    found = table(rows=5_000_011).nats(IDS)[0]
    lengths = set()
    for place in range(120):
        ids = [0] * 4 + IDS[0, : place + 1].tolist()
        size = next(n for n in (4, 2, 1) if mean_after(ids, n) is not None)
        lengths.add(size)
        assert float(found[place]) == pytest.approx(mean_after(ids, size), abs=1e-5)
    assert lengths == {1, 2, 4}


def test_pieces_of_a_corpus_teach_as_the_whole():
    whole, pieces = table(), NgramEntropy(NgramConfig(sizes=(4, 2), rows=10_007))
    cut = int((IDS[0] == 1).nonzero()[1])
    pieces.learn([(IDS[0, :cut], NATS[:cut]), (IDS[0, cut:], NATS[cut:])])
    torch.testing.assert_close(pieces.tables, whole.tables)
    torch.testing.assert_close(pieces.single, whole.single)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=20), min_size=1, max_size=3), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_pieces_and_steps_say_what_the_whole_says(documents, sizes):
    lean, ids_BN = table(), ids_of(*documents)
    cache, found, place, turn = lean.cache(), [], 0, 0
    while place < ids_BN.shape[1]:
        piece = ids_BN[:, place : place + sizes[turn % len(sizes)]]
        step = piece.shape[1] == 1
        found += lean.nats_step(piece[0], cache) if step else lean.nats(piece, cache)[0].tolist()
        place, turn = place + piece.shape[1], turn + 1
    assert found == lean.nats(ids_BN)[0].tolist()


def test_a_session_with_a_table_equals_the_full_forward():
    patcher = Patcher(RuleConfig(threshold=0.0), table())
    patcher.calibrate([TEXT], 4.0)
    model, ids_BN = blt(), ids_of(noise(200, 5), TEXT[:300])
    assert not undecided(patcher, ids_BN)
    with torch.no_grad():
        want = model(ids_BN, patcher(ids_BN))[0]
    session = Session(model, patcher, reserve=6)
    found = [session.feed(ids_BN[0, :70])]
    for at in range(70, ids_BN.shape[1], 10):
        session.feed(ids_BN[0, at : at + 4])
        session.crop(4)
        found += [session.step(id[None]) for id in ids_BN[0, at : at + 10]]
    torch.testing.assert_close(torch.cat(found), want, atol=1e-4, rtol=1e-4)


def test_a_model_is_saved_with_its_table(tmp_path):
    patcher = Patcher(RuleConfig(threshold=0.0), table())
    patcher.calibrate([TEXT], 4.0)
    lm = LM(blt(), patcher)
    lm.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.patcher.fingerprint == patcher.fingerprint
    assert torch.equal(again.patcher(IDS).closes_BN, patcher(IDS).closes_BN)
    options = {"max_bytes": 9, "temperature": 0}
    assert again.generate("Once", **options).data == lm.generate("Once", **options).data
    assert again.generate(["Once", "x"], **options)[0].data == lm.generate("Once", **options).data
    assert describe(str(tmp_path / "model")).flops_per_byte["entropy"] == 0
