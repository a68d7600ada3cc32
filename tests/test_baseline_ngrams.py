"""Baselines with hashed n-grams and tied heads: causal, cached as in parallel, counted, saved, trained."""

from itertools import pairwise

import pytest
import torch
from conftest import noise

from bytequilt.baselines.baseline import Baseline, build
from bytequilt.baselines.networks import baseline_flops
from bytequilt.baselines.vocabulary import BPE, Bytes
from bytequilt.codec import BOS
from bytequilt.config import BaselineConfig, HashConfig, MambaConfig, StackConfig, TrainConfig
from bytequilt.data.batches import Batch
from bytequilt.info import describe
from bytequilt.lm import load_any
from bytequilt.model.hashing import PRIMES, wrapped
from bytequilt.study.models import leak
from bytequilt.train.loop import step
from bytequilt.train.optim import optimizers_of, release
from bytequilt.train.tasks import LanguageTask

TEXT = b"The cat sat on the mat, and the dog sat on the cat; the mat was flat.\n" * 20
STACK = StackConfig(dim=16, layers=2, heads=2, ffn_dim=24, window=12)
MAMBA = MambaConfig(dim=16, layers=2, state=4)
HASH = HashConfig(sizes=(2, 3, 4), rows=101)
OURS = BPE.learn([TEXT], 280)
KINDS = {
    "bytes": {"stack": STACK, "hash": HASH},
    "bpe": {"stack": STACK, "hash": HASH, "tied": True, "vocabulary": OURS.size, "token_bytes": 2.0},
    "mamba": {"mamba": MAMBA, "hash": HASH, "tied": True},
}


@pytest.fixture(params=KINDS)
def model(request):
    torch.manual_seed(0)
    config = BaselineConfig(**KINDS[request.param])
    return Baseline(build(config), OURS if request.param == "bpe" else Bytes(), config)


def packed(model: Baseline) -> torch.Tensor:
    parts = [torch.from_numpy(model.vocabulary.encode(text, eos=True)) for text in (TEXT[:50], b"the", TEXT[3:90])]
    return torch.cat(parts)[None]


def test_no_earlier_logit_moves(model):
    assert leak(model, TEXT[:300] + noise(60, 1)) < 1e-4


def test_documents_in_a_row_do_not_see_each_other(model):
    ids_1N = packed(model)
    opens = [*(ids_1N[0] == BOS).nonzero()[:, 0].tolist(), ids_1N.shape[1]]
    alone = torch.cat([model.logits(ids_1N[:, a:b])[0] for a, b in pairwise(opens)])
    torch.testing.assert_close(model.logits(ids_1N)[0], alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 2, 7])
def test_in_pieces_as_at_once(model, size):
    ids_1N, cache = packed(model), model.network.cache(3)
    rows = cache.rows([1])
    pieces = [
        model.network(part, cache, rows)
        if size > 1
        else model.network.step(part[0], cache, rows, text=int(part) != BOS)[None]
        for part in ids_1N.split(size, 1)
    ]
    torch.testing.assert_close(torch.cat(pieces, 1), model.logits(ids_1N), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_an_ngram_is_the_polynomial_of_its_ids(model):
    ids_n, table = model.encode(TEXT[:40]), model.network.hash
    for at in (0, 1, 5, len(ids_n) - 1):
        rows = []
        for place, size in enumerate(HASH.sizes):
            own = [int(ids_n[at - back]) if back <= at else 0 for back in range(size)]  # newest first
            power = sum(id * PRIMES[0] ** back for id, back in zip(own, range(size - 1, -1, -1), strict=True))
            rows.append(place * HASH.rows + wrapped(power) % HASH.rows)
        torch.testing.assert_close(table(ids_n[None])[0, at], table.weight[rows].sum(0))


def test_texts_side_by_side_are_generated_as_alone(model):
    prompts = [TEXT[:30], b"dog", TEXT[:11]]
    together = model.generate(prompts, max_bytes=12, temperature=0)
    assert [c.data for c in together] == [model.generate(p, max_bytes=12, temperature=0).data for p in prompts]


def test_tables_cost_parameters_and_no_flops(model, tmp_path):
    plain = model.config.model_copy(update={"hash": None, "tied": False})
    count = {c: sum(w.numel() for w in build(c).parameters()) for c in (model.config, plain)}
    saved = model.config.vocabulary * 16 if model.config.tied else 0
    assert count[model.config] == count[plain] + 3 * 101 * 16 - saved
    assert baseline_flops(model.config) == baseline_flops(plain)
    model.save(tmp_path / "model")
    parts = dict(describe(str(tmp_path / "model")).parameters)
    assert parts["hash"] == 3 * 101 * 16
    assert parts.pop("total") == count[model.config] == sum(parts.values())


def test_a_saved_model_is_the_same(model, tmp_path):
    model.save(tmp_path / "model")
    again = load_any(tmp_path / "model")
    assert again.bits_per_byte(TEXT[:200]) == pytest.approx(model.bits_per_byte(TEXT[:200]), rel=1e-6)


@pytest.mark.parametrize("tables", ["rows", "dense"])
def test_training_moves_tables_and_a_tied_head_and_leaves_frozen_tables_alone(model, tables):
    config = TrainConfig(steps=3, lr=1e-2, warmup=0, table_optimizer=tables, precision="fp32", device="cpu")
    ids_BN = packed(model)
    batch = Batch.of(ids_BN, torch.zeros_like(ids_BN, dtype=torch.bool), ids_BN != BOS)
    for frozen in (False, True):
        model.network.hash.weight.requires_grad_(not frozen)
        before = {name: weight.clone() for name, weight in model.network.state_dict().items()}
        chosen = optimizers_of(model.network, config)
        step(LanguageTask(model, []), [batch], chosen, config, False)
        release(chosen)
        moved = {name for name, weight in model.network.state_dict().items() if not torch.equal(weight, before[name])}
        assert ("hash.weight" in moved) is not frozen
        assert "network.head.weight" in moved


def test_a_hash_without_ngrams_is_refused():
    with pytest.raises(ValueError, match="without n-grams"):
        BaselineConfig(stack=STACK, hash=HashConfig(sizes=()))
