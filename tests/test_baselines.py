"""Baselines: their vocabularies, and that they are scored, generated from, saved and trained as a BLT is."""

import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import noise
from hypothesis import given, settings
from hypothesis import strategies as st

from bytequilt import LM, UserError, load
from bytequilt.baselines.baseline import Baseline, build
from bytequilt.baselines.networks import baseline_flops
from bytequilt.baselines.vocabulary import BPE, Bytes
from bytequilt.codec import BOS, EOS, OFFSET, encode
from bytequilt.config import BaselineConfig, DataConfig, MambaConfig, StackConfig, TrainConfig
from bytequilt.data.batches import Batches
from bytequilt.data.prepare import ingest
from bytequilt.evals.corpora import evaluate, texts
from bytequilt.infer import score
from bytequilt.info import describe
from bytequilt.interop import convert
from bytequilt.lm import load_any
from bytequilt.train.loop import fit
from bytequilt.train.tasks import LanguageTask
from bytequilt.view.tables import description, evaluation

TEXT = b"The cat sat on the mat, and the dog sat on the cat; the mat was flat.\n" * 20
DOCUMENTS = [b"The cat sat.", b"", b"on the mat \xff\xfe\n\n 12345 cats", noise(60, 3)]
STACK = StackConfig(dim=16, layers=2, heads=2, ffn_dim=24, window=12)
MAMBA = MambaConfig(dim=16, layers=2, state=4)
OURS = BPE.learn([TEXT], 280)


def baseline(vocabulary, body=STACK, seed: int = 0) -> Baseline:
    torch.manual_seed(seed)
    network = {"stack" if body is STACK else "mamba": body}
    config = BaselineConfig(**network, vocabulary=vocabulary.size, token_bytes=2.0 if vocabulary is OURS else 1.0)
    return Baseline(build(config), vocabulary, config)


@pytest.fixture(params=["bytes", "bpe", "mamba"])
def model(request):
    return baseline(OURS if request.param == "bpe" else Bytes(), MAMBA if request.param == "mamba" else STACK)


# ------------------------------------------------------------------------------------------------------ vocabularies


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=40).map(str.encode), st.just(TEXT[:90] + b"\xc3")))
def test_any_bytes_come_back(data):
    ids = OURS.encode(data, eos=True)
    assert (ids[0], ids[-1]) == (BOS, EOS)
    assert ids[1:-1].min(initial=OFFSET) >= OFFSET
    assert ids.max() < OURS.size
    assert b"".join(OURS.text(id) for id in ids.tolist()) == data


