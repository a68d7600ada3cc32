import pytest
import torch
from conftest import ids_of
from hypothesis import given, settings
from hypothesis import strategies as st

from bytequilt.codec import BOS
from bytequilt.model.segments import Patches, flat, segment_max, segment_softmax

ROWS = st.integers(1, 30).flatmap(
    lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=3)
)


def patches_of(rows):
    """Patches of rows that begin with a BOS, which always closes its patch."""
    closes_BN = torch.tensor(rows)
    closes_BN[:, 0] = True
    ids_BN = torch.full(closes_BN.shape, 70)
    ids_BN[:, 0] = BOS
    return Patches.from_closes(ids_BN, closes_BN)


def slow_starts(closes_N):
    return [0] + [t + 1 for t in range(len(closes_N) - 1) if closes_N[t]]


@settings(deadline=None)
@given(ROWS)
def test_patches_are_the_runs_between_starts(rows):
    patches = patches_of(rows)
    for row, closes_N in enumerate(patches.closes_BN.tolist()):
        starts = slow_starts(closes_N)
        assert patches.starts[row] == starts
        assert patches.of_byte_BN[row].tolist() == [sum(s <= t for s in starts) - 1 for t in range(len(closes_N))]
        lengths = [b - a for a, b in zip(starts, [*starts[1:], len(closes_N)], strict=True)]
        assert patches.lengths_BP[row].tolist() == lengths + [0] * (patches.count - len(lengths))


@settings(deadline=None)
@given(ROWS)
def test_a_byte_reads_the_last_patch_that_is_complete(rows):
    patches = patches_of(rows)
    for row, closes_N in enumerate(patches.closes_BN.tolist()):
        assert patches.read_BN[row].tolist() == [sum(closes_N[: t + 1]) - 1 for t in range(len(closes_N))]


LENGTHS = [1, 1, 5, 3, 7, 2, 4, 6, 5, 4, 3]  # 40 bytes, and one to come
READ = [(0, 1), (1, 5), (2, 3), (3, 7), (4, 2), (5, 4), (6, 6), (7, 5), (8, 4), (9, 3)]


def test_worked_example_of_the_released_code():
    patches = Patches.from_lengths(torch.tensor([LENGTHS]))
    assert patches.read_BN[0].tolist() == [patch for patch, count in READ for _ in range(count)]
    assert patches.lengths_BP[0].tolist() == [*LENGTHS[:-1], 2]


@settings(deadline=None)
@given(ROWS)
def test_lengths_and_decisions_say_the_same(rows):
    patches = patches_of(rows)
    closes = patches.closes_BN.long()
    lengths_BP = torch.zeros(len(rows), patches.count + 1, dtype=torch.long)
    of_next_BN1 = torch.cat([torch.zeros_like(closes[:, :1]), closes.cumsum(1)], 1)  # N bytes and the one to come
    lengths_BP.scatter_add_(1, of_next_BN1, torch.ones_like(of_next_BN1))
    again = Patches.from_lengths(lengths_BP)
    assert torch.equal(again.start_BN, patches.start_BN)
    assert torch.equal(again.closes_BN, patches.closes_BN)


@pytest.mark.parametrize(
    "lengths",
    [[[2, 3]], [[0, 1, 4]], [[1, 3], [1, 4]], [[1, -1, 5]], [[1, 0, 4]]],
    ids=["first is 2", "first is 0", "sums differ", "negative", "zero inside"],
)
def test_lengths_that_are_no_patches_are_refused(lengths):
    with pytest.raises(ValueError, match="patch lengths"):
        Patches.from_lengths(torch.tensor(lengths))


def test_a_bos_opens_a_patch_whatever_was_decided_before_it():
    ids_BN = ids_of(b"ab", b"c")
    patches = Patches.from_closes(ids_BN, ids_BN == BOS)
    assert patches.starts == [[0, 1, 4, 5]]
    assert patches.opens_BP(ids_BN).tolist() == [[True, False, True, False]]
    assert patches.read_BN.tolist() == [[0, 0, 0, 0, 2, 2, 2]]  # the id before the second BOS closed nothing


def test_count_makes_room():
    ids_BN = ids_of(b"abcd")
    closes_BN = torch.ones_like(ids_BN, dtype=torch.bool)
    assert Patches.from_closes(ids_BN, closes_BN, 9).lengths_BP.tolist() == [[1] * 6 + [0] * 3]


def test_flat_counts_through_the_batch():
    assert flat(torch.tensor([[0, 2], [1, 1]]), 3).tolist() == [0, 2, 4, 4]


SEGMENT = torch.tensor([0, 0, 2, 2, 2, 5])  # 1, 3, 4 and 6 are empty


def test_segment_max_is_the_maximum_of_each_segment_and_zero_of_none():
    values = -torch.rand(6, 3)
    wanted = [values[s == SEGMENT].amax(0) if (s == SEGMENT).any() else torch.zeros(3) for s in range(7)]
    assert torch.equal(segment_max(values, SEGMENT, 7), torch.stack(wanted))


def test_segment_softmax_is_the_softmax_of_each_segment_and_its_gradient():
    scores = (100 * torch.randn(6, 3)).requires_grad_()
    weight = torch.randn(6, 3)
    slow = torch.cat([scores[s == SEGMENT].softmax(0) for s in (0, 2, 5)])
    fast = segment_softmax(scores, SEGMENT, 7)
    torch.testing.assert_close(fast, slow)
    gradients = [torch.autograd.grad((out * weight).sum(), scores)[0] for out in (fast, slow)]
    torch.testing.assert_close(*gradients)
