"""What the tests of the server share: servers in processes of their own, on free ports of this machine."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

from conftest import blt, patcher

from bytequilt import LM
from bytequilt.serve.limits import Limits

WAIT = 60  # seconds that anything may take at most on a machine that is busy with other things
TEXTS = [
    "Daenerys Targaryen",
    "Все счастливые семьи",
    "道可道，非常道",
    "يولد جميع الناس",
    "सभी मनुष्यों को",
    "🧵👩‍👩‍👧 é",
]


def untrained(seed: int = 0) -> LM:
    """A model that writes any bytes at all, and quickly."""
    return LM(blt(seed), patcher("entropy"))


def limits(**change) -> Limits:
    return Limits(**({"rows": 4, "queue": 4, "prompt_bytes": 1000, "output_bytes": 10_000, "seconds": WAIT} | change))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def process(*arguments: str, program: str | None = None, log=subprocess.DEVNULL):
    """A server that answers, as (its process, its address); killed at the end if it still runs.

    `program` is Python that comes before the command line is run.
    """
    port = free_port()
    command = "from bytequilt.cli import main; main(sys.argv[1:])"
    lines = f"import sys\n{program or ''}\n{command}"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        [sys.executable, "-c", lines, "serve", *arguments, "--port", str(port)], env=environment, stderr=log
    )
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + WAIT
        while True:
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=WAIT):
                    break
            except OSError:
                assert running.poll() is None, "the server ended before it began"
                assert time.monotonic() < until, "the server did not begin"
                time.sleep(0.1)
        yield running, address
    finally:
        running.kill()
        running.wait(WAIT)
