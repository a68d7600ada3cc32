import random
import sys

import pytest
import torch
from conftest import ids_of, noise
from torch.autograd import gradcheck
from torch.utils.flop_counter import FlopCounterMode

from bytequilt.baselines.mamba import CHUNK, Mamba, Scan, mamba_flops
from bytequilt.codec import VOCAB_SIZE
from bytequilt.config import MambaConfig, UserError

pytest.importorskip("transformers")

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def mamba(seed: int = 0, **change) -> Mamba:
    torch.manual_seed(seed)
    return Mamba(MambaConfig(**({"dim": 16, "layers": 2, "state": 4} | change)), VOCAB_SIZE).eval()


def theirs(model: Mamba, ids_BN: torch.Tensor) -> torch.Tensor:
    """The logits that the library's own forward gives."""
    network = model.backbone
    return model.head(network(inputs_embeds=model.embed(ids_BN), use_cache=False).last_hidden_state)


@pytest.mark.parametrize("change", [{}, {"dim": 20, "state": 3, "conv": 2, "expand": 3}, {"conv": 1}], ids=str)
def test_logits_and_gradients_are_those_of_the_library(change):
    model = mamba(**change).train()
    ids_BN = torch.cat([ids_of(noise(3 * CHUNK + 5, seed)) for seed in (1, 2)])
    found = []
    for logits in (model(ids_BN), theirs(model, ids_BN)):
        model.zero_grad()
        logits.sin().sum().backward()
        found.append([logits, *(weight.grad for weight in model.parameters())])
    for (name, _), ours, other in zip([("logits", None), *model.named_parameters()], *found, strict=True):
        torch.testing.assert_close(ours, other, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def scan_inputs(length: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    rows, inner, state = 2, 3, 2
    wide, narrow = ((length, rows, width) for width in (inner, state))
    values = [-torch.rand(state, inner), torch.rand(wide), *(torch.randn(shape) for shape in (wide, narrow, narrow))]
    keep = torch.rand(length, rows).gt(0.2)
    values = [v.to(dtype).requires_grad_() for v in (*values, torch.randn(rows, state, inner))]
    return *values[:5], keep.to(dtype), values[5]


def obvious_scan(rate, dt, x, write, read, keep, state):
    """The recurrence as it is written."""
    y = []
    for t in range(len(dt)):
        decay = keep[t, :, None, None] * torch.exp(dt[t, :, None] * rate)
        state = decay * state + x[t, :, None] * write[t, ..., None]
        y.append((state * read[t, ..., None]).sum(1))
    return torch.stack(y), state


@pytest.mark.parametrize("length", [1, 2, CHUNK, 2 * CHUNK + 3])
def test_the_scan_is_the_recurrence_written_out(length):
    inputs = scan_inputs(length)
    learnt = [v for v in inputs if v.requires_grad]
    found = []
    for scan in (Scan.apply, obvious_scan):
        y, state = scan(*inputs)
        found.append([y, state, *torch.autograd.grad(y.sin().sum() + state.cos().sum(), learnt)])
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow)


def test_gradients_of_the_scan_are_differences():
    assert gradcheck(Scan.apply, scan_inputs(CHUNK + 2), fast_mode=True)


@torch.no_grad()
def test_no_logit_moves_when_a_later_byte_changes():
    model, ids_BN = mamba(), ids_of(noise(20, 1), noise(20, 2))
    before = model(ids_BN)
    for place in range(1, ids_BN.shape[1]):
        changed = ids_BN.clone()
        changed[0, place] = 4 + (changed[0, place] - 3) % 256
        after = model(changed)
        torch.testing.assert_close(after[:, :place], before[:, :place], atol=0, rtol=0)
        assert not torch.equal(after[:, place], before[:, place])


@torch.no_grad()
def test_documents_of_a_row_and_rows_of_a_batch_do_not_see_each_other():
    model, documents = mamba(), [noise(40, 1), b"", b"a", noise(CHUNK - 2, 2), noise(7, 3)]
    alone = torch.cat([model(ids_of(d)) for d in documents], 1)
    packed = ids_of(*documents)
    batch = torch.zeros(2, packed.shape[1] + 9, dtype=torch.long)
    batch[0, : packed.shape[1]], batch[1, :30] = packed, ids_of(noise(28, 4))
    together = model(batch)
    torch.testing.assert_close(model(packed), alone, **CLOSE)
    torch.testing.assert_close(together[:1, : packed.shape[1]], alone, **CLOSE)
    torch.testing.assert_close(together[1:, :30], model(batch[1:, :30]), **CLOSE)


def test_gradients_of_packed_documents_are_the_sum_of_each():
    model, documents = mamba(), [noise(30, 1), noise(5, 2), noise(CHUNK, 3)]
    found = []
    for rows in ([ids_of(*documents)], [ids_of(d) for d in documents]):
        model.zero_grad()
        for ids_BN in rows:
            model(ids_BN).sin().sum().backward()
        found.append([weight.grad for weight in model.parameters()])
    for packed, alone in zip(*found, strict=True):
        torch.testing.assert_close(packed, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("seed", range(6))
@torch.no_grad()
def test_pieces_of_rows_are_the_whole_of_them(seed):
    chance = random.Random(seed)
    model = mamba(seed, conv=chance.choice([1, 2, 4]))
    rows = [ids_of(noise(50, seed), b"", noise(3, 1), noise(30, 2)), ids_of(noise(9, 3), noise(78, seed))]
    whole_BN, cache = torch.cat([ids_BN[:, :87] for ids_BN in rows]), model.cache(2)
    begin, pieces = 0, []
    while begin < whole_BN.shape[1]:
        size = chance.choice([1, 1, 2, 5, CHUNK, 40])
        pieces.append(model(whole_BN[:, begin : begin + size], cache))
        begin += size
    torch.testing.assert_close(torch.cat(pieces, 1), model(whole_BN), **CLOSE)


@torch.no_grad()
def test_rows_that_come_and_leave_step_as_they_do_alone():
    model, texts = mamba(), [noise(30, seed) for seed in range(4)]
    whole = [model(ids_of(text, eos=False))[0] for text in texts]
    cache, ids = model.cache(3), [ids_of(text, eos=False)[0] for text in texts]
    inside = {0: [0, 1], 1: [1, 12], 2: [2, 20]}
    for row, (text, at) in inside.items():
        model(ids[text][None, :at], cache, cache.rows([row]))
    for step in range(10):
        if step == 4:
            del inside[1]
        if step == 7:
            cache.clear(1)
            model(ids[3][None, :5], cache, cache.rows([1]))
            inside[1] = [3, 5]
        rows = sorted(inside)
        ids_R = torch.stack([ids[inside[row][0]][inside[row][1]] for row in rows])
        for row, logits in zip(rows, model.step(ids_R, cache, cache.rows(rows)), strict=True):
            text, at = inside[row]
            torch.testing.assert_close(logits, whole[text][at], **CLOSE)
            inside[row][1] += 1


def test_training_is_deterministic_and_learns():
    ends = []
    for _ in range(2):
        model, ids_BN = mamba().train(), ids_of(b"abab" * 12, b"abab" * 9)
        optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-2), []
        for _ in range(15):
            loss = torch.nn.functional.cross_entropy(model(ids_BN)[0, :-1], ids_BN[0, 1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        ends.append(losses)
    assert ends[0] == ends[1]
    assert ends[0][-1] < ends[0][0] / 2


def test_bf16_leaves_the_scan_in_fp32():
    model, ids_BN = mamba(), ids_of(noise(60, 1))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids_BN)
    assert logits.dtype == torch.float32
    logits.sum().backward()
    torch.testing.assert_close(logits, model(ids_BN), atol=0.1, rtol=0.1)


def test_every_weight_learns_and_embeddings_are_named_as_elsewhere():
    model = mamba()
    model(ids_of(noise(20))).sin().sum().backward()
    names = dict(model.named_parameters())
    assert "embed.weight" in names
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in names.values())


@pytest.mark.parametrize("change", [{}, {"dim": 40, "state": 5, "conv": 3, "expand": 3}], ids=str)
def test_flops_are_those_that_torch_counts_and_those_counted_by_hand(change):
    config, ids_BN = mamba(**change).config, ids_of(noise(60))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        mamba(**change)(ids_BN)
    convolution, skip = 2 * config.conv * config.inner, 2 * config.inner
    scan = 6 * config.inner * config.state
    own = config.layers * (convolution + skip + scan)
    head = 2 * config.dim * VOCAB_SIZE
    assert mamba_flops(config) + head == counter.get_total_flops() / ids_BN.shape[1] + own


def test_without_the_library_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"bytequilt\[hf\]"):
        mamba()