def merged(ranks: dict[bytes, int], piece: bytes) -> list[int]:
    """Byte pair encoding, the slow and obvious way: join the neighbours of lowest rank until none are left."""
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while pairs := [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]:
        _, i = min(pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return [ranks[part] for part in parts]


def test_tokens_are_those_of_the_slow_way():
    words = re.findall(rb" ?[a-zA-Z]+|[,;.]\n?", TEXT[:140])
    slow = [rank + OFFSET for word in words for rank in merged(OURS.ranks, word)]
    assert OURS.encode(b"".join(words), bos=False).tolist() == slow
    assert len(slow) < len(b"".join(words)) / 2


def test_a_learnt_vocabulary_has_the_ranks_asked_for_and_is_the_same_again():
    assert OURS.size == 280 + OFFSET
    assert BPE.learn([TEXT], 280).ranks == OURS.ranks
    with pytest.raises(UserError, match="gives a vocabulary of"):
        BPE.learn([b"ab"], 5000)


def test_ranks_are_saved_and_a_prefix_of_them_is_a_smaller_vocabulary(tmp_path):
    OURS.save(tmp_path / "tokenizer.model")
    assert BPE.read(tmp_path / "tokenizer.model").ranks == OURS.ranks
    smaller = BPE.read(tmp_path / "tokenizer.model", 270)
    assert smaller.ranks == {text: rank for text, rank in OURS.ranks.items() if rank < 270}
    assert len(smaller.encode(TEXT)) > len(OURS.encode(TEXT))
    for asked in (281, 255):
        with pytest.raises(UserError, match="280 ranks"):
            BPE.read(tmp_path / "tokenizer.model", asked)


def test_what_is_no_tokenizer_is_told(tmp_path):
    with pytest.raises(UserError, match="llama-models"):
        BPE.read(tmp_path / "none")
    (tmp_path / "other").write_text("a text")
    with pytest.raises(UserError, match="not a tokenizer of ranks"):
        BPE.read(tmp_path / "other")
    (tmp_path / "gap").write_text("YQ== 1\n")
    with pytest.raises(UserError, match="every byte"):
        BPE.read(tmp_path / "gap")


def test_the_bytes_are_the_ids_of_a_blt():
    assert np.array_equal(Bytes().encode(b"\x00a\xff", eos=True), encode(b"\x00a\xff", eos=True))
    assert [Bytes().text(id) for id in (BOS, EOS, 4, 259)] == [b"", b"", b"\x00", b"\xff"]


# ----------------------------------------------------------------------------------------------------------- scoring


def slow_nats(model: Baseline, ids: np.ndarray) -> np.ndarray:
    """-log p of each id but the first, from one forward pass."""
    ids_1N = torch.from_numpy(ids)[None]
    with torch.no_grad():
        log_p = model.network(ids_1N).double().log_softmax(-1)[0, :-1]
    return -log_p.gather(1, ids_1N[0, 1:, None])[:, 0].numpy()


@pytest.mark.parametrize(("chunk", "long", "block"), [(4096, 8192, 2**24), (5, 20, 1), (1, 1, 700)])
def test_documents_cost_what_one_pass_says_however_they_are_cut(monkeypatch, model, chunk, long, block):
    for name, value in (("CHUNK", chunk), ("LONG", long), ("BLOCK", block)):
        monkeypatch.setattr(score, name, value)
    scores = model.score_documents(DOCUMENTS)
    slow = [slow_nats(model, model.vocabulary.encode(d, eos=True)).sum() for d in DOCUMENTS]
    assert [s.nats for s in scores] == pytest.approx(slow, rel=1e-5)
    assert [s.bytes for s in scores] == [len(d) for d in DOCUMENTS]
    assert not any(s.patches for s in scores)
    assert model.bits_per_byte(DOCUMENTS[0]) == pytest.approx(slow[0] / math.log(2) / 12, rel=1e-5)


def test_pairs_cost_what_the_continuation_adds(model):
    pairs = [("The cat", " sat"), (b"", b"on"), ("The cat sat", "")]
    for (context, continuation), found in zip(pairs, model.score(pairs), strict=True):
        before = model.vocabulary.encode(context)
        ids = np.concatenate([before, model.vocabulary.encode(continuation, bos=False)])
        assert found.nats == pytest.approx(slow_nats(model, ids)[len(before) - 1 :].sum(), rel=1e-5, abs=1e-9)
        assert found.bytes == len(continuation)
    assert model.score("The cat", " sat").nats == pytest.approx(model.score(pairs)[0].nats, rel=1e-6)


def test_space_before_a_continuation_is_part_of_its_token():
    bpe, plain = baseline(OURS), baseline(Bytes())
    assert bpe.score("The cat ", "sat").nats == pytest.approx(bpe.score("The cat", " sat").nats, rel=1e-6)
    assert plain.score("The cat ", "sat").nats != pytest.approx(plain.score("The cat", " sat").nats, rel=1e-3)


def test_a_greedy_continuation_is_told_from_others():
    model = baseline(Bytes())
    text = slow_greedy(model, b"The cat", 6)
    assert model.score(b"The cat", text).greedy
    assert not model.score(b"The cat", text[:-1] + bytes([text[-1] ^ 1])).greedy


# -------------------------------------------------------------------------------------------------------- generation


def slow_greedy(model: Baseline, prompt: bytes, size: int) -> bytes:
    """The likeliest id again and again, each from a pass over everything before it."""
    ids, text = model.vocabulary.encode(prompt), b""
    while len(text) < size:
        with torch.no_grad():
            logits = model.network(torch.from_numpy(ids)[None])[0, -1]
        logits[[0, 1, 3]] = -math.inf
        if (id := int(logits.argmax())) == EOS:
            break
        ids, text = np.append(ids, id), text + model.vocabulary.text(id)
    return text[:size]


def test_many_texts_are_those_that_each_is_alone(model):
    prompts = [b"The cat", b"", b"on the mat, and the dog sat on"]
    found = model.generate(prompts, max_bytes=15, temperature=0)
    assert [one.data for one in found] == [slow_greedy(model, prompt, 15) for prompt in prompts]
    assert [text.finish_reason for text in found] == ["length"] * 3


def test_a_text_ends_before_its_stop_string(model):
    drawn = {seed: model.generate("The cat", max_bytes=30, temperature=1.0, seed=seed).data for seed in range(8)}
    seed, whole = max(drawn.items(), key=lambda one: len(one[1]))
    stop = whole[5:8]
    found = model.generate("The cat", max_bytes=30, temperature=1.0, seed=seed, stop=[stop])
    assert found.data == whole[: whole.find(stop)]
    assert found.finish_reason == "stop"
    assert model.generate("The cat", max_bytes=0).data == b""


def test_options_of_sampling_are_those_of_a_blt(model):
    """Of the likeliest id alone: what greedy takes. Options about bytes need a vocabulary of bytes."""
    options = {"max_bytes": 12, "seed": 1}
    assert model.generate("The", top_k=1, **options).data == model.generate("The", temperature=0, **options).data
    with pytest.raises(UserError, match="no option heat"):
        model.generate("a", heat=3)
    for option in ({"utf8": True}, {"logit_bias": {65: 1.0}}, {"logprobs": True}, {"top_logprobs": 2}):
        if model.config.vocabulary == 260:
            assert model.generate("a", **options, **option).stats.bytes > 0
        else:
            with pytest.raises(UserError, match="is about bytes"):
                model.generate("a", **options, **option)


def test_a_seed_draws_the_same_in_any_company(model):
    prompts, options = ["The cat", "", "on"], {"max_bytes": 15, "temperature": 1.0, "seed": 3}
    alone = [model.generate(prompt, **options).data for prompt in prompts]
    assert [found.data for found in model.generate(prompts, **options)] == alone


# ------------------------------------------------------------------------------------------------- directories, verbs


def test_saved_is_loaded(tmp_path, model):
    model.save(tmp_path / "model")
    found = load_any(str(tmp_path / "model"))
    assert isinstance(found, Baseline)
    assert found.config == model.config
    assert found.bits_per_byte(DOCUMENTS[2]) == model.bits_per_byte(DOCUMENTS[2])
    assert isinstance(load_any("tiny"), LM)
    for refused in (load, lambda name: convert(name, tmp_path / "other", "hf")):
        with pytest.raises(UserError, match="baseline"):
            refused(tmp_path / "model")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.model"])
def test_a_damaged_directory_is_told(tmp_path, name):
    baseline(OURS).save(tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(b"\x08")
    with pytest.raises(UserError):
        load_any(str(tmp_path / "model"))


def test_eval_and_info_take_baselines(tmp_path, model):
    model.save(tmp_path / "model")
    (tmp_path / "text.txt").write_bytes(TEXT)
    found = evaluate(load_any(str(tmp_path / "model")), [("text.txt", texts(str(tmp_path / "text.txt")))])
    assert found["bpb"] == pytest.approx(model.bits_per_byte(TEXT))
    assert found["mean_patch_bytes"] is None
    evaluation(found)
    said = describe(str(tmp_path / "model"))
    assert said.parameters["total"] == sum(w.numel() for w in model.network.parameters())
    assert said.flops_per_byte == baseline_flops(model.config)
    description(said)


def test_flops_of_the_head_grow_with_the_vocabulary_and_are_shown_apart():
    small, large = (
        baseline_flops(BaselineConfig(stack=STACK, vocabulary=v, token_bytes=4.0), 4096) for v in (1000, 2000)
    )
    assert small["body"] == large["body"]
    assert large["head"] == 2 * small["head"] == 2 * 16 * 2000 / 4
    assert small["total"] == small["body"] + small["head"]


# ---------------------------------------------------------------------------------------------------------- training


def test_the_loop_trains_a_baseline_and_counts_bytes_not_tokens(tmp_path, model):
    (tmp_path / "train.txt").write_bytes(TEXT)
    (tmp_path / "val.txt").write_bytes(TEXT[:200])
    ingest(DataConfig(train=(str(tmp_path / "train.txt"),), val=(str(tmp_path / "val.txt"),)), tmp_path / "corpus")
    config = TrainConfig(steps=12, rows=2, row_bytes=64, lr=1e-2, warmup=2, precision="fp32", device="cpu")
    batches = Batches(tmp_path / "corpus" / "train", config, None, encode=model.vocabulary.encode)
    batch = next(batches)
    task = LanguageTask(model, [TEXT])
    rows = [ids[learn].tolist() for ids, learn in zip(batch.ids_BN, batch.learn_BN, strict=True)]
    assert task.bytes_of(batch) == sum(max(1, len(model.vocabulary.text(id))) for row in rows for id in row)
    assert task.loss(batch) > 0
    before = model.bits_per_byte(TEXT)
    done = fit(task, batches, config, tmp_path / "run", "study")
    assert model.bits_per_byte(TEXT) < before - 0.5
    assert done.bytes > 12 * (2 * 64 - 40) * (1 if model.config.vocabulary == 260 else 1.5)
