"""The same on a GPU as on the CPU. `make gpu` runs these; without CUDA they are skipped, and say so."""

import copy

import pytest
import torch
from conftest import DOCUMENTS, RULES, assert_same_steps, blt, ids_of, noise, patcher, undecided

from bytequilt.codec import encode
from bytequilt.config import HashConfig, StackConfig, TrainConfig
from bytequilt.data.batches import Batch
from bytequilt.infer import recorded
from bytequilt.infer.session import Session
from bytequilt.lm import LM
from bytequilt.model.attention import Spans, blocked, causal, flex, paired
from bytequilt.train.device import arrange
from bytequilt.train.loop import step
from bytequilt.train.optim import optimizers_of, release
from bytequilt.train.tasks import LanguageTask

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
WIDE = {  # heads that flex attention takes
    "encoder": StackConfig(dim=32, layers=1, heads=2, ffn_dim=40, window=32),
    "latent": StackConfig(dim=64, layers=2, heads=2, ffn_dim=72),
    "decoder": StackConfig(dim=32, layers=1, heads=2, ffn_dim=40, window=32),
    "hash": HashConfig(sizes=(3, 4), rows=2003),
}


def batch():
    torch.manual_seed(0)
    ids_BN = torch.cat([ids_of(noise(100, seed), noise(150, seed + 9))[:, :250] for seed in range(2)])
    closes_BN = (torch.rand(ids_BN.shape) < 0.3) | (ids_BN == 1)
    return Batch.of(ids_BN, closes_BN, ids_BN > 3, 128)


@pytest.mark.parametrize(("way", "window"), [(blocked, None), (blocked, 32), (flex, None), (flex, 32), (paired, 32)])
def test_attention(way, window):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 256, 32, device="cuda", requires_grad=True) for _ in range(3))
    opens = torch.rand(2, 256, device="cuda") < 0.02
    fast = way(q, k, v, Spans.of(opens, window))
    slow = blocked(*(x.cpu() for x in (q, k, v)), Spans.of(opens.cpu(), window))
    torch.testing.assert_close(fast.cpu(), slow, atol=2e-3, rtol=2e-3)
    weight = torch.randn_like(slow)
    ours = torch.autograd.grad((fast * weight.cuda()).sum(), (q, k, v))
    theirs = torch.autograd.grad((slow * weight).sum(), (q, k, v))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.cpu(), other.cpu(), atol=5e-3, rtol=5e-3)


