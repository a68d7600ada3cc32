"""Compiled steps and recorded steps beside those of PyTorch, their slow and obvious twin.

On a CPU, the operations of recorded steps run without being recorded; `test_cuda.py` records them on a GPU."""

import subprocess
import sys

import pytest
import torch
from conftest import CROSS, DOCUMENTS, RULES, assert_equal, assert_same_steps, blt, ids_of, noise, patcher, undecided
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bytequilt import LM, load
from bytequilt.config import HashConfig, NgramConfig, StackConfig, UserError
from bytequilt.infer import recorded
from bytequilt.infer.recorded import RecordedSteps
from bytequilt.infer.session import Session
from bytequilt.model.encoder_cache import STATES
from bytequilt.model.int8 import quantise
from bytequilt.model.layers import lay_out
from bytequilt.model.ngram import NgramEntropy
from bytequilt.native import chosen
from bytequilt.patching.patcher import Patcher

pytest.importorskip("numba", reason="compiled steps need the extra `fast`")


def twins(model, patch, reserve=0, rows=1):
    """Three sessions: with the steps of PyTorch, compiled steps and recorded steps."""
    sessions = [Session(model, patch, reserve, rows, native) for native in (False, True, False)]
    sessions[2].steps = sessions[2].boundaries.steps = RecordedSteps(model, patch, rows)
    return sessions


@st.composite
def stacks(draw, heads, windows=(None, 1, 3, 12)):
    groups = draw(st.sampled_from([g for g in (1, 2, 4) if heads % g == 0]))
    sizes = {"layers": draw(st.integers(1, 3)), "ffn_dim": draw(st.sampled_from([5, 24])), "heads": heads}
    return sizes | {"kv_heads": groups, "window": draw(st.sampled_from(windows))}


