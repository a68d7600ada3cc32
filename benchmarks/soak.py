"""A server for long among clients that stay, read slowly, vanish, ask for too much, or send what is no request.

Some texts fail inside the engine, too: the server is started with a fault put into it, which gives no numbers after a
prompt that says so. Nothing but 127.0.0.1 is asked, and every loop has an end. In the end no row may be taken, memory
must be as at the beginning, and `lost`, requests that were neither answered nor refused, must be 0.
"""

import asyncio
import json
import os
import random
import shlex
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from urllib.parse import urlparse

import httpx2
import tyro
from serve import LONGEST, PROMPT, metrics, server
from train_step import machine, table

FAILING = "fail: "  # a prompt that the fault is for
FAULT = f"""
from bytequilt.codec import encode
from bytequilt.infer.batcher import BLTDecoder
begin, init = encode({FAILING.encode()!r}).tolist(), BLTDecoder.__init__

def faulty(self, session):
    init(self, session)
    prefill = self.prefill
    self.prefill = lambda ids, row: prefill(ids, row) * (float("nan") if ids[: len(begin)].tolist() == begin else 1)

BLTDecoder.__init__ = faulty
"""
MIB = 2**20
Visit = Callable[["Client"], Awaitable[str]]


@dataclass(frozen=True)
class Options:
    """How long, and how many."""

    seconds: float = 1200.0
    clients: int = 24
    rows: int = 16
    """Texts side by side; as many may wait."""
    output: int = 320
    """Bytes of a text at most."""
    model: str = "tiny"
    threads: int = 1
    json: bool = False
    """One JSON document on stdout instead of tables."""


@dataclass
class Answer:
    """What a client saw."""

    status: int = 0
    chunks: int = 0
    ended: bool = False
    """Whether the stream came to its `[DONE]`."""
    failed: bool = False
    """Whether it came to an error."""


@dataclass
class Client:
    """Somebody who comes again and again."""

    http: httpx2.AsyncClient
    dice: random.Random
    options: Options

    def body(self, prompt: str = PROMPT) -> dict[str, object]:
        return {"prompt": prompt, "max_tokens": self.dice.randint(1, self.options.output), "temperature": 0.8}

    async def stream(self, body: dict[str, object], most: int | None = None, pause: float = 0.0) -> Answer:
        """Read a stream; with `most` go away after so many chunks, with `pause` rest so many seconds after each."""
        answer = Answer()
        async with self.http.stream("POST", "/v1/completions", json=body | {"stream": True}) as stream:
            answer.status = stream.status_code
            async for line in stream.aiter_lines():
                if line == "data: [DONE]":
                    answer.ended = True
                elif line.startswith("data: "):
                    answer.failed = "error" in json.loads(line[6:])
                    answer.chunks += 1
                    await asyncio.sleep(pause)
                if answer.chunks == most:
                    break
        return answer


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    with server(options.model, options.rows, options.rows, FAULT) as (address, _):
        memory, counts = asyncio.run(soak(address, options))
        after = settled(address)
    result = {
        "command": f"python benchmarks/soak.py {shlex.join(sys.argv[1:])}".strip(),
        "machine": machine(),
        "options": asdict(options),
        "visits": dict(sorted(counts.items())) | {"lost": counts["lost"]},
        "rows_left": int(after["bytequilt:num_requests_running"] + after["bytequilt:num_requests_waiting"]),
        "memory_mib": memory,
    }
    if options.json:
        print(json.dumps(result))
        return
    print(
        f"{result['machine']}\n{result['command']}\n\n{table([result['visits']])}\n\nrows left: {result['rows_left']}"
    )
    print("memory in MiB, from time to time:", " ".join(f"{value:.0f}" for value in memory))


def settled(address: str) -> dict[str, float]:
    """Metrics when no text is left, or after a while."""
    for _ in range(300):
        values = metrics(address)
        if not values["bytequilt:num_requests_running"] + values["bytequilt:num_requests_waiting"]:
            break
        time.sleep(0.1)
    return values


