import numpy as np
import pytest
import torch
from conftest import CROSS, RULES, blt, ids_of, noise, patcher, undecided
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bytequilt.config import HashConfig, RuleConfig, StackConfig, UserError
from bytequilt.infer.session import Session
from bytequilt.model.encoder_cache import STATES


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
    {"cross_heads": (4, 8), "cross_kv_heads": (1, 2)},
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
    assert session.latent.lengths[0] == patches.count - int(not patches.closes_BN[0, -1])


def test_windowed_caches_are_bounded():
    """However long the text, and whatever a large piece made them hold for a moment; only latents grow."""
    session = Session(MODEL, PATCHERS["entropy"])
    ids = ids_of(noise(2000))[0]
    session.feed(ids[:1200])
    for id in ids[1200:]:
        session.step(id[None])
    for cache in (session.encoder.stack, session.decoder, session.boundaries.cache):
        assert cache.columns == cache.config.window
    longest = max(map(len, PATCHERS["entropy"](ids[None]).starts))
    assert session.encoder.states.data_SRLd.shape[2] <= max(STATES, 2 * longest)
    assert session.latent.lengths[0] == session.rows[0].patches


RESERVE = 9


@pytest.mark.parametrize("kind", RULES)
def test_a_cropped_session_has_never_read_what_was_cropped(kind):
    """Pieces, crops and forks at random: whatever is read again comes out as in the full forward."""
    patch, ids, random = PATCHERS[kind], DOCUMENTS[0], np.random.default_rng(0)
    want, found = full(MODEL, patch, DOCUMENTS), []
    session, at, crops = Session(MODEL, patch, reserve=RESERVE), 0, 0
    while at < len(ids):
        piece = ids[at : at + int(random.integers(1, 14))]
        found[at:] = session.feed(piece)
        at += len(piece)
        if at < len(ids) and random.random() < 0.6:
            back = int(random.integers(0, min(RESERVE, len(piece)) + 1))
            session.fork().feed(ids[:5])  # what a fork reads is its own
            session.crop(back)
            at, crops = at - back, crops + back
    assert crops > RESERVE
    torch.testing.assert_close(torch.stack(found), want, atol=1e-4, rtol=1e-4)


def test_a_crop_goes_no_further_than_the_reserve():
    session = Session(MODEL, PATCHERS["space"], reserve=4)
    session.feed(DOCUMENTS[0, :3])
    with pytest.raises(UserError, match=r"cannot take back 4 bytes.*can go back 3"):
        session.crop(4)
    session.feed(DOCUMENTS[0, 3:20])
    with pytest.raises(UserError, match="reserved 4, and can go back 4"):
        session.crop(5)
    with pytest.raises(UserError, match="larger reserve"):
        Session(MODEL, PATCHERS["space"]).crop(1)


def test_a_crop_by_nothing_changes_nothing():
    for reserve in (0, 4):
        session = Session(MODEL, PATCHERS["entropy"], reserve)
        session.feed(DOCUMENTS[0, :25])
        session.crop(0)
        want = full(MODEL, PATCHERS["entropy"], DOCUMENTS)[25:]
        torch.testing.assert_close(session.feed(DOCUMENTS[0, 25:]), want, atol=1e-4, rtol=1e-4)


def test_forks_share_a_prefix_and_nothing_else():
    session = Session(MODEL, PATCHERS["entropy"])
    session.feed(DOCUMENTS[0, :20])
    fork = session.fork()
    assert fork.model is session.model
    assert fork.patcher is session.patcher
    mine, theirs = DOCUMENTS[0, 20:30], ids_of(noise(9, 7), eos=False)[0, 1:]
    found = [session.feed(mine), fork.feed(theirs)]
    for new, out in zip((mine, theirs), found, strict=True):
        ids_BN = torch.cat([DOCUMENTS[0, :20], new])[None]
        torch.testing.assert_close(out, full(MODEL, PATCHERS["entropy"], ids_BN)[20:], atol=1e-4, rtol=1e-4)


TEXTS = [ids_of(noise(length, length), eos=False)[0] for length in (60, 33, 47, 90)]
BEGUN = [1, 20, 3, 40]  # ids of each text that are read before it joins


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("window", [12, None])
def test_texts_side_by_side_are_as_if_alone(kind, window):
    """They come with pasts of different lengths, close patches at their own moments, and leave one by one."""
    stack = StackConfig(dim=32, layers=2, heads=2, ffn_dim=40, window=window)
    model, patch = (MODEL if window else blt(encoder=stack, decoder=stack)), PATCHERS[kind]
    want = [full(model, patch, ids[None]) for ids in TEXTS]
    session, inside, coming = Session(model, patch, rows=3), {}, list(range(len(TEXTS)))
    for step in range(150):
        free = [row for row in (2, 0, 1) if row not in inside]
        if step % 3 == 0 and coming and free:  # one more, in whatever row is free
            text = coming.pop(0)
            session.clear(free[0])
            session.feed(TEXTS[text][: BEGUN[text]], free[0])
            inside[free[0]] = [text, BEGUN[text]]
        inside = {row: [text, at] for row, (text, at) in inside.items() if at < len(TEXTS[text])}
        if rows := sorted(inside):
            logits = session.step(torch.tensor([int(TEXTS[inside[row][0]][inside[row][1]]) for row in rows]), rows)
            for out, row in zip(logits, rows, strict=True):
                text, at = inside[row]
                torch.testing.assert_close(out, want[text][at], atol=1e-4, rtol=1e-4)
                inside[row][1] += 1
    assert not inside
    assert not coming