@st.composite
def models(draw):
    dim, (encoder, decoder) = draw(st.sampled_from([8, 24])), draw(st.sampled_from(CROSS))
    hashed = HashConfig(sizes=(3, 4), rows=97, functions=draw(st.integers(1, 3)))
    return blt(
        draw(st.integers(0, 9)),
        encoder=StackConfig(dim=dim, **draw(stacks(2))),
        latent=StackConfig(dim=draw(st.sampled_from([16, 40])), **draw(stacks(4))),
        decoder=StackConfig(dim=dim, **draw(stacks(4))),
        hash=draw(st.sampled_from([hashed, HashConfig(sizes=()), HashConfig(sizes=(9, 2), rows=50)])),
        slots=draw(st.integers(1, 3)),
        cross_heads=draw(st.sampled_from([2, 4])),
        cross_kv_heads=draw(st.sampled_from([1, 2])),
        encoder_cross=encoder,
        decoder_cross=decoder,
        cross_residual=draw(st.sampled_from([1.0, 2.0])),
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(models(), st.sampled_from(list(RULES)), st.lists(st.integers(0, 25), min_size=1, max_size=5), st.data())
def test_any_shape_gives_the_logits_and_boundaries_of_pytorch(model, kind, lengths, data):
    """One to five texts of different lengths, which some steps leave out, with a document that begins inside."""
    wide = data.draw(st.booleans())  # caches that need not grow
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(recorded, "COLUMNS", 512 if wide else 1)
        changed.setattr(recorded, "STATES", 64 if wide else 1)
        compare_steps_of_some_rows(model, kind, lengths, data)


def compare_steps_of_some_rows(model, kind, lengths, data):
    patch = patcher(kind, window=data.draw(st.sampled_from([None, 1, 10])), newline_reset=data.draw(st.booleans()))
    texts = [ids_of(noise(length, row), noise(12, row + 9))[0] for row, length in enumerate(lengths)]
    assume(not any(undecided(patch, text[None]) for text in texts))
    sessions = twins(model, patch, rows=len(texts))
    for row, text in enumerate(texts):
        for session in sessions:
            session.feed(text[: lengths[row] + 1], row)
    for at in range(10):
        rows = [row for row in range(len(texts)) if (at + row) % 4] or [0]
        ids_n = torch.stack([texts[row][sessions[0].rows[row].ids] for row in rows])
        assert_same_steps(sessions, ids_n[:, None], rows, 1e-4)  # narrow networks enlarge what rounding leaves


@pytest.mark.parametrize("kind", RULES)
def test_every_rule_from_the_first_byte_on(kind):
    patch = patcher(kind)
    assert not undecided(patch, DOCUMENTS)
    assert_same_steps(twins(blt(), patch), DOCUMENTS)


def test_a_table_of_entropies():
    table = NgramEntropy(NgramConfig(sizes=(2, 3), rows=50))
    table.single.uniform_(3, 5)
    assert_same_steps(twins(blt(), Patcher(RULES["entropy"], table)), DOCUMENTS)


def test_weights_that_are_laid_out_by_columns():
    model = blt()
    ours = Session(model, patcher("space"))
    lay_out(model)
    assert_same_steps([ours, Session(model, patcher("space"), native=True)], DOCUMENTS)


def test_a_table_that_is_stored_narrower():
    model = blt()
    model.encoder.hash.weight.data = model.encoder.hash.weight.data.bfloat16()
    assert_same_steps(twins(model, patcher("space")), DOCUMENTS)


def test_patches_too_long_to_be_recorded(monkeypatch):
    monkeypatch.setattr(recorded, "LONGEST", 16)
    ids = ids_of(b" " + b"a" * 100 + b" bc " + b"b" * 70 + b" ")
    assert_same_steps(twins(blt(encoder_cross="all"), patcher("space")), ids)


def test_a_recording_knows_the_memory_that_it_reads():
    model = blt()
    cache = model.latent.stack.cache(2, 0)
    before = [recorded.recording_key(part) for part in (model, cache)]
    assert before == [recorded.recording_key(part) for part in (model, cache)]
    model.bfloat16()
    cache.make_room(200)
    after = [recorded.recording_key(part) for part in (model, cache)]
    assert before[0] != after[0]
    assert before[1] != after[1]
    cache.single[1] = False
    assert recorded.recording_key(cache) != after[1]


def test_patches_longer_than_the_room_for_their_bytes():
    ids = ids_of(b" " + b"a" * 3 * STATES + b" " + b"b" * 5)
    assert_same_steps(twins(blt(encoder_cross="all"), patcher("space"), reserve=4), ids)


@pytest.mark.parametrize("reserve", [0, 9])
def test_positions_beyond_a_table_of_rotary_factors(reserve, monkeypatch):
    from bytequilt.model import rope, step
    from bytequilt.native import steps

    for module in (rope, step, steps, recorded):
        monkeypatch.setattr(module, "TABLE", 16)
    for tables in (rope.table, rope.turns):
        tables.cache_clear()
    assert_same_steps(twins(blt(), patcher("entropy"), reserve), DOCUMENTS)
    for tables in (rope.table, rope.turns):
        tables.cache_clear()


@pytest.mark.parametrize("kind", RULES)
def test_taking_back_and_going_on(kind):
    """Steps, pieces, crops and forks mixed, over the end of a document."""
    patch, at = patcher(kind), 0
    assert not undecided(patch, DOCUMENTS)
    sessions = twins(blt(encoder_cross="all"), patch, reserve=9)
    for turn, (steps, back) in enumerate([(4, 2), (9, 9), (20, 0), (9, 7), (1, 1), (12, 8), (20, 3)]):
        assert_same_steps(sessions, DOCUMENTS[:, at : at + steps])
        assert_equal(*[session.feed(DOCUMENTS[0, at + steps : at + steps + 3]) for session in sessions])
        at += steps + 3 - back
        for session in sessions:
            session.crop(back)
        forks = [session.fork() for session in sessions]
        assert_same_steps(sessions if turn % 2 else forks, torch.full((1, 2), 40 + turn))
        sessions = forks if turn % 2 else sessions


@pytest.mark.parametrize("kind", ["space", "entropy"])
@pytest.mark.parametrize("reserve", [1, 4, 9])
def test_a_row_that_sat_out_steps_can_go_back_as_far_as_it_reserves(reserve, kind):
    patch = patcher(kind, window=5)
    sessions, texts = twins(blt(), patch, reserve, rows=2), torch.cat([DOCUMENTS[:, :60], DOCUMENTS[:, 6:66]])
    assert_same_steps(sessions, texts[:, :40])
    assert_same_steps(sessions, texts[1:, 40:43], [1])
    for session in sessions:
        session.crop(reserve, 0)
    assert_same_steps(sessions, texts[:1, 40 - reserve : 50], [0])


def test_guesses_in_one_row_leave_the_open_patch_of_another():
    sessions, long = twins(blt(encoder_cross="all"), patcher("space"), 4, rows=2), ids_of(b" " + b"a" * 200)[0]
    for size in (63, 64, 65, 130):
        for session in sessions:
            session.clear(0)
            session.clear(1)
            session.feed(long[:9], 0)
            session.feed(long[: size + 2], 1)
        assert_equal(*[session.draft(100) for session in sessions])
        for session in sessions:
            session.undecided = 0
            session.encoder.crop(0, 1)
            session.decoder.crop(0, 1)
        assert_same_steps(sessions, ids_of(b" bc")[:, 1:4], [1])


@pytest.mark.parametrize(
    ("kind", "cross"), [(kind, ("last", "all")) for kind in RULES] + [("entropy", cross) for cross in CROSS]
)
def test_guesses_and_their_verification(kind, cross):
    """Rounds of guesses, some of which are taken back, over windows and a document's end; then plain steps."""
    patch = patcher(kind)
    assert not undecided(patch, DOCUMENTS)
    sessions, at = twins(blt(encoder_cross=cross[0], decoder_cross=cross[1]), patch, reserve=9), 7
    for session in sessions:
        session.feed(DOCUMENTS[0, :at])
    for count, back in ((6, 0), (8, 3), (1, 0), (9, 9), (8, 7), (9, 2), (9, 0)):
        guesses = DOCUMENTS[0, at : at + count]
        drafted = [torch.stack([session.draft(int(id)) for id in guesses]) for session in sessions]
        assert_equal(*drafted)
        assert_equal(*[s.verify(guesses, d) for s, d in zip(sessions, drafted, strict=True)])
        for session in sessions:
            session.crop(back)
        at += count - back
    assert_same_steps(sessions, DOCUMENTS[:, at : at + 12])
    assert sessions[0].counts == sessions[1].counts == sessions[2].counts


@pytest.mark.parametrize("guesses", [1, 4, 16])
def test_greedy_text_is_the_same_with_guesses(guesses):
    lm = LM(blt(), patcher("entropy"), native=True)
    options = {"max_bytes": 60, "temperature": 0.0}
    for prompt in (b"", b"a prompt", noise(30, 3)):
        assert lm.generate(prompt, speculate=guesses, **options).data == lm.generate(prompt, **options).data


def test_a_saved_session_goes_on_with_either():
    model, patch = blt(), patcher("budget")
    sessions = twins(model, patch)
    assert_same_steps(sessions, DOCUMENTS[:, :20])
    for session, other in zip(sessions, twins(model, patch)[::-1], strict=True):
        other.load(session.state())
        assert_equal(session.step(DOCUMENTS[0, 20:21]), other.step(DOCUMENTS[0, 20:21]))


def test_numbers_that_are_none_stay_none():
    model = blt()
    model.latent.stack.blocks[0].feed_forward.down.weight.data[:] = torch.nan
    session = Session(model, patcher("byte"), native=True)
    assert session.step(DOCUMENTS[0, :1]).isnan().all()


def test_a_batch_draws_what_pytorch_draws():
    lms = [LM(blt(), patcher("entropy"), native=native) for native in (False, True)]
    assert [lm.native for lm in lms] == [False, True]
    prompts, options = [noise(5, 1), noise(9, 2), b""], {"max_bytes": 30, "seed": 1}
    texts = [[text.data for text in lm.generate(prompts, **options)] for lm in lms]
    assert texts[0] == texts[1]
    assert lms[1].generate(prompts[1], speculate=3, temperature=0.0).data == (
        lms[0].generate(prompts[1], temperature=0.0).data
    )


def test_eight_bits_are_the_same_compiled():
    for encoder, decoder in CROSS:
        model, patch = blt(encoder_cross=encoder, decoder_cross=decoder), patcher("entropy")
        quantise(model)
        quantise(patch.model)
        sessions = twins(model, patch, rows=2)
        for session in sessions:
            session.prefill(DOCUMENTS[0, :9], 1)
        assert_same_steps(sessions, torch.cat([DOCUMENTS[:, :40], DOCUMENTS[:, 9:49]]))


def test_eight_bits_do_not_depend_on_neighbours():
    """A neighbour whose states are huge must not take the digits of others: each row has a text of its own."""
    model, patch = blt(), patcher("space")
    model.encoder.embed.weight.data[200] *= 1e4
    quantise(model)
    alone, both = Session(model, patch, native=True), Session(model, patch, rows=2, native=True)
    for id in DOCUMENTS[0, :30]:
        logits_2V = both.step(torch.stack([id, torch.tensor(200)]))
        torch.testing.assert_close(logits_2V[:1], alone.step(id[None]), atol=1e-5, rtol=1e-5)


def test_eight_bits_lose_little():
    text = (b"The ship was old, and the sea was grey. Nobody on board had seen the land for forty days, and the men "
            b"talked of nothing but water, bread and the wind that would not come. ")  # fmt: skip
    lms = [load("tiny"), load("tiny", dtype="int8"), load("tiny", dtype="int8", entropy_dtype="int8")]
    want, *reached = [lm.bits_per_byte(text) for lm in lms]
    assert reached == pytest.approx([want, want], rel=1e-3)
    assert lms[1].native
    with pytest.raises(UserError, match="patches without one"):
        load("letters", entropy_dtype="int8")
    for options in ({"dtype": "int8", "device": "meta"}, {"entropy_dtype": "bfloat16"}):
        with pytest.raises(UserError):
            load("tiny", **options)


def test_where_steps_are_compiled(monkeypatch):
    cpu, fp32 = torch.device("cpu"), torch.float32
    assert chosen(None, cpu, fp32)
    assert chosen(True, cpu, fp32)
    assert not chosen(False, cpu, fp32)
    assert not chosen(None, torch.device("meta"), fp32)
    assert chosen(None, torch.device("cuda"), torch.bfloat16)  # recorded there
    assert not load("tiny", dtype="bfloat16").native
    with pytest.raises(UserError, match="bfloat16"):
        load("tiny", dtype="bfloat16", native=True)
    for native in ("yes", 0, 1):
        with pytest.raises(UserError, match="native must be True, False or None"):
            load("tiny", native=native)
    monkeypatch.setattr("bytequilt.native.find_spec", lambda name: None)
    assert not load("tiny").native
    for options in ({"native": True}, {"dtype": "int8"}):
        with pytest.raises(UserError, match=r"pip install 'bytequilt\[fast\]'"):
            load("tiny", **options)


def test_what_takes_no_steps_does_not_import_numba(tmp_path):
    (tmp_path / "text").write_text("One patch after another.")
    program = f"""if True:
        import sys
        from bytequilt.cli import main
        for verb in (["patch", "Once"], ["info", "tiny"], ["eval", "tiny", {str(tmp_path / "text")!r}]):
            sys.argv = ["bytequilt", *verb]
            try:
                main()
            except SystemExit as end:
                assert not end.code, verb
        assert "numba" not in sys.modules and "llvmlite" not in sys.modules"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same(monkeypatch, capsys, tmp_path):
    from bytequilt.native import compiled

    (tmp_path / "file").touch()
    monkeypatch.setattr(compiled, "HERE", tmp_path / "file")
    monkeypatch.setattr(compiled.Path, "home", lambda: tmp_path / "file")
    compiled.folder.cache_clear()
    compiled.tell.cache_clear()
    try:
        assert compiled.folder() is None
        assert compiled.kernel(lambda x: x + 1)(2) == 3
        compiled.tell()
        compiled.tell()
        assert capsys.readouterr().err.count("compiling") == 1
    finally:
        compiled.folder.cache_clear()
        compiled.tell.cache_clear()
