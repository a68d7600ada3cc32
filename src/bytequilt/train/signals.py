"""SIGINT and SIGTERM during training."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..view.progress import console


class Interrupted(Exception):
    """The user stopped the run; its state is saved in a checkpoint."""


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """A context whose value is a function: it returns True after SIGINT or SIGTERM. A second signal stops at once."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        console.print("stopping after this step")

    heard = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, ask) for number in heard}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
