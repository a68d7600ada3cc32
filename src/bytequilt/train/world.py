"""The processes of a training: all-reduce, gathering, waiting, stopping. A single process is a world too."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
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

# limit while one process works and the others wait; if it dies, the launcher ends the others
PATIENCE = timedelta(days=30)
LOST = ("connection", "timed out", "timeout", "peer", "socket", "broken pipe", "nccl")
"""Words in the error messages of collectives that fail because another process has ended."""


class Interrupted(Exception):
    """The user stopped the run; its state is saved in a checkpoint."""


class ProcessLost(UserError):
    """Another process of this world does not answer."""


@dataclass(eq=False)
class World:
    """The group of processes that train together; this process has number `rank`."""

    rank: int = 0
    size: int = 1
    store: dist.Store | None = None
    """Key-value store for small messages between several processes."""
    waits: int = 0

    @property
    def apart(self) -> bool:
        """True for a task of a job array: several processes share the work but cannot communicate."""
        return self.size > 1 and self.store is None and not dist.is_initialized()

    @property
    def first(self) -> bool:
        """True for the process that writes files and messages."""
        return self.rank == 0

    def total(self, numbers: list[int]) -> list[int]:
        """Integers, each summed over all processes."""
        if self.size == 1:
            return numbers
        sums = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(sums)
        return sums.tolist()

    def sum_(self, x: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes in a list, ordered by rank."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait until all processes have reached this call, without a time limit."""
        if self.store is None:
            return
        self.waits += 1
        if self.store.add(f"here{self.waits}", 1) == self.size:
            self.store.set(f"go{self.waits}", "")
        self.store.wait([f"go{self.waits}"], PATIENCE)

    def speaks(self) -> bool:
        """True if this process is the first that reports an error; the others then end silently."""
        try:
            return self.store is None or self.store.add("ended", 1) == 1
        except RuntimeError:  # the store ended with the launcher
            return self.first


ALONE = World()


@contextmanager
def join_world(timeout: float, device: str = "auto", apart: bool = False) -> Iterator[World]:
    """The world of this process, as torchrun started it; ALONE without torchrun.

    Only the first process prints progress. An error is printed once, by the process where it occurs first. `apart` also
    accepts the processes of a job array, which have ranks but no common address. Raises ProcessLost if another process
    ends or does not answer for `timeout` seconds, and UserError if there is no common address and `apart` is false.
    """
    rank, size = rank_and_world()
    if size == 1:
        yield ALONE
        return
    if "MASTER_ADDR" not in os.environ:
        if not apart:
            raise UserError("RANK and WORLD_SIZE are set, but no MASTER_ADDR to meet at: torchrun sets all three")
        yield World(rank, size)
        return
    was_quiet, console.quiet = console.quiet, rank > 0
    world = World(rank, size, _store(rank, timedelta(seconds=timeout)))
    backend = "cpu:gloo,cuda:nccl" if device != "cpu" and torch.cuda.is_available() else "gloo"
    try:
        with _report_once(world):
            limit = timedelta(seconds=timeout)
            dist.init_process_group(backend, store=world.store, rank=rank, world_size=size, timeout=limit)
            yield world
    finally:
        console.quiet = was_quiet
        if dist.is_initialized():
            with suppress(RuntimeError):  # other processes may have ended already
                dist.destroy_process_group()


def _store(rank: int, timeout: timedelta) -> dist.Store:
    """The launcher's key-value store, with a prefix per restart: addresses of ended processes must not be found."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    ours = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = dist.TCPStore(host, port, is_master=ours, timeout=timeout, wait_for_workers=False)
    return dist.PrefixStore(f"attempt{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


@contextmanager
def _report_once(world: World) -> Iterator[None]:
    try:
        yield
    except Interrupted:  # all processes stop together
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
        raise ProcessLost(
            f"rank {world.rank} lost another process ({one_line(error)[:120]}); torchrun --max-restarts, or the same "
            "command, continues from the last checkpoint"
        ) from None


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """A context whose value is a function: it returns True after SIGINT or SIGTERM. A second signal stops at once."""
    signals: list[int] = []

    def ask(number: int, frame: object) -> None:
        if signals:
            raise KeyboardInterrupt
        signals.append(number)
        console.print("stopping after this step")

    heard = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, ask) for number in heard}
    try:
        yield lambda: bool(signals)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
