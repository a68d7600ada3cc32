"""A server on this machine under load: streams side by side, and ten times more than it takes.

The clients are users of locust (`locustfile.py`), which runs in a process of its own. Overhead is what a byte costs in
the server's process beside a byte of a bare Batcher with the same texts: in processor seconds, and in seconds, in which
users of the server also wait for their request to be read. Rounds of the two take turns, and the median of their ratios
counts. Nothing but 127.0.0.1 is asked, and every loop has an end.
`--model small` is the shape of the recipe `small` with random weights, which write as fast as trained ones.
`soak.py` does it for long, with clients that misbehave.
"""

import json
import math
import os
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2
import tyro
from train_step import machine, table

PROMPT = "It was the best of times, it was the worst of times, it was the age of wisdom, "
USERS = Path(__file__).parent / "locustfile.py"
START = 120  # seconds that a server may take to begin
LONGEST = 600  # seconds of all that is asked for at once


@dataclass(frozen=True)
class Options:
    """What to measure."""

    model: str = "tiny"
    streams: tuple[int, ...] = (1, 4, 16, 64)
    """Streams side by side; the server has a row for each of up to 64."""
    output: int = 320
    """Bytes of a stream."""
    rows: int = 16
    """Texts side by side under overload, and as many may wait; ten times both come at once."""
    rounds: int = 5
    """Of streams and of the bare Batcher, in turns."""
    threads: int = 1
    json: bool = False
    """One JSON document on stdout instead of tables."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    command = f"python benchmarks/serve.py {shlex.join(sys.argv[1:])}".strip()
    result: dict[str, Any] = {"command": command, "machine": machine(), "options": asdict(options)}
    with served(options.model) as model:
        result["streams"] = []
        for count in options.streams:
            result["streams"].append(streams(options, model, count))
            print(result["streams"][-1], file=sys.stderr)
        result["overload"] = overload(options, model)
    if options.json:
        print(json.dumps(result))
        return
    print(f"{result['machine']}\n{command}")
    for name, rows in result.items():
        if name in ("streams", "overload"):
            print(f"\n{name}\n{table(rows if isinstance(rows, list) else [rows])}")


# -------------------------------------------------------------------------------------------------------------- server


@contextmanager
def served(name: str) -> Iterator[str]:
    """What to call the model: `small` is made for the occasion, in a folder that is gone afterwards."""
    if name != "small":
        yield name
        return
    with tempfile.TemporaryDirectory() as folder:
        lines = (
            "import sys; from bytequilt import BLT, EntropyModel, LM, Patcher\n"
            "from bytequilt.codec import encode; from bytequilt.config import RuleConfig, load_recipe; import torch\n"
            "torch.manual_seed(0); recipe = load_recipe('small')\n"
            "patcher = Patcher(RuleConfig(threshold=0.0), EntropyModel(recipe.entropy).eval())\n"
            "text = bytes(torch.randint(256, (1000,), dtype=torch.uint8).tolist())  # what such a model writes\n"
            "nats = patcher.entropy(torch.from_numpy(encode(text))[None])\n"
            "patcher.rule = RuleConfig(threshold=float(nats.quantile(1 - 1 / recipe.patching.target_bytes)))\n"
            "LM(BLT(recipe.model).eval(), patcher).save(sys.argv[1])"
        )
        subprocess.run([sys.executable, "-c", lines, folder], check=True)
        yield folder


@contextmanager
def server(model: str, rows: int, queue: int, program: str = "") -> Iterator[tuple[str, int]]:
    """The address of a server that has answered once, and its process; `program` is Python that it runs first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    limits = ["--rows", str(rows), "--queue", str(queue), "--port", str(port)]
    lines = f"import sys\n{program}\nfrom bytequilt.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", lines, "serve", model, *limits]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(START * 10):
            if process.poll() is not None:
                sys.exit(f"the server ended with {process.returncode}: {shlex.join(command[3:])}")
            try:
                httpx2.get(f"{address}/health")
                break
            except httpx2.TransportError:
                time.sleep(0.1)
        httpx2.post(f"{address}/v1/completions", json={"prompt": PROMPT, "max_tokens": 8}, timeout=START)  # slow once
        yield address, process.pid
    finally:
        process.terminate()
        process.wait(60)


def metrics(address: str) -> dict[str, float]:
    """Values by name; those of several labels added up."""
    values: dict[str, float] = {}
    for line in httpx2.get(f"{address}/metrics").text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            name = name.split("{")[0]
            values[name] = values.get(name, 0.0) + float(value)
    return values


# ------------------------------------------------------------------------------------------------------------- clients


