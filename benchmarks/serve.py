"""A server on this machine under load: streams side by side, ten times more than it takes, and a soak.

The clients run in this process and the server in another; they share the processor, so what is said of overhead is said
in processor seconds of the server alone, beside a bare Batcher with the same texts. Nothing but 127.0.0.1 is asked, and
every loop has an end. `--soak SECONDS` lets clients come, stay, vanish and misbehave for so long instead.
"""

import asyncio
import json
import os
import random
import shlex
import socket
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx2
import tyro
from train_step import machine, table

PROMPT = "It was the best of times, it was the worst of times, it was the age of wisdom, "
START = 120  # seconds that a server may take to begin
LONGEST = 600  # seconds of one request
METRICS = ("process_cpu_seconds_total", "process_resident_memory_bytes")


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
    soak: float = 0.0
    """Seconds of a soak, which takes the place of the rest."""
    clients: int = 24
    """Clients of the soak."""
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
    if options.soak:
        result["soak"] = soak(options)
    else:
        result["streams"] = [streams(options, count) for count in options.streams]
        result["overload"] = overload(options)
    if options.json:
        print(json.dumps(result))
        return
    print(f"{result['machine']}\n{command}")
    for name, rows in result.items():
        if name in ("streams", "overload", "soak"):
            print(f"\n{name}\n{table(rows if isinstance(rows, list) else [rows])}")


# -------------------------------------------------------------------------------------------------------------- server


@contextmanager
def server(options: Options, rows: int, queue: int) -> Any:
    """The address of a server that has answered once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    limits = ["--rows", str(rows), "--queue", str(queue), "--port", str(port)]
    command = [sys.executable, "-m", "bytequilt", "serve", options.model, *limits]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(START * 10):
            if process.poll() is not None:
                sys.exit(f"the server ended with {process.returncode}: {shlex.join(command)}")
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


async def ask(client: httpx2.AsyncClient, output: int, seed: int, most: int | None = None) -> Answer:
    """Read one stream; with `most` go away after so many chunks."""
    body = {"prompt": PROMPT, "max_tokens": output, "seed": seed, "stream": True, "temperature": 0.8}
    answer = Answer(times=[time.perf_counter()])
    async with client.stream("POST", "/v1/completions", json=body) as stream:
        answer.status = stream.status_code
        async for line in stream.aiter_lines():
            if line == "data: [DONE]":
                answer.ended = True
            elif line.startswith("data: ") and stream.status_code == 200:
                encoded = json.loads(line[6:])["choices"][0]["bytes_b64"]
                answer.data += len(encoded) * 3 // 4 - encoded.count("=")
                answer.times.append(time.perf_counter())
            if most is not None and len(answer.times) > most:
                break
    return answer


async def together(address: str, count: int, output: int, seed: int) -> list[Answer]:
    """So many streams at once."""
    limits = httpx2.Limits(max_connections=count)
    async with httpx2.AsyncClient(base_url=address, timeout=LONGEST, limits=limits) as client:
        return await asyncio.gather(*(ask(client, output, seed + i) for i in range(count)))


def quantiles(name: str, values: list[float], unit: float) -> dict[str, float]:
    ordered = sorted(values)
    return {
        f"{name}_p50": statistics.median(ordered) * unit,
        f"{name}_p99": ordered[int(0.99 * (len(ordered) - 1))] * unit,
    }


# ------------------------------------------------------------------------------------------------------------ measures


def streams(options: Options, count: int) -> dict[str, Any]:
    """Streams side by side, and the processor seconds of a byte beside those of a bare Batcher."""
    with server(options, min(count, 64), count) as address:
        before, begun = metrics(address), time.perf_counter()
        answers = asyncio.run(together(address, count, options.output, 1))
        seconds, after = time.perf_counter() - begun, metrics(address)
    total = sum(answer.data for answer in answers)
    cost = (after[METRICS[0]] - before[METRICS[0]]) / total
    bare = batcher(options, count)
    return {
        "streams": count,
        "bytes_per_s": total / seconds,
        **quantiles("first_ms", [answer.first for answer in answers], 1000),
        **quantiles("byte_ms", [answer.per_byte for answer in answers], 1000),
        "cpu_ms_per_byte": 1000 * cost,
        "bare_cpu_ms": 1000 * bare,
        "overhead": f"{cost / bare - 1:+.1%}",
        "lost": sum(not answer.ended for answer in answers),
    }


def batcher(options: Options, count: int) -> float:
    """Processor seconds of a byte of the same texts without a server."""
    lines = (
        "import sys, time; from bytequilt import load; from bytequilt.infer.sampling import Sampling\n"
        "model, count, output, prompt = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].encode()\n"
        "lm = load(model); lm.generate(prompt, max_bytes=8, seed=1); batcher = lm.batcher(min(count, 64))\n"
        "for i in range(count): batcher.insert(prompt, Sampling(max_bytes=output, seed=1 + i, temperature=0.8))\n"
        "begun, total = time.process_time(), 0\n"
        "while len(batcher): total += sum(len(step.data) for _, step in batcher.step())\n"
        "print((time.process_time() - begun) / total)"
    )
    arguments = [options.model, str(count), str(options.output), PROMPT]
    return float(subprocess.run([sys.executable, "-c", lines, *arguments], check=True, capture_output=True).stdout)


def overload(options: Options) -> dict[str, Any]:
    """Ten times as many requests at once as there is room for."""
    room = 2 * options.rows
    with server(options, options.rows, options.rows) as address:
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


def soak(options: Options) -> dict[str, Any]:
    """Clients that read all, vanish, or send what is no request, one after another for so many seconds."""
    with server(options, options.rows, options.rows) as address:
        before = metrics(address)
        counts = asyncio.run(_soak(address, options))
        for _ in range(100):
            after = metrics(address)
            if not after["bytequilt:num_requests_running"] + after["bytequilt:num_requests_waiting"]:
                break
            time.sleep(0.1)
    return {
        **counts,
        "rows_left": int(after["bytequilt:num_requests_running"]),
        "mib_before": before[METRICS[1]] / 2**20,
        "mib_after": after[METRICS[1]] / 2**20,
    }


async def _soak(address: str, options: Options) -> dict[str, int]:
    counts = dict.fromkeys(("whole", "vanished", "refused", "wrong", "lost"), 0)
    until = time.monotonic() + options.soak

    async def visit(client: httpx2.AsyncClient, dice: random.Random) -> str:
        kind = dice.random()
        if kind < 0.1:
            answer = await client.post("/v1/completions", content=dice.randbytes(100))
            return "wrong" if 400 <= answer.status_code < 500 else "lost"
        most = dice.randint(1, 20) if kind < 0.5 else None
        answer = await ask(client, dice.randint(1, options.output), dice.randrange(1000), most)
        if answer.status == 429:
            await asyncio.sleep(0.2)
            return "refused"
        return "whole" if answer.ended else "vanished" if most is not None else "lost"

    async def go(seed: int) -> None:
        dice = random.Random(seed)
        async with httpx2.AsyncClient(base_url=address, timeout=LONGEST) as client:
            while time.monotonic() < until:
                counts[await visit(client, dice)] += 1

    await asyncio.gather(*(go(seed) for seed in range(options.clients)))
    return counts


if __name__ == "__main__":
    main()
