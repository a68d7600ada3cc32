import numpy as np
import pytest
import torch
from conftest import blt_config, ids_of
from hypothesis import given, settings
from hypothesis import strategies as st

from bytequilt.codec import BOS
from bytequilt.config import HashConfig
from bytequilt.model.encoder_cache import RecentIds
from bytequilt.model.hashing import PRIMES, HashEmbedding, hashes

GOLDEN = {  # (function, n): row of each id of BOS, Hello, EOS under the released code
    (0, 3): [443987, 124875, 393970, 386145, 358223, 190185, 428891],
    (0, 4): [437197, 433869, 117936, 254402, 246577, 30240, 64575],
    (0, 5): [123201, 168913, 27892, 170862, 307328, 265602, 276642],
    (0, 6): [166353, 160907, 92310, 405250, 48218, 280239, 194804],
    (0, 7): [34117, 338221, 15158, 281878, 94816, 340137, 444971],
    (0, 8): [172383, 205585, 456240, 129346, 299568, 322649, 281399],
    (1, 3): [45033, 214129, 1694, 65329, 10661, 145767, 405875],
}


def test_rows_are_those_of_the_released_models():
    config = HashConfig(rows=500_002, functions=2)
    rows_NT = hashes(config, ids_of(b"Hello"))[0]
    assert rows_NT.shape == (7, 12)
    for (function, n), wanted in GOLDEN.items():
        assert rows_NT[:, function * 6 + config.sizes.index(n)].tolist() == wanted


def slow_hash(ids, t, n, prime, rows):
    """The polynomial of the n ids up to t, with nothing before the last BOS."""
    opens = max([i for i in range(t + 1) if ids[i] == BOS], default=0)
    window = [ids[i] if i >= opens else 0 for i in range(t - n + 1, t + 1)]
    exact = sum(id * prime**power for power, id in enumerate(window))
    wrapped = (exact + 2**63) % 2**64 - 2**63
    return wrapped % rows


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.integers(0, 259), st.just(BOS)), min_size=1, max_size=20),
    st.lists(st.integers(2, 9), min_size=1, max_size=4, unique=True).map(sorted),
    st.integers(1, 11),
)
def test_hashes_equal_the_sum_written_out(ids, sizes, functions):
    config = HashConfig(sizes=tuple(sizes), functions=functions, rows=997)
    slow = [[slow_hash(ids, t, n, p, 997) for p in PRIMES[:functions] for n in sizes] for t in range(len(ids))]
    assert hashes(config, torch.tensor([ids]))[0].tolist() == slow


def test_windows_start_afresh_at_a_bos():
    config = HashConfig(rows=997)
    packed = hashes(config, ids_of(b"before", b"Hello"))
    assert torch.equal(packed[:, -7:], hashes(config, ids_of(b"Hello")))


def test_embedding_is_the_sum_over_tables():
    config = HashConfig(sizes=(3, 5), functions=2, rows=31)
    embed, ids_BN = HashEmbedding(config, 8), ids_of(b"some text")
    tables = embed.weight.view(4, 31, 8)
    slow = sum(tables[i][hashes(config, ids_BN)[..., i]] for i in range(4))
    torch.testing.assert_close(embed(ids_BN), slow)


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_pieces_of_a_text_see_the_ids_before_them(size):
    embed, ids_BN = HashEmbedding(blt_config().hash, 8), ids_of(b"some", b"text")
    recent = RecentIds(embed.reach, 1, 0, "cpu")
    pieces = [embed(part, recent.extend(recent.rows(), part)) for part in ids_BN.split(size, 1)]
    assert torch.equal(torch.cat(pieces, 1), embed(ids_BN))


@pytest.mark.parametrize("functions", [1, 2, 11])
def test_a_step_looks_up_what_the_parallel_forward_does(functions):
    """Its powers wrap as the polynomials do, and n-grams reach back to the BOS of their own document."""
    config = HashConfig(sizes=(8, 3, 5), functions=functions, rows=101)
    embed, ids_BN = HashEmbedding(config, 8), ids_of(b"some", b"", b"longer text \xff")
    recent, out, since = RecentIds(embed.reach, 1, 0, "cpu"), [], 0
    for id in ids_BN[0]:
        since = 0 if id == BOS else since + 1
        out.append(embed.step(recent.extend(recent.rows(), id.view(1, 1)), torch.tensor([since])))
    torch.testing.assert_close(torch.cat(out)[None], embed(ids_BN))


def test_a_table_in_half_precision_is_summed_in_full():
    config, ids_BN = HashConfig(sizes=(3, 5), rows=31), ids_of(b"some text")
    half = HashEmbedding(config, 8).bfloat16()
    full = HashEmbedding(config, 8)
    full.load_state_dict(half.state_dict())
    assert torch.equal(half(ids_BN), full(ids_BN))
    assert half(ids_BN, dtype=torch.bfloat16).dtype is torch.bfloat16


def test_primes_are_primes():
    assert all(np.all(p % np.arange(2, int(p**0.5) + 1)) for p in PRIMES)