def test_causal_attention():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 100, 32, device="cuda") for _ in range(3))
    opens = torch.zeros(2, 100, dtype=torch.bool, device="cuda")
    slow = blocked(q, k, v, Spans.of(opens))
    torch.testing.assert_close(causal(q, k, v, Spans.of(opens, single=True)), slow, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("shape", [{}, WIDE], ids=["narrow heads", "wide heads"])
def test_forward(shape):
    network, patch, ids_BN = blt(**shape), patcher("space"), ids_of(noise(200))
    with torch.no_grad():
        slow = network(ids_BN, patch(ids_BN))
        fast = network.cuda()(ids_BN.cuda(), patch(ids_BN.cuda()))
    torch.testing.assert_close(fast.cpu(), slow, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("rule", ["space", "entropy", "fixed"])
def test_session(rule):
    network, patch = blt().cuda(), patcher(rule)
    if patch.model is not None:
        patch.model.cuda()
    ids = torch.from_numpy(encode(noise(60)))
    with torch.no_grad():
        whole = network(ids[None].cuda(), patch(ids[None].cuda()))[0]
    session = Session(network, patch)
    pieces = torch.cat([session.feed(part) for part in ids.split(7)])
    torch.testing.assert_close(pieces, whole, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("native", [False, True])
def test_generation(native):
    lm = LM(blt(), patcher("entropy"))
    prompts, options = [noise(20, seed) for seed in range(4)], {"max_bytes": 40, "temperature": 0}
    slow = [text.data for text in lm.generate(prompts, **options)]
    lm = LM(lm.model, lm.patcher, native=native).to("cuda")
    assert lm.native == native
    assert [text.data for text in lm.generate(prompts, **options)] == slow
    assert [text.data for text in lm.generate(prompts * 9, **options)] == slow * 9  # more texts than rows


def twins(network, patch, reserve=0, rows=1):
    """Sessions on the GPU: plain and recorded."""
    network.cuda()
    if patch.model is not None:
        patch.model.cuda()
    return [Session(network, patch, reserve, rows, native) for native in (False, True)]


@pytest.mark.parametrize("rule", RULES)
def test_recorded_steps(rule):
    patch = patcher(rule)
    assert not undecided(patch, DOCUMENTS)
    assert_same_steps(twins(blt(encoder_cross="all"), patch), DOCUMENTS, error=1e-4)


@pytest.mark.parametrize("sizes", [(1, 1), (512, 64)], ids=["caches that grow", "wide caches"])
def test_recorded_steps_of_some_rows(sizes, monkeypatch):
    monkeypatch.setattr(recorded, "COLUMNS", sizes[0])
    monkeypatch.setattr(recorded, "STATES", sizes[1])
    texts, patch = [ids_of(noise(60, seed))[0] for seed in range(5)], patcher("entropy")
    assert not any(undecided(patch, text[None]) for text in texts)
    sessions = twins(blt(), patch, rows=len(texts))
    for row, text in enumerate(texts):
        for session in sessions:
            session.feed(text[: 4 * row + 1], row)
    for at in range(40):
        rows = [row for row in range(len(texts)) if (at + row) % 4] or [0]
        ids_n = torch.stack([texts[row][sessions[0].rows[row].ids] for row in rows])
        assert_same_steps(sessions, ids_n[:, None], rows, error=1e-4)
        if at == 20:
            for session in sessions:
                session.clear(3)


def test_recorded_steps_of_forks_and_after_crops():
    patch, at = patcher("budget"), 0
    sessions = twins(blt(), patch, reserve=9)
    for turn, (steps, back) in enumerate([(4, 2), (9, 9), (20, 0), (9, 7), (1, 1), (12, 8), (20, 3)]):
        assert_same_steps(sessions, DOCUMENTS[:, at : at + steps], error=1e-4)
        at += steps - back
        for session in sessions:
            session.crop(back)
        forks = [session.fork() for session in sessions]
        assert_same_steps(sessions if turn % 2 else forks, torch.full((1, 2), 40 + turn), error=1e-4)
        sessions = forks if turn % 2 else sessions


def test_entropies_of_documents():
    patch, texts = patcher("entropy"), [noise(size, size) for size in (5, 300, 40)]
    slow = patch.entropies(texts)
    patch.model.cuda()
    for ours, theirs in zip(patch.entropies(texts), slow, strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), torch.from_numpy(theirs), atol=1e-4, rtol=1e-4)


def test_scores():
    lm, texts = LM(blt(), patcher("space")), [noise(size, size) for size in (5, 300, 40)]
    slow = [score.nats for score in lm.score_documents(texts)]
    assert [score.nats for score in lm.to("cuda").score_documents(texts)] == pytest.approx(slow, rel=1e-4)


@pytest.mark.parametrize("change", [{}, {"compile": True}, {"checkpoint_activations": True}], ids=str)
@pytest.mark.parametrize("tables", ["rows", "dense"])
def test_training_steps(change, tables):
    config = TrainConfig(steps=5, warmup=0, precision="fp32", table_optimizer=tables, **change)
    plain = blt(**WIDE)
    networks = {"cpu": plain, "cuda": copy.deepcopy(plain).cuda()}
    costs = {}
    for device, network in networks.items():
        task = LanguageTask(LM(network, patcher("space")), [])
        chosen = optimizers_of(network.train(), config)
        arrange(network, config if device == "cuda" else TrainConfig(steps=1))
        costs[device] = [step(task, [batch()], chosen, config, bf16=False)["bpb"] for _ in range(5)]
        release(chosen)
    assert costs["cuda"] == pytest.approx(costs["cpu"], abs=5e-3)
    assert costs["cuda"][-1] < costs["cuda"][0]
