"""Runs that several processes do side by side, each run once: whoever holds its lock does it."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

Run = TypeVar("Run")

WAIT = 5.0  # seconds until it is looked again whether another process has finished a run


def work_off(
    missing: Callable[[], list[Run]],
    ready: Callable[[Run], bool],
    home: Callable[[Run], Path],
    do: Callable[[Run], None],
) -> None:
    """Do runs until none is missing, in their order, but for those that are not ready yet or in other hands."""
    while left := missing():
        for run in filter(ready, left):
            with claimed(home(run)) as mine:
                if mine and run in missing():
                    do(run)
                    break
        else:
            time.sleep(WAIT)  # the others are at work on all that is left


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether this process, and no other, has the run; a process that dies lets go of it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
