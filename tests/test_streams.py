"""Streams: whatever number of processes read them, each step has the same batches."""

from contextlib import suppress

import numpy as np
import pytest
import torch

from bytequilt.config import DataConfig, RuleConfig, TrainConfig, UserError
from bytequilt.data.batches import Batches
from bytequilt.data.prepare import ingest
from bytequilt.data.streams import Streams

ACCUMULATE = 4
TRAIN = TrainConfig(steps=1, rows=2, row_bytes=48, accumulate=ACCUMULATE)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("streams"), np.random.default_rng(0)
    for number in range(40):
        (folder / f"{number:02d}.txt").write_bytes(random.integers(97, 123, 150, dtype=np.uint8).tobytes())
    ingest(DataConfig(train=(str(folder / "*.txt"),), val_every=10), folder / "corpus")
    return folder / "corpus"


def world_of(corpus, count, world):
    """The streams of all ranks of a world; `gather` gives back what the ranks before have given as well."""
    given = []

    def gather(value):
        given.append(value)
        return given

    def make(rank, size):
        return Batches(corpus / "train", TRAIN, RuleConfig(kind="space"), rank=rank, world=size)

    return [Streams(make, count, ACCUMULATE, rank, world, gather) for rank in range(world)], given


def a_step(ranks):
    """The batches of a step in their order."""
    dealt = [[next(stream) for _ in range(ACCUMULATE // len(ranks))] for stream in ranks]
    return [dealt[m % len(ranks)][m // len(ranks)].ids_BN for m in range(ACCUMULATE)]


def state_of(ranks, given):
    """The state that all ranks get: here the last one, whom all have told."""
    given.clear()
    for stream in ranks[:-1]:
        with suppress(KeyError):
            stream.state()
    return ranks[-1].state()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_number_of_processes_reads_the_same_batches_and_goes_on_in_any_other(corpus, count):
    alone, _ = world_of(corpus, count, 1)
    wanted = [torch.stack(a_step(alone)) for _ in range(6)]
    state = None
    for first, world in zip((0, 2, 4), (2, 1, 4), strict=True):
        ranks, given = world_of(corpus, count, world)
        for stream in ranks:
            if state is not None:
                stream.restore(state)
        for step in (first, first + 1):
            assert torch.equal(torch.stack(a_step(ranks)), wanted[step])
        state = state_of(ranks, given)


def test_one_stream_is_the_batches_themselves(corpus):
    (stream,), _ = world_of(corpus, 1, 1)
    batches = Batches(corpus / "train", TRAIN, RuleConfig(kind="space"))
    for _ in range(ACCUMULATE):
        assert torch.equal(next(stream).ids_BN, next(batches).ids_BN)
    assert stream.state() == batches.state()


def test_what_cannot_be_dealt_evenly_is_refused(corpus):
    with pytest.raises(UserError, match="cannot be dealt evenly to 3 processes"):
        world_of(corpus, 1, 3)
    with pytest.raises(UserError, match="cannot be dealt evenly to 3 streams"):
        world_of(corpus, 3, 1)
    (ours,), _ = world_of(corpus, 2, 1)
    (theirs,), _ = world_of(corpus, 1, 1)
    with pytest.raises(UserError, match="made of 1 streams, and now of 2"):
        ours.restore(theirs.state())
