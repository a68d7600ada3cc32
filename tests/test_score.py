import math

import pytest
import torch
from conftest import CROSS, RULES, blt, ids_of, noise, patcher, undecided

from bytequilt.config import UserError
from bytequilt.infer import score
from bytequilt.infer.score import BLTScorer, Score, score_documents
from bytequilt.lm import LM
from bytequilt.train.tasks import entropy_scores

DOCUMENTS = [noise(30, 1), b"", b"a", noise(12, 2), b"\xff\xfe" * 6]


def target_nats(network, ids_BN):
    """-log p of every id but the first, in float64, from one forward pass."""
    with torch.no_grad():
        log_p = network(ids_BN).double().log_softmax(-1)
    return -log_p[0, :-1].gather(1, ids_BN[0, 1:, None])[:, 0]


def full(lm):
    return lambda ids_BN: lm.model(ids_BN, lm.patcher(ids_BN))


@pytest.mark.parametrize(("chunk", "long", "batch"), [(4096, 8192, 16_384), (1, 0, 20), (7, 13, 1), (40, 20, 60)])
@pytest.mark.parametrize("kind", ["entropy", "combined", "space", "fixed"])
def test_scores_are_those_of_the_full_forward_however_they_are_cut(monkeypatch, kind, chunk, long, batch):
    for name, value in (("CHUNK", chunk), ("LONG", long), ("BATCH", batch), ("WAITING", 3 * batch)):
        monkeypatch.setattr(score, name, value)
    lm = LM(blt(), patcher(kind))
    assert not any(undecided(lm.patcher, ids_of(d)) for d in DOCUMENTS)
    done: list[int] = []
    scores = lm.score_documents(DOCUMENTS, done.append)
    direct = [float(target_nats(full(lm), ids_of(d)).sum()) for d in DOCUMENTS]
    assert [s.nats for s in scores] == pytest.approx(direct, rel=1e-5)
    assert [s.bytes for s in scores] == [len(d) for d in DOCUMENTS]
    assert sum(done) == sum(len(d) + 2 for d in DOCUMENTS)
    patches = [int((lm.patcher(ids_of(d)).start_BN & (ids_of(d) >= 4)).sum()) for d in DOCUMENTS]
    assert [s.patches for s in scores] == patches
    assert Score.total(scores).patch_bytes == sum(map(len, DOCUMENTS)) / sum(patches)


@pytest.mark.parametrize(("encoder_cross", "decoder_cross"), CROSS)
def test_bits_per_byte_count_the_eos_and_divide_by_the_bytes(encoder_cross, decoder_cross):
    lm, data = LM(blt(encoder_cross=encoder_cross, decoder_cross=decoder_cross), patcher("space")), noise(50)
    direct = target_nats(full(lm), ids_of(data))
    assert len(direct) == 51
    assert lm.bits_per_byte(data) == pytest.approx(float(direct.sum()) / math.log(2) / 50, rel=1e-5)


def test_entropy_model_is_scored_by_the_same_function():
    patch = patcher("entropy")
    direct = [float(target_nats(patch.model, ids_of(d)).sum()) for d in DOCUMENTS]
    assert [s.nats for s in entropy_scores(patch.model, DOCUMENTS)] == pytest.approx(direct, rel=1e-5)


@pytest.mark.parametrize("kind", RULES)
def test_a_continuation_costs_what_it_adds_to_its_context(kind):
    lm, context, continuation = LM(blt(), patcher(kind)), noise(30, 4), noise(12, 5)
    found = lm.score(context, continuation)
    direct = target_nats(full(lm), ids_of(context + continuation, eos=False))
    assert found.nats == pytest.approx(float(direct[30:].sum()), rel=1e-5)
    assert found.bits == pytest.approx(found.nats / math.log(2))
    assert found.bytes == 12


def test_a_context_or_a_continuation_may_be_empty():
    lm = LM(blt(), patcher("entropy"))
    assert lm.score("", "ab").nats == pytest.approx(
        float(target_nats(full(lm), ids_of(b"ab", eos=False)).sum()), rel=1e-5
    )
    assert lm.score("ab", "") == lm.score("", "") == Score(0.0, 0)


def test_scores_add_up():
    both = Score.total([Score(8 * math.log(2), 4), Score(2 * math.log(2), 1)])
    assert (both.bits, both.bits_per_byte) == (pytest.approx(10), pytest.approx(2))
    assert Score(1.0, 0).bits_per_byte == math.inf


@pytest.mark.parametrize(("batch", "long"), [(16_384, 8192), (60, 35), (1, 0)])
@pytest.mark.parametrize("kind", ["entropy", "monotonic", "space-max"])
def test_pairs_are_scored_as_one_by_one(monkeypatch, kind, batch, long):
    """Contexts shared and not, texts long and empty: in batches, from one session, or in chunks."""
    monkeypatch.setattr(score, "BATCH", batch)
    monkeypatch.setattr(score, "LONG", long)
    lm = LM(blt(), patcher(kind))
    shared = noise(25, 3)
    pairs = [(shared, noise(n, n)) for n in (9, 1, 0, 4)]
    pairs += [(noise(n, n), noise(30 - n, n + 1)) for n in (0, 3, 30)] + [(b"", noise(40, 9)), (shared, b"x")]
    assert not any(undecided(lm.patcher, ids_of(a + b, eos=False)) for a, b in pairs)
    found = lm.score(pairs)
    for one, (context, continuation) in zip(found, pairs, strict=True):
        nats = target_nats(full(lm), ids_of(context + continuation, eos=False))[len(context) :].sum()
        assert one.nats == pytest.approx(float(nats), abs=1e-4)
        assert one.bytes == len(continuation)
    assert lm.score([]) == []


@pytest.mark.parametrize("context", [4, 7, 30, 200])
def test_windows_of_a_limited_context_score_each_byte_once(context):
    """Each window reads half of the one before it again; the slow twin is one forward for each."""
    lm, data = LM(blt(), patcher("space")), noise(90, 6)
    (found,) = score_documents(BLTScorer(lm.model, lm.patcher), [data], context=context)
    ids, half, nats, at = ids_of(data)[0], context // 2, 0.0, context + 1
    nats += float(target_nats(full(lm), ids[None, :at]).sum())
    while at < len(ids):
        end = min(len(ids), at + context - half)
        window = torch.cat([ids[:1], ids[at - half : end]])
        nats += float(target_nats(full(lm), window[None])[half:].sum())
        at = end
    assert found.nats == pytest.approx(nats, rel=1e-5)
    assert found.bytes == 90
    if context == 200:
        assert found.nats == pytest.approx(lm.bits_per_byte(data) * 90 * math.log(2), rel=1e-6)


@pytest.mark.parametrize("context", [1, 0, -5, 2.5, True])
def test_a_context_is_a_whole_number(context):
    lm = LM(blt(), patcher("space"))
    with pytest.raises(UserError, match="context must be"):
        score_documents(BLTScorer(lm.model, lm.patcher), [b"ab"], context=context)