@settings(max_examples=15, deadline=None)
@given(st.data(), st.sampled_from(list(RULES)), st.sampled_from([0, 5]))
def test_rows_do_not_see_each_other(data, kind, reserve):
    """Steps of some rows, pieces, crops and new texts in any order: each row is as its own text alone."""
    session, texts = Session(MODEL, PATCHERS[kind], reserve, rows=3), [ids_of(noise(60, s))[0][:40] for s in range(9)]
    assume(not any(undecided(PATCHERS[kind], ids[None]) for ids in texts))
    want, at, text = [full(MODEL, PATCHERS[kind], ids[None]) for ids in texts], [0, 0, 0], [0, 1, 2]

    def check(row, out):
        expected = want[text[row]][at[row] : at[row] + len(out)]
        torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)
        at[row] += len(out)

    for _ in range(25):
        row = data.draw(st.integers(0, 2))
        action = data.draw(st.sampled_from(["step", "feed", "crop", "clear"]))
        if action == "step":
            ready = [r for r in range(3) if at[r] < 40]
            rows = sorted(data.draw(st.sets(st.sampled_from(ready)))) if ready else []
            if rows:
                logits = session.step(torch.stack([texts[text[r]][at[r]] for r in rows]), rows)
                for r, out in zip(rows, logits, strict=True):
                    check(r, out[None])
        elif action == "feed" and at[row] < 40:
            check(row, session.feed(texts[text[row]][at[row] : at[row] + data.draw(st.integers(1, 15))], row))
        elif action == "crop":
            count = data.draw(st.integers(0, min(reserve, len(session.rows[row].marks) - 1)))
            session.crop(count, row)
            at[row] -= count
        elif action == "clear":
            session.clear(row)
            at[row], text[row] = 0, data.draw(st.integers(0, 8))


@pytest.mark.parametrize("given", [torch.Tensor.clone, torch.Tensor.tolist], ids=["tensor", "numbers"])
def test_a_document_that_begins_side_by_side(given):
    """BOS in the middle of a step's rows: its context opens alone."""
    ids = torch.stack([ids_of(noise(9), noise(20, 5))[0][:25], ids_of(noise(30, 6))[0][:25]])
    for kind in ("entropy", "space", "fixed"):
        session = Session(MODEL, PATCHERS[kind], rows=2)
        session.feed(ids[0, :4], 0)
        session.feed(ids[1, :4], 1)
        out = torch.stack([session.step(given(ids[:, at])) for at in range(4, 25)], 1)
        for row in range(2):
            want = full(MODEL, PATCHERS[kind], ids[row : row + 1])[4:]
            torch.testing.assert_close(out[row], want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", RULES)
def test_drafts_are_true_up_to_the_first_boundary_and_verified_beyond(kind):
    session, patch = Session(MODEL, PATCHERS[kind], reserve=8), PATCHERS[kind]
    want = full(MODEL, patch, DOCUMENTS)
    session.feed(DOCUMENTS[0, :11])
    for at in range(11, 59, 8):
        ids = DOCUMENTS[0, at : at + 8]
        drafted = torch.stack([session.draft(int(id)) for id in ids])
        true = session.verify(ids, drafted)
        torch.testing.assert_close(true, want[at : at + 8], atol=1e-4, rtol=1e-4)
        session.crop(3)
        session.feed(ids[-3:])
    torch.testing.assert_close(session.feed(DOCUMENTS[0, 59:]), want[59:], atol=1e-4, rtol=1e-4)


def test_rows_and_reserve_are_whole_numbers():
    for options in ({"reserve": -1}, {"reserve": 1.5}, {"rows": 0}, {"rows": True}):
        with pytest.raises(UserError, match="must be a whole number"):
            Session(MODEL, PATCHERS["space"], **options)


def test_drafts_keep_the_states_of_a_long_patch():
    """Tapes move at one moment or another of every round; nothing that a patch will read may be lost."""
    patch, ids = patcher(RuleConfig(kind="fixed", stride=50)), ids_of(noise(600, 4))
    want, session = full(MODEL, patch, ids), Session(MODEL, patch, reserve=8)
    session.feed(ids[0, :2])
    for at in range(2, 600, 5):
        piece = ids[0, at : at + 7]
        drafted = torch.stack([session.draft(int(id)) for id in piece])
        torch.testing.assert_close(session.verify(piece, drafted), want[at : at + 7], atol=1e-4, rtol=1e-4)
        session.crop(len(piece) - min(5, len(piece)))


@pytest.mark.parametrize("pieces", [[1, 1, 1], [3]], ids=str)
@pytest.mark.parametrize("kind", ["entropy", "space", "fixed"])
def test_a_document_that_is_taken_back_has_ended_no_patch(kind, pieces):
    """BOS ends the open patch before it; cropped away, that patch goes on as if nothing had been."""
    patch, ids = PATCHERS[kind], ids_of(noise(90, 8), eos=False)
    session, at = Session(MODEL, patch, reserve=4), 20
    session.feed(ids[0, :at])
    while not session.rows[0].open_bytes:
        session.feed(ids[0, at : at + 1])
        at += 1
    for part in torch.tensor([1, 70, 71]).split(pieces):
        session.feed(part)
    session.crop(3)
    assert session.latent.lengths[0] == session.rows[0].patches
    torch.testing.assert_close(session.feed(ids[0, at:]), full(MODEL, patch, ids)[at:], atol=1e-4, rtol=1e-4)
