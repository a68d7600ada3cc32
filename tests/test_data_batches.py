import json
import shutil
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytequilt.codec import BOS, EOS, decode, encode
from bytequilt.config import DataConfig, RuleConfig, TrainConfig, UserError
from bytequilt.data import order, shards
from bytequilt.data.batches import Batches
from bytequilt.data.pieces import CLOSES, ID, LEARN, patch_count, pieces
from bytequilt.data.prepare import ingest, score
from bytequilt.model.segments import Patches
from bytequilt.patching import rules

SPACE = RuleConfig(kind="space")
TRAIN = TrainConfig(steps=1, rows=4, row_bytes=64, row_patches=12, seed=3)


class Noise:
    """Entropies that depend on the text alone."""

    fingerprint = "noise"
    rule = RuleConfig(kind="entropy", threshold=1.0)

    def entropies(self, texts):
        return [np.random.default_rng(list(t)).gamma(1.0, 1.0, len(t) + 2).astype(np.float32) for t in texts]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two sources, 160 documents of 5 to 200 bytes, in several shards of several row groups."""
    path = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(0)
    for name, longest in (("short", 60), ("long", 200)):
        texts = ["".join(random.choice(list("abc ä\n"), random.integers(5, longest))) for _ in range(80)]
        lines = [json.dumps({"text": f"<{name[0]}{n}>{text}"}) for n, text in enumerate(texts)]
        (path / f"{name}.jsonl").write_text("\n".join(lines))
    config = DataConfig(train=(str(path / "short.jsonl"), str(path / "long.jsonl")), val_every=80, shard_bytes=5000)
    before, shards.GROUP_BYTES = shards.GROUP_BYTES, 500
    ingest(config, path)
    shards.GROUP_BYTES = before
    score(path, path / "scored", Noise())
    return path


def corpus(folder):
    tables = [shards.pq.read_table(path) for path in shards.shard_paths(folder / "train")]
    return [row["data"] for table in tables for row in table.to_pylist()]


def same(a, b):
    return all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("ids_BN", "closes_BN", "learn_BN"))


def take(batches, count):
    return [next(batches) for _ in range(count)]


def runs(batch):
    """The pieces of a batch, as (ids, closes, learn)."""
    for ids, closes, learn in zip(batch.ids_BN, batch.closes_BN, batch.learn_BN, strict=True):
        opens = [*(ids == BOS).nonzero().flatten().tolist(), int((ids != 0).sum())]
        for a, b in pairwise(opens):
            yield ids[a:b], closes[a:b], learn[a:b]


# ----------------------------------------------------------------------------------------------------------- pieces


@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(16, 40), st.one_of(st.none(), st.integers(2, 12)))
def test_pieces_partition_a_document_and_keep_its_boundaries(draw, row_bytes, row_patches):
    data = draw.draw(st.binary(max_size=150))
    prompt = draw.draw(st.integers(0, len(data)))
    decisions = st.lists(st.booleans(), min_size=len(data) + 1, max_size=len(data) + 1)
    closes = np.array([True, *draw.draw(decisions)])
    ids, cut = encode(data, eos=True), pieces(encode(data, eos=True), prompt, closes, row_bytes, row_patches)
    inside = np.concatenate([piece[1:] for piece in cut])
    assert np.array_equal(inside[:, ID], ids[1:])
    assert np.array_equal(inside[:, CLOSES], closes[1:])
    place = 1
    for number, piece in enumerate(cut):
        assert tuple(piece[0]) == (BOS, 1, 0)
        assert len(piece) <= row_bytes
        assert patch_count(piece) <= (row_patches or row_bytes)
        learn = np.arange(place, place + len(piece) - 1) > prompt
        if number:
            learn[0] = False
        assert np.array_equal(piece[1:, LEARN], learn)
        assert piece[-1, CLOSES] or piece[-1, ID] == EOS or not piece[1:, CLOSES].any()
        place += len(piece) - 1
    assert [piece[-1, ID] == EOS for piece in cut] == [False] * (len(cut) - 1) + [True]


def test_a_short_document_is_one_piece_and_learns_its_end():
    (piece,) = pieces(encode(b"abcd", eos=True), 2, np.zeros(6, dtype=bool), 16)
    assert piece[:, LEARN].tolist() == [0, 0, 0, 1, 1, 1]
    assert not piece[:, CLOSES].any()


def test_an_end_is_not_left_alone():
    assert [len(piece) for piece in pieces(encode(b"x" * 15, eos=True), 0, np.zeros(17, dtype=bool), 16)] == [15, 3]


# ---------------------------------------------------------------------------------------------------------- packing


BUDGET = RuleConfig(kind="budget", threshold=4.0, after="b")


@pytest.mark.parametrize("rule", [SPACE, Noise.rule, BUDGET, None], ids=str)
@pytest.mark.parametrize("row_patches", [None, 12])
def test_rows_keep_both_budgets_and_lose_nothing(folder, rule, row_patches):
    train = TRAIN.model_copy(update={"row_patches": row_patches})
    shard_folder = folder / ("scored" if rule and rule.needs_entropy else "train")
    # By the rule on the whole document, the slow and obvious way.
    wanted = Counter()
    for data in corpus(folder):
        closes = np.zeros(len(data) + 2, dtype=bool)
        if rule is not None:
            ids = torch.from_numpy(encode(data, eos=True))[None]
            closes = rules.closes(rule, ids, torch.from_numpy(Noise().entropies([data])[0])[None])[0].numpy()
        for piece in pieces(encode(data, eos=True), 0, closes, train.row_bytes, row_patches):
            wanted[piece[:, ID].tobytes(), piece[:-1, CLOSES].tobytes(), piece[:, LEARN].tobytes()] += 1
    batches, found = Batches(shard_folder, train, rule), Counter()
    for batch in take(batches, 140):  # more than one epoch
        assert batch.ids_BN.shape == (4, 64)
        assert batch.ids_BN.dtype == torch.int64
        assert batch.closes_BN.dtype == batch.learn_BN.dtype == torch.bool
        if row_patches:
            Patches.from_closes(batch.ids_BN, batch.closes_BN, row_patches)
        pad = batch.ids_BN == 0
        assert not (pad & (batch.closes_BN | batch.learn_BN)).any()
        assert (pad[:, 1:] >= pad[:, :-1]).all()
        for parts in runs(batch):
            ids, closes, learn = (part.numpy().astype(np.int32) for part in parts)
            found[ids.tobytes(), closes[:-1].tobytes(), learn.tobytes()] += 1
    assert set(found) == set(wanted)


def test_epochs_are_whole_and_each_has_an_order_of_its_own(folder, monkeypatch):
    monkeypatch.setattr(order, "WINDOW", 3)
    index = order.Index(shards.shard_paths(folder / "train"))
    assert len(index.groups) > 6
    documents = np.arange(len(index.source_M))
    shuffled = order.Order(index, documents, ["data"], (1,), lambda data: data.as_py())
    epochs = [[shuffled[e * len(documents) + n] for n in range(len(documents))] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(corpus(folder))
    assert epochs[0] != epochs[1]
    assert shuffled._table.cache_info().misses <= 2 * len(index.groups)  # each read once an epoch


@pytest.mark.parametrize("weights", [(), (1.0, 3.0)])
@pytest.mark.parametrize("count", [0, 1, 7, 60])
def test_restoring_is_exact(folder, count, weights):
    def fresh():
        return Batches(folder / "scored", TRAIN, Noise.rule, weights=weights, fingerprint="noise")

    whole = fresh()
    take(whole, count)
    state = json.dumps(whole.state())
    assert len(state) < 1000
    after = take(whole, 9)
    again = fresh()
    take(again, 2)
    again.restore(json.loads(state))
    assert again.state() == json.loads(state)
    assert all(map(same, after, take(again, 9)))


def test_restoring_to_other_batches_is_refused(folder):
    state = Batches(folder / "train", TRAIN, SPACE).state()
    for update in ({"rows": 2}, {"seed": 4}):
        with pytest.raises(UserError, match=f"made with {next(iter(update))} "):
            Batches(folder / "train", TRAIN.model_copy(update=update), SPACE).restore(state)


def test_the_seed_sets_the_order(folder):
    first, again, other = (
        next(Batches(folder / "train", TRAIN.model_copy(update={"seed": seed}), SPACE)) for seed in (3, 3, -1)
    )
    assert same(first, again)
    assert not same(first, other)


def test_ranks_see_documents_of_their_own(folder):
    train = TRAIN.model_copy(update={"row_bytes": 256, "row_patches": None})
    seen = []
    for rank in range(3):
        names = set()
        for batch in take(Batches(folder / "train", train, None, rank=rank, world=3), 40):
            names |= {decode(ids.tolist()).partition(b">")[0] for ids, _, _ in runs(batch)}
        seen.append(names)
    assert sum(map(len, seen)) == len(set.union(*seen)) == len(corpus(folder))


@pytest.mark.parametrize("weights", [(1.0, 1.0), (4.0, 1.0)])
def test_weights_are_shares_of_the_bytes(folder, weights):
    train = TRAIN.model_copy(update={"row_bytes": 256, "row_patches": None})
    size = Counter()
    for batch in take(Batches(folder / "train", train, None, weights=weights), 60):
        for ids, _, _ in runs(batch):
            text = decode(ids.tolist())
            size[text[1:2]] += len(text)
    assert size[b"s"] / size.total() == pytest.approx(weights[0] / sum(weights), abs=0.03)


def test_what_cannot_be_batched(folder, tmp_path):
    with pytest.raises(UserError, match="a corpus smaller than a batch"):
        Batches(folder / "train", TRAIN.model_copy(update={"row_bytes": 10**5}), SPACE)
    with pytest.raises(UserError, match="no shards in"):
        Batches(tmp_path, TRAIN, SPACE)
    with pytest.raises(UserError, match="has no entropies"):
        Batches(folder / "train", TRAIN, Noise.rule)
    with pytest.raises(UserError, match="not scored by this patcher"):
        Batches(folder / "scored", TRAIN, Noise.rule, fingerprint="other")
    with pytest.raises(UserError, match="3 weights for 2 sources"):
        Batches(folder / "train", TRAIN, SPACE, weights=(1, 1, 1))
    with pytest.raises(UserError, match="row_patches must be 2 at least"):
        Batches(folder / "train", TRAIN.model_copy(update={"row_patches": 1}), SPACE)
    small = TRAIN.model_copy(update={"rows": 1, "row_bytes": 16})
    with pytest.raises(UserError, match="79 documents in source 1 are too few for 80 ranks"):
        Batches(folder / "train", small, SPACE, weights=(1, 1), rank=79, world=80)


@pytest.mark.parametrize("kind", ["train", "scored"])
def test_a_damaged_shard_that_the_order_comes_to_is_named(folder, tmp_path, kind):
    shutil.copytree(folder / kind, tmp_path / kind)
    path = shards.shard_paths(tmp_path / kind)[-1]
    column = shards.pq.read_metadata(path).row_group(1).column(3)
    assert column.path_in_schema == "data"
    data, place = path.read_bytes(), column.data_page_offset + column.total_compressed_size - 3
    path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
    rule = Noise.rule if kind == "scored" else SPACE
    batches = Batches(tmp_path / kind, TRAIN, rule)
    with pytest.raises(UserError, match=rf"{path.name} is damaged .*: delete it") as caught:
        take(batches, 200)
    assert len(str(caught.value)) <= 300
