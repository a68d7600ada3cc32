"""The optimizer of touched rows beside dense AdamW, of which it must be the twin."""

import copy

import pytest
import torch
from conftest import blt
from torch import nn

from bytequilt.config import StackConfig, TrainConfig
from bytequilt.model.embedding import Embedding
from bytequilt.model.hashing import HashEmbedding
from bytequilt.train.drift import Moments
from bytequilt.train.optim import clip_, lr_factor, optimizers_of, set_lr
from bytequilt.train.rows import Rows, distinct

SIZE, DIM, STEPS = 40, 6, 120
CONFIG = TrainConfig(steps=STEPS, warmup=10, lr=3e-2, hash_lr=3e-2)


class Lookup(nn.Module):
    """A table, read by rows, and a matrix behind it."""

    def __init__(self):
        super().__init__()
        self.table = Embedding(SIZE, DIM)
        self.head = nn.Linear(DIM, 1)

    def forward(self, rows):
        return self.head(self.table(rows).tanh()).sum()


def reads(step, count):
    """Rows that a step reads: every row where `count` is None, otherwise few, the last tenth of the rows rarely."""
    if count is None:
        return torch.arange(SIZE)
    generator = torch.Generator().manual_seed(step)
    rows = torch.randint(0, SIZE - SIZE // 10, (count,), generator=generator)
    return torch.cat([rows, torch.tensor([SIZE - 1])]) if step % 30 == 5 else rows


def train(network, kind, count, steps=STEPS, chosen=None, begin=0, fixed=False, parts=1, clip=1e9):
    """Trains and returns the optimizers and the gradient norms."""
    config = CONFIG.model_copy(update={"table_optimizer": kind})
    chosen = chosen or optimizers_of(network.train(), config)
    for optimizer in chosen:
        if isinstance(optimizer, Rows):
            optimizer.fixed = fixed
    norms = []
    for step in range(begin, steps):
        set_lr(chosen, lr_factor(step, config))
        for rows in reads(step, count).chunk(parts):
            (network(rows) / parts).backward()
        norms.append(float(clip_(network, chosen, clip)))
        for optimizer in chosen:
            optimizer.step()
            optimizer.zero_grad()
    return chosen, norms


def twins():
    torch.manual_seed(0)
    network = Lookup()
    return network, copy.deepcopy(network)


def release(chosen):
    chosen[-1].detach()


def difference(one, other):
    """Root mean square, beside how far the table has moved."""
    torch.manual_seed(0)
    moved = other.table.weight - Lookup().table.weight
    return float((one.table.weight - other.table.weight).detach().norm() / moved.detach().norm())


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("count", [None, 5, 60])
def test_rows_take_the_way_of_dense_adamw(count, parts, fixed):
    rows, dense = twins()
    chosen, norms = train(rows, "rows", count, fixed=fixed, parts=parts)
    _, dense_norms = train(dense, "dense", count, parts=parts)
    release(chosen)
    assert difference(rows, dense) < 1e-4
    assert norms == pytest.approx(dense_norms, rel=1e-3)


def test_rows_that_are_rarely_read_move_far_and_lazy_moments_do_not_tell():
    rows, dense = twins()
    lazy = copy.deepcopy(dense)
    chosen, _ = train(rows, "rows", 5)
    train(dense, "dense", 5)
    last = torch.optim.SparseAdam([lazy.table.weight], betas=CONFIG.betas)
    others = torch.optim.AdamW(lazy.head.parameters(), betas=CONFIG.betas, weight_decay=CONFIG.weight_decay)
    for step in range(STEPS):
        for group in (*last.param_groups, *others.param_groups):
            group["lr"] = CONFIG.lr * lr_factor(step, CONFIG)
        lazy(reads(step, 5)).backward()
        lazy.table.weight.grad = lazy.table.weight.grad.to_sparse(1)
        for optimizer in (last, others):
            optimizer.step()
            optimizer.zero_grad()
    release(chosen)
    assert difference(lazy, dense) > 0.3 > 1e-3 > difference(rows, dense)


def test_a_row_that_is_read_again_is_where_dense_adamw_has_brought_it():
    rows, dense = twins()
    train(rows, "rows", 5, steps=50)
    train(dense, "dense", 5, steps=50)
    place = torch.tensor([SIZE - 1])
    torch.testing.assert_close(rows.table(place), dense.table(place), atol=1e-5, rtol=1e-4)
    assert (rows.table.weight[SIZE - 1] - dense.table.weight[SIZE - 1]).abs().max() > 1e-3  # not yet caught up


def test_the_clipped_gradient_is_that_of_dense_adamw():
    rows, dense = twins()
    chosen, norms = train(rows, "rows", 5, clip=0.05)
    _, dense_norms = train(dense, "dense", 5, clip=0.05)
    release(chosen)
    assert min(norms) > 0.05
    assert norms == pytest.approx(dense_norms, rel=1e-3)
    assert difference(rows, dense) < 1e-3


def test_the_drift_has_room_for_any_number_of_steps(monkeypatch):
    monkeypatch.setattr("bytequilt.train.drift.FIRST_STEPS", 3)
    test_rows_take_the_way_of_dense_adamw(5, 1, False)


@pytest.mark.parametrize("when", [20, 33])
def test_going_on_is_exact_bit_for_bit(when):
    whole, half = twins()
    chosen, _ = train(whole, "rows", 5, steps=60)
    first, _ = train(half, "rows", 5, steps=when)
    states = [copy.deepcopy(optimizer.state_dict()) for optimizer in first]
    other = Lookup()
    other.load_state_dict(half.state_dict())
    second = optimizers_of(other.train(), CONFIG)
    for optimizer, state in zip(second, states, strict=True):
        optimizer.load_state_dict(state)
    train(other, "rows", 5, steps=60, chosen=second, begin=when)
    for optimizers_ in (chosen, second):
        release(optimizers_)
    assert torch.equal(whole.table.weight, other.table.weight)
    assert torch.equal(whole.head.weight, other.head.weight)


def test_a_caught_up_copy_is_what_catching_up_leaves_and_changes_nothing():
    network, _ = twins()
    (_, rows), _ = train(network, "rows", 5)
    before = network.table.weight.clone()
    copied = rows.caught_up(network.table.weight)
    assert torch.equal(before, network.table.weight)
    assert not torch.equal(before, copied)
    rows.catch_up()
    assert torch.equal(network.table.weight, copied)
    rows.catch_up()
    assert torch.equal(network.table.weight, copied)


def test_catching_up_in_between_changes_no_more_than_rounding_does():
    often, seldom = twins()
    (adamw, rows), _ = train(often, "rows", 5, steps=0)
    for step in range(STEPS):
        train(often, "rows", 5, steps=step + 1, chosen=[adamw, rows], begin=step)
        rows.catch_up()
    chosen, _ = train(seldom, "rows", 5)
    release(chosen)
    assert difference(often, seldom) < 1e-4


@pytest.mark.parametrize("fixed", [False, True])
def test_distinct_rows_are_named_once_and_found_again(fixed):
    torch.manual_seed(0)
    for size, count in [(100, 30), (7, 30), (1000, 1), (1000, 999)]:
        places = torch.randint(0, size, (count,))
        rows, where, slot = distinct(places, size, fixed)
        rows = torch.arange(size)[rows]
        assert torch.equal(rows[where], places)
        assert (slot is not None) == (fixed and count < size)
        if count < size:
            named = rows if slot is None else rows[slot.unique()]
            assert named.tolist() == sorted(set(places.tolist()))
            assert slot is None or torch.equal(rows[slot], rows)


def test_evaluation_reads_the_table_itself():
    network, _ = twins()
    (_, rows), _ = train(network, "rows", 5)
    with torch.no_grad():
        network(torch.arange(5))
    assert not rows.reads
    rows.detach()
    assert network.train().table.gather is None


def test_tables_are_known_by_their_kind():
    local = StackConfig(dim=16, layers=1, heads=2, ffn_dim=24, window=16)
    network = blt(encoder=local, latent=StackConfig(dim=32, layers=1, heads=2, ffn_dim=40), decoder=local)
    *_, rows = optimizers_of(network, CONFIG)
    assert {id(weight) for weight in rows.moments} == {
        id(m.weight) for m in network.modules() if isinstance(m, HashEmbedding | nn.Embedding)
    }
    assert all(isinstance(moments, Moments) for moments in rows.moments.values())
    assert not any(
        isinstance(o, Rows) for o in optimizers_of(network, CONFIG.model_copy(update={"table_optimizer": "dense"}))
    )
    assert network.encoder.embed.gather is None
