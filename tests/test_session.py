import pytest
import torch
from conftest import CROSS, RULES, blt, ids_of, noise, patcher, undecided
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bytequilt.config import HashConfig, StackConfig
from bytequilt.infer.session import Session


def full(model, patch, ids_BN):
    with torch.no_grad():
        return model(ids_BN, patch(ids_BN))[0]


def in_pieces(session, ids_BN, sizes):
    """Logits of a session that is fed pieces of these sizes in turn."""
    out, place, turn = [], 0, 0
    while place < ids_BN.shape[1]:
        size = sizes[turn % len(sizes)]
        out.append(session.feed(ids_BN[0, place : place + size]))
        place, turn = place + size, turn + 1
    return torch.cat(out)


def assert_twins(model, patch, ids_BN, sizes):
    torch.testing.assert_close(
        in_pieces(Session(model, patch), ids_BN, sizes), full(model, patch, ids_BN), atol=1e-4, rtol=1e-4
    )


DOCUMENTS = ids_of(noise(38, 1), b"", noise(5, 2), noise(30, 3))  # well past the windows of 10 and 12
SIZES = [[1], [1000], [1, 30, 2]]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("kind", RULES)
def test_any_pieces_give_the_logits_of_the_full_forward(kind, sizes):
    patch = patcher(kind)
    assert not undecided(patch, DOCUMENTS)
    assert_twins(blt(), patch, DOCUMENTS, sizes)


VARIANTS = [{"encoder_cross": e, "decoder_cross": d} for e, d in CROSS]
VARIANTS += [
    {"hash": HashConfig(sizes=())},
    {"hash": HashConfig(sizes=(9,), rows=50)},
    {"encoder": StackConfig(dim=32, layers=1, heads=2), "decoder": StackConfig(dim=32, layers=1, heads=4, window=1)},
    {"latent": StackConfig(dim=64, layers=2, heads=2, ffn_dim=40, window=3)},
]


@pytest.mark.parametrize("change", VARIANTS, ids=lambda c: "-".join(map(str, c.values()))[:40])
def test_every_variant(change):
    assert_twins(blt(**change), patcher("entropy"), DOCUMENTS, [1, 1, 30, 1, 2])


@pytest.mark.parametrize("change", [{"newline_reset": True}, {"window": None}, {"window": 1}], ids=str)
def test_every_context_of_the_entropy_model(change):
    patch = patcher("entropy", **change)
    assert not undecided(patch, DOCUMENTS)
    assert_twins(blt(), patch, DOCUMENTS, [1, 30, 2])


MODEL, PATCHERS = blt(), {kind: patcher(kind) for kind in RULES}


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(list(RULES)),
    st.lists(st.binary(max_size=30), min_size=1, max_size=3),
    st.lists(st.integers(1, 20), min_size=1, max_size=5),
)
def test_any_bytes_in_any_pieces(kind, documents, sizes):
    ids_BN = ids_of(*documents)
    assume(not undecided(PATCHERS[kind], ids_BN))
    assert_twins(MODEL, PATCHERS[kind], ids_BN, sizes)


def test_feeding_nothing_changes_nothing():
    session = Session(MODEL, PATCHERS["entropy"])
    assert session.feed(torch.zeros(0, dtype=torch.long)).shape == (0, 260)
    first = session.feed(DOCUMENTS[0, :9])
    assert session.feed(torch.zeros(0, dtype=torch.long)).shape == (0, 260)
    torch.testing.assert_close(
        torch.cat([first, session.feed(DOCUMENTS[0, 9:])]),
        full(MODEL, PATCHERS["entropy"], DOCUMENTS),
        atol=1e-4,
        rtol=1e-4,
    )


def test_each_patch_goes_through_the_latent_transformer_once():
    session, patch = Session(MODEL, PATCHERS["space"]), PATCHERS["space"]
    in_pieces(session, DOCUMENTS, [3])
    patches = patch(DOCUMENTS)
    assert session.latent.position == patches.count - int(not patches.closes_BN[0, -1])


def test_windowed_caches_do_not_grow():
    session = Session(MODEL, PATCHERS["entropy"])
    in_pieces(session, DOCUMENTS, [50])
    for cache in (session.encoder, session.decoder, session.entropy):
        assert all(keys.shape[2] == cache.window - 1 for keys in cache.keys)
