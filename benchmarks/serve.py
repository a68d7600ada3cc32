"""A server on this machine under load: streams side by side, and ten times more than it takes.

The clients run in this process and the server in another; they share the processor, so what is said of overhead is said
in processor seconds of the server alone, beside those of a bare Batcher with the same texts: rounds of the two take
turns, and the median of their ratios counts. Nothing but 127.0.0.1 is asked, and every loop has an end.
`--model small` is the shape of the recipe `small` with random weights, which write as fast as trained ones.
`soak.py` does it for long, with clients that misbehave.
"""

import asyncio
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx2
import tyro
from train_step import machine, table

PROMPT = "It was the best of times, it was the worst of times, it was the age of wisdom, "
START = 120  # seconds that a server may take to begin
LONGEST = 600  # seconds of one request
CPU = "process_cpu_seconds_total"


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


@dataclass
class Answer:
    """What a client saw."""

    status: int = 0
    data: int = 0
    """Bytes."""
    times: list[float] = field(default_factory=list)
    """When it asked, and when each chunk came."""
    ended: bool = False
    """Whether the stream came to its `[DONE]`."""
    failed: bool = False
    """Whether it came to an error."""

    @property
    def first(self) -> float:
        return self.times[1] - self.times[0]

    @property
    def per_byte(self) -> float:
        return (self.times[-1] - self.times[1]) / max(self.data - 1, 1)


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
def server(model: str, rows: int, queue: int, program: str = "") -> Iterator[str]:
    """The address of a server that has answered once; `program` is Python that it runs first."""
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
        asyncio.run(together(address, 1, 8, 1))  # what is slow once
        yield address
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


async def ask(client: httpx2.AsyncClient, body: dict[str, Any], most: int | None = None, pause: float = 0.0) -> Answer:
    """Read one stream; with `most` go away after so many chunks, with `pause` rest so many seconds after each."""
    answer = Answer(times=[time.perf_counter()])
    async with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as stream:
        answer.status = stream.status_code
        async for line in stream.aiter_lines():
            if line == "data: [DONE]":
                answer.ended = True
            elif line.startswith("data: {") and "error" in (chunk := json.loads(line[6:])):
                answer.failed = True
            elif line.startswith("data: {"):
                encoded = chunk["choices"][0]["bytes_b64"]
                answer.data += len(encoded) * 3 // 4 - encoded.count("=")
                answer.times.append(time.perf_counter())
                await asyncio.sleep(pause)
            if most is not None and len(answer.times) > most:
                break
    return answer


def text(output: int, seed: int) -> dict[str, Any]:
    """What is asked for."""
    return {"prompt": PROMPT, "max_tokens": output, "seed": seed, "temperature": 0.8}


async def together(address: str, count: int, output: int, seed: int) -> list[Answer]:
    """So many streams at once."""
    limits = httpx2.Limits(max_connections=count)
    async with httpx2.AsyncClient(base_url=address, timeout=LONGEST, limits=limits) as client:
        return await asyncio.gather(*(ask(client, text(output, seed + i)) for i in range(count)))


def quantiles(name: str, values: list[float], unit: float) -> dict[str, float]:
    ordered = sorted(values)
    return {
        f"{name}_p50": statistics.median(ordered) * unit,
        f"{name}_p99": ordered[math.ceil(0.99 * (len(ordered) - 1))] * unit,
    }


# ------------------------------------------------------------------------------------------------------------ measures


def streams(options: Options, model: str, count: int) -> dict[str, Any]:
    """Streams side by side, and the processor seconds of a byte beside those of a bare Batcher, in turns."""
    rounds, ratios, costs = [], [], []
    with server(model, min(count, 64), count) as address, batcher(options, model, count) as bare:
        bare()
        for _ in range(options.rounds):
            before, begun = metrics(address)[CPU], time.perf_counter()
            answers = asyncio.run(together(address, count, options.output, 1))
            seconds, total = time.perf_counter() - begun, sum(answer.data for answer in answers)
            costs.append((metrics(address)[CPU] - before) / total)
            ratios.append(costs[-1] / bare())
            rounds.append((total / seconds, answers))
    answers = [answer for _, of_round in rounds for answer in of_round]
    return {
        "streams": count,
        "bytes_per_s": statistics.median(speed for speed, _ in rounds),
        **quantiles("first_ms", [answer.first for answer in answers], 1000),
        **quantiles("byte_ms", [answer.per_byte for answer in answers], 1000),
        "cpu_ms_per_byte": 1000 * statistics.median(costs),
        "overhead": f"{statistics.median(ratios) - 1:+.1%}",
        "from_to": f"{min(ratios) - 1:+.1%} {max(ratios) - 1:+.1%}",
        "lost": sum(not answer.ended for answer in answers),
    }


@contextmanager
def batcher(options: Options, model: str, count: int) -> Iterator[Callable[[], float]]:
    """Generates the same texts without a server when it is called, and tells the processor seconds of a byte."""
    lines = (
        "import sys, time; from bytequilt import load; from bytequilt.infer.sampling import Sampling\n"
        "model, count, output, prompt = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].encode()\n"
        "batcher = load(model).batcher(min(count, 64))\n"
        "for _ in sys.stdin:\n"
        "    for i in range(count): batcher.insert(prompt, Sampling(max_bytes=output, seed=1 + i, temperature=0.8))\n"
        "    begun, total = time.process_time(), 0\n"
        "    while len(batcher): total += sum(len(step.data) for _, step in batcher.step())\n"
        "    print((time.process_time() - begun) / total, flush=True)"
    )
    command = [sys.executable, "-c", lines, model, str(count), str(options.output), PROMPT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def once() -> float:
            process.stdin.write("\n")
            return float(process.stdout.readline())

        yield once
        process.stdin.close()


def overload(options: Options, model: str) -> dict[str, Any]:
    """Ten times as many requests at once as there is room for."""
    room = 2 * options.rows
    with server(model, options.rows, options.rows) as address:
        answers = asyncio.run(together(address, 10 * room, options.output, 1))
        left = metrics(address)
    admitted = [answer for answer in answers if answer.status == 200]
    refused = sum(answer.status == 429 for answer in answers)
    return {
        "requests": len(answers),
        "room": room,
        "admitted": len(admitted),
        "refused": f"{refused / len(answers):.0%}",
        "lost": len(answers) - refused - sum(answer.ended for answer in admitted),
        **quantiles("whole_s", [answer.times[-1] - answer.times[0] for answer in admitted], 1),
        "rows_left": int(left["bytequilt:num_requests_running"]),
    }


if __name__ == "__main__":
    main()