@dataclass(frozen=True)
class Told:
    """What locust told of so many users at once."""

    users: int
    entries: dict[str, Any]
    """By name, as `locustfile.py` calls them."""

    def times(self, name: str) -> list[float]:
        """Milliseconds of each user to whom that happened, in rising order."""
        counts = self.entries.get(name, {}).get("response_times", {})
        return sorted(Counter({float(time): count for time, count in counts.items()}).elements())

    @property
    def answered(self) -> int:
        return len(self.times("byte"))  # of a failure, locust has no time of a byte

    @property
    def refused(self) -> int:
        return len(self.times("refused"))

    @property
    def lost(self) -> int:
        return self.users - self.answered - self.refused

    @property
    def bytes(self) -> int:
        return self.entries["whole"]["total_content_length"]

    @property
    def seconds_per_byte(self) -> float:
        """Of all streams together, which begin at once."""
        return self.times("whole")[-1] / 1000 / self.bytes


def locust(address: str, process: int, users: int, output: int) -> Told:
    """Have so many users ask the server of a process at once, each for one stream."""
    body = json.dumps({"prompt": PROMPT, "max_tokens": output, "temperature": 0.8})
    options = ["--users", users, "--spawn-rate", users, "--run-time", LONGEST, "--headless", "--json", "--skip-log"]
    asked = ["--host", address, "--server-process", process, "--body", body]
    command = [sys.executable, "-m", "locust", "-f", USERS, *options, *asked]
    done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=2 * LONGEST)
    return Told(users, {entry["name"]: entry for entry in json.loads(done.stdout)})


def quantiles(name: str, values: list[float], unit: float = 1.0) -> dict[str, float]:
    ordered = sorted(values)
    return {
        f"{name}_p50": statistics.median(ordered) * unit,
        f"{name}_p99": ordered[math.ceil(0.99 * (len(ordered) - 1))] * unit,
    }


# ------------------------------------------------------------------------------------------------------------ measures


def streams(options: Options, model: str, count: int) -> dict[str, Any]:
    """Streams side by side, and what a byte costs beside a byte of a bare Batcher, in turns."""
    rounds, costs, cpu, wall = [], [], [], []
    with server(model, min(count, 64), count) as (address, process), batcher(options, model, count) as bare:
        bare()
        for _ in range(options.rounds):
            told = locust(address, process, count, options.output)
            costs.append(told.times("processor")[0] / 1000 / told.bytes)
            bare_cpu, bare_wall = bare()
            cpu.append(costs[-1] / bare_cpu - 1)
            wall.append(told.seconds_per_byte / bare_wall - 1)
            rounds.append(told)
    return {
        "streams": count,
        "bytes_per_s": statistics.median(1 / told.seconds_per_byte for told in rounds),
        **quantiles("first_ms", [time for told in rounds for time in told.times("first")]),
        **quantiles("byte_ms", [time for told in rounds for time in told.times("byte")]),
        "cpu_ms_per_byte": 1000 * statistics.median(costs),
        "overhead_cpu": spread(cpu),
        "overhead_wall": spread(wall),
        "lost": sum(told.lost for told in rounds),
    }


def spread(values: list[float]) -> str:
    """Median, lowest and highest."""
    return f"{statistics.median(values):+.1%} ({min(values):+.0%} to {max(values):+.0%})"


@contextmanager
def batcher(options: Options, model: str, count: int) -> Iterator[Callable[[], tuple[float, float]]]:
    """Generates the same texts without a server when it is called: processor seconds, and seconds, of a byte."""
    lines = (
        "import sys, time; from bytequilt import load; from bytequilt.infer.sampling import Sampling\n"
        "model, count, output, prompt = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].encode()\n"
        "batcher = load(model).batcher(min(count, 64))\n"
        "for _ in sys.stdin:\n"
        "    for i in range(count): batcher.insert(prompt, Sampling(max_bytes=output, seed=1 + i, temperature=0.8))\n"
        "    cpu, begun, total = time.process_time(), time.perf_counter(), 0\n"
        "    while len(batcher): total += sum(len(step.data) for _, step in batcher.step())\n"
        "    print((time.process_time() - cpu) / total, (time.perf_counter() - begun) / total, flush=True)"
    )
    command = [sys.executable, "-c", lines, model, str(count), str(options.output), PROMPT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def once() -> tuple[float, float]:
            process.stdin.write("\n")
            cpu, wall = map(float, process.stdout.readline().split())
            return cpu, wall

        yield once
        process.stdin.close()


def overload(options: Options, model: str) -> dict[str, Any]:
    """Ten times as many requests at once as there is room for."""
    room = 2 * options.rows
    with server(model, options.rows, options.rows) as (address, process):
        told = locust(address, process, 10 * room, options.output)
        left = metrics(address)
    return {
        "requests": told.users,
        "room": room,
        "admitted": told.answered,
        "refused": f"{told.refused / told.users:.0%}",
        "lost": told.lost,
        **quantiles("whole_s", told.times("whole"), 0.001),
        "rows_left": int(left["bytequilt:num_requests_running"]),
    }


if __name__ == "__main__":
    main()
