"""The processes that train together: what they add up, agree on and wait for. One process alone is a world, too."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..config import UserError, one_line
from ..data.shards import rank_and_world
from ..view.progress import console
from .signals import Interrupted

PATIENCE = timedelta(days=30)  # for work that one process does while the others wait; a launcher ends them if it dies
LOST = ("connection", "timed out", "timeout", "peer", "socket", "broken pipe", "nccl")
"""Words in the messages of collectives that fail because a process is gone."""


class Lost(UserError):
    """A process of this world does not answer."""


@dataclass(eq=False)
class World:
    """Some processes, of which this one has number `rank`."""

    rank: int = 0
    size: int = 1
    store: dist.Store | None = None
    """Small messages of a world of several."""
    waits: int = 0

    @property
    def apart(self) -> bool:
        """Whether it is one of several that share work and cannot be waited for: a job array."""
        return self.size > 1 and self.store is None and not dist.is_initialized()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.rank == 0

    def total(self, numbers: list[int]) -> list[int]:
        """Whole numbers, added up over all processes."""
        if self.size == 1:
            return numbers
        sums = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(sums)
        return sums.tolist()

    def sum_(self, x: Tensor) -> Tensor:
        """Adds up a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def gathered(self, value: Any) -> list[Any]:
        """What each process gives, which JSON could hold."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until all processes are here, however long it takes."""
        if self.store is None:
            return
        self.waits += 1
        if self.store.add(f"here{self.waits}", 1) == self.size:
            self.store.set(f"go{self.waits}", "")
        self.store.wait([f"go{self.waits}"], PATIENCE)

    def speaks(self) -> bool:
        """Whether this process is the first to say why it ends: the others only follow."""
        try:
            return self.store is None or self.store.add("ended", 1) == 1
        except RuntimeError:  # the store went with the launcher
            return self.first


ALONE = World()


@contextmanager
def joined(timeout: float, device: str = "auto", apart: bool = False) -> Iterator[World]:
    """The world that torchrun has made of this process and others; ALONE without torchrun.

    Only the first process speaks. What goes wrong is said once, by whom it befalls first. With `apart`, processes that
    have numbers and no address to meet at are a world as well. Raises Lost where another process is gone, or has not
    answered for `timeout` seconds, and UserError where processes have no address and are not to be apart.
    """
    rank, size = rank_and_world()
    if size == 1:
        yield ALONE
        return
    if "MASTER_ADDR" not in os.environ:
        if not apart:
            raise UserError("there are RANK and WORLD_SIZE, and no MASTER_ADDR to meet at: torchrun sets all of them")
        yield World(rank, size)
        return
    was_quiet, console.quiet = console.quiet, rank > 0
    world = World(rank, size, _store(rank, timedelta(seconds=timeout)))
    backend = "cpu:gloo,cuda:nccl" if device != "cpu" and torch.cuda.is_available() else "gloo"
    try:
        with _told(world):
            limit = timedelta(seconds=timeout)
            dist.init_process_group(backend, store=world.store, rank=rank, world_size=size, timeout=limit)
            yield world
    finally:
        console.quiet = was_quiet
        if dist.is_initialized():
            with suppress(RuntimeError):  # of others that are gone
                dist.destroy_process_group()


def _store(rank: int, timeout: timedelta) -> dist.Store:
    """That of the launcher, under a name of this attempt: addresses of processes that died must not be found again."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    ours = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = dist.TCPStore(host, port, is_master=ours, timeout=timeout, wait_for_workers=False)
    return dist.PrefixStore(f"attempt{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


@contextmanager
def _told(world: World) -> Iterator[None]:
    try:
        yield
    except Interrupted:  # all of them together
        if not world.first:
            raise SystemExit(130) from None
        raise
    except UserError:
        if not world.speaks():
            raise SystemExit(2) from None
        raise
    except RuntimeError as error:
        if not any(word in str(error).lower() for word in LOST):
            raise
        if not world.speaks():
            raise SystemExit(2) from None
        raise Lost(
            f"rank {world.rank} lost another process ({one_line(error)[:120]}); torchrun --max-restarts, or the same "
            "command, goes on from the last checkpoint"
        ) from None
