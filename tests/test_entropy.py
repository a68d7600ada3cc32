import math

import pytest
import torch
from conftest import entropy_model, ids_of, noise, patcher

from bytequilt.codec import NEWLINE
from bytequilt.model.entropy import entropy
from bytequilt.patching import patcher as patcher_module


def test_entropy_of_even_and_certain_distributions():
    logits = torch.zeros(1, 2, 260)
    logits[0, 1, 7] = 1000.0
    torch.testing.assert_close(entropy(logits), torch.tensor([[math.log(260), 0.0]]))


@pytest.mark.parametrize("newline_reset", [False, True])
@pytest.mark.parametrize("window", [1, 10, None])
def test_pieces_of_a_text_are_the_whole_of_it(window, newline_reset):
    model, ids_BN = entropy_model(window=window, newline_reset=newline_reset), ids_of(noise(70, 1), noise(40, 2))
    for size in (1, 9, 64):
        cache = model.cache()
        with torch.no_grad():
            pieces = torch.cat([model(part, cache) for part in ids_BN.split(size, 1)], 1)
            torch.testing.assert_close(pieces, model(ids_BN), atol=3e-5, rtol=1e-5)  # the head is doubled


@pytest.mark.parametrize("newline_reset", [False, True])
def test_long_documents_in_chunks_are_the_whole_of_them(monkeypatch, newline_reset):
    monkeypatch.setattr(patcher_module, "CHUNK", 37)
    patch, documents = patcher("entropy", newline_reset=newline_reset), [noise(500, 1), b"", b"a", noise(90, 2)]
    for document, nats in zip(documents, patch.entropies(documents), strict=True):
        assert nats.dtype == "float32"
        torch.testing.assert_close(torch.from_numpy(nats)[None], patch.entropy(ids_of(document)), atol=1e-5, rtol=1e-5)


def test_no_documents_have_no_entropies():
    assert patcher("entropy").entropies([]) == []


def test_a_newline_forgets_what_came_before_it_and_is_seen_itself():
    patch = patcher("entropy", newline_reset=True)
    one, other, after = noise(20, 1).replace(b"\n", b"."), noise(20, 2).replace(b"\n", b"."), b"\nwhat follows"
    a, b = (patch.entropy(ids_of(before + after))[:, 21:] for before in (one, other))
    torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    tail = ids_of(after)[:, 1:]  # nothing before the newline, not even a BOS
    assert tail[0, 0] == NEWLINE
    torch.testing.assert_close(patch.entropy(tail), a, atol=1e-5, rtol=1e-5)
    changed = patch.entropy(ids_of(one + b" " + after[1:]))[:, 22:]
    assert (changed - a[:, 1:]).abs().max() > 1e-3


def test_without_newline_reset_a_newline_is_a_byte_like_others():
    patch = patcher("entropy")
    a, b = (patch.entropy(ids_of(before + b"\nx"))[0, -3:] for before in (b"aaaa", b"bbbb"))
    assert not torch.allclose(a, b, atol=1e-3)


def test_rows_do_not_see_each_other_nor_the_padding():
    patch, rows = patcher("entropy"), [ids_of(noise(30, 1)), ids_of(noise(12, 2))]
    batch = torch.zeros(2, 40, dtype=torch.long)
    for row, ids_1N in enumerate(rows):
        batch[row, : ids_1N.shape[1]] = ids_1N
    together = patch.entropy(batch)
    for row, ids_1N in enumerate(rows):
        alone = patch.entropy(ids_1N)[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-5, rtol=1e-5)


def test_entropies_stay_fp32_under_autocast():
    patch, ids_BN = patcher("entropy"), ids_of(noise(40))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(patch.entropy(ids_BN), patcher("entropy").entropy(ids_BN))
    assert patch.entropy(ids_BN).dtype == torch.float32
