"""What the tests of the server share: servers in processes of their own, on free ports of this machine."""

import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from conftest import blt, patcher

from bytequilt import LM
from bytequilt.serve.limits import Limits

WAIT = 120  # seconds that anything may take at most on a machine that is busy with other things
START = 300  # seconds that a server may take to begin, which may have to compile the native step first
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


@contextmanager
def process(*arguments: str, program: str | None = None):
    """A server that answers, as (its process, its address, the file of its log); killed at the end if it still runs.

    `program` is Python that comes before the command line is run. The server takes a free port itself, and says which:
    a port that is looked for here could be somebody else's by the time that the server wants it.
    """
    lines = f"import sys\n{program or ''}\nfrom bytequilt.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", lines, "serve", *arguments, "--port", "0"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as opened:
            running = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=opened)
        try:
            yield running, _address(running, log), log
        finally:
            running.kill()
            running.wait(WAIT)


def _address(running: subprocess.Popen[bytes], log: Path) -> str:
    """Where the server listens, when it does."""
    until = time.monotonic() + START
    while (said := re.search(r" at (http://\S+)", log.read_text())) is None:
        assert running.poll() is None, f"the server ended before it began: {log.read_text()}"
        assert time.monotonic() < until, "the server did not begin"
        time.sleep(0.1)
    return said[1]