async def soak(address: str, options: Options) -> tuple[list[float], Counter[str]]:
    """The server's memory from time to time, in MiB, and how visits ended."""
    counts: Counter[str] = Counter()
    until, memory = time.monotonic() + options.seconds, []

    async def go(seed: int) -> None:
        async with httpx2.AsyncClient(base_url=address, timeout=LONGEST) as http:
            client = Client(http, random.Random(seed), options)
            while time.monotonic() < until:
                visit = client.dice.choices(list(VISITS), list(VISITS.values()))[0]
                try:
                    counts[await visit(client)] += 1
                except (httpx2.TransportError, OSError, ValueError) as error:
                    counts["lost"] += 1
                    print(f"{visit.__name__}: {error!r}", file=sys.stderr)

    async def look() -> None:
        while time.monotonic() < until:
            memory.append((await asyncio.to_thread(metrics, address))["process_resident_memory_bytes"] / MIB)
            await asyncio.sleep(options.seconds / 20)

    await asyncio.gather(look(), *(go(seed) for seed in range(options.clients)))
    memory.append(metrics(address)["process_resident_memory_bytes"] / MIB)
    return memory, counts


# -------------------------------------------------------------------------------------------------------------- visits


async def reads_all(client: Client) -> str:
    return await _outcome(client, await client.stream(client.body()), "whole")


async def asks_without_stream(client: Client) -> str:
    answer = await client.http.post("/v1/completions", json=client.body())
    return await _status(answer.status_code, "whole", 200)


async def vanishes(client: Client) -> str:
    """In the middle of a stream, which is ended before that only if it is short."""
    answer = await client.stream(client.body(), most=client.dice.randint(1, 20))
    return await _status(answer.status, "vanished", 200)


async def vanishes_at_once(client: Client) -> str:
    """After the request, or after a part of it."""
    body = json.dumps(client.body()).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    sent = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    _, writer = await asyncio.open_connection(*_place(client))
    writer.write(sent[: client.dice.choice([len(sent), client.dice.randrange(len(sent))])])
    await writer.drain()
    writer.close()
    return "vanished"


async def reads_slowly(client: Client) -> str:
    answer = await client.stream(client.body(), pause=0.05)
    return await _outcome(client, answer, "slow")


async def is_no_http(client: Client) -> str:
    reader, writer = await asyncio.open_connection(*_place(client))
    writer.write(client.dice.randbytes(200) + b"\r\n\r\n")
    answer = await reader.read(100)
    writer.close()
    return "wrong" if answer.startswith(b"HTTP/1.1 400 ") else "lost"


async def is_no_json(client: Client) -> str:
    answer = await client.http.post("/v1/completions", content=client.dice.randbytes(100))
    return await _status(answer.status_code, "wrong", 400, 422)


async def asks_for_too_much(client: Client) -> str:
    size = client.dice.choice([70_000, 2_000_000])
    answer = await client.http.post("/v1/completions", json=client.body("a" * size))
    return await _status(answer.status_code, "wrong", 400, 413)


async def fails_inside(client: Client) -> str:
    """As a stream, which ends with an error, or at once."""
    if client.dice.random() < 0.5:
        answer = await client.http.post("/v1/completions", json=client.body(FAILING))
        return await _status(answer.status_code, "failed", 500)
    streamed = await client.stream(client.body(FAILING))
    return "failed" if streamed.failed else await _status(streamed.status, "lost", 200)


async def looks_at_patches(client: Client) -> str:
    answer = await client.http.post("/v1/patches", json={"input": PROMPT * client.dice.randint(1, 20), "compare": True})
    return await _status(answer.status_code, "patched", 200)


VISITS: dict[Visit, float] = {
    reads_all: 30,
    asks_without_stream: 10,
    vanishes: 25,
    vanishes_at_once: 5,
    reads_slowly: 5,
    is_no_http: 5,
    is_no_json: 5,
    asks_for_too_much: 5,
    fails_inside: 5,
    looks_at_patches: 5,
}
"""And how often each comes, in percent."""


async def _outcome(client: Client, answer, well: str) -> str:
    return await _status(answer.status, well if answer.ended else "lost", 200)


async def _status(status: int, well: str, *expected: int) -> str:
    if status == 429:
        await asyncio.sleep(0.2)
        return "refused"
    return well if status in expected else "lost"


def _place(client: Client) -> tuple[str | None, int | None]:
    url = urlparse(str(client.http.base_url))
    return url.hostname, url.port


if __name__ == "__main__":
    main()
