"""Gives the same batches in the same order for any number of processes."""

from collections.abc import Callable
from typing import Any

from ..config import UserError
from .batches import Batch, Batches


class Streams:
    """This process's share of the batches of each optimizer step.

    There are `count` streams with disjoint documents. Globally, batch m comes from stream m % count. Process `rank` of
    `world` takes batches rank, rank + world, ... A process that shares a stream also packs the batches of the others,
    and skips them. `state` is taken between steps, for all streams at the same position; `gather` is an all-gather of
    Python objects. `accumulate` is the global number of batches per step. Raises UserError if it is not a multiple of
    `count` and `world`.
    """

    def __init__(
        self,
        make: Callable[[int, int], Batches],
        count: int,
        accumulate: int,
        rank: int = 0,
        world: int = 1,
        gather: Callable[[Any], list[Any]] = lambda value: [value],
    ) -> None:
        check_deal(accumulate, count, world)
        self.count, self.accumulate, self.rank, self.world, self.gather = count, accumulate, rank, world, gather
        mine = sorted({batch % count for batch in range(rank, accumulate, world)})
        self.streams = {number: make(number, count) for number in mine}
        self.taken = dict.fromkeys(mine, 0)
        """Number of batches taken or skipped so far, for each stream."""
        self.batch = rank
        """Global number of the next batch of this process."""

    def __iter__(self) -> "Streams":
        return self

    def __next__(self) -> Batch:
        number, place = self.batch % self.count, self.batch // self.count
        self.batch += self.world
        self._leave(number, place)
        self.taken[number] += 1
        return next(self.streams[number])

    def state(self) -> dict[str, Any]:
        """The positions of all streams at the end of a step. All processes must call this; all get the same value."""
        steps = -(-(self.batch - self.rank) // self.accumulate)
        for number in self.streams:
            self._leave(number, steps * self.accumulate // self.count)
        places: dict[int, Any] = {}
        for theirs in self.gather({number: stream.state() for number, stream in self.streams.items()}):
            places |= theirs
        states = [places[number] for number in range(self.count)]
        return states[0] if self.count == 1 else {"streams": states}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state` of any number of processes. Raises UserError for another number of streams."""
        states = state.get("streams", [state])
        if len(states) != self.count:
            raise UserError(f"cannot go on: the batches were made of {len(states)} streams, and now of {self.count}")
        for number, stream in self.streams.items():
            stream.restore(states[number])
            self.taken[number] = 0
        self.batch = self.rank

    def _leave(self, number: int, place: int) -> None:
        """Skip the batches of a stream before this position."""
        while self.taken[number] < place:
            self.taken[number] += 1
            next(self.streams[number])


def check_deal(accumulate: int, streams: int, world: int) -> None:
    """Raises UserError unless `accumulate` is a multiple of the number of streams and of the number of processes."""
    for number, name in ((world, "processes"), (streams, "streams")):
        if accumulate % number:
            raise UserError(f"accumulate = {accumulate} cannot be dealt evenly to {number} {name}: make it a multiple")
