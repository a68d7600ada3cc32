"""What locust does for `serve.py`: so many users at once, who each read one stream to its end.

locust is told three times of each stream, in milliseconds: `first` until its first byte, `byte` of each byte after
that, and `whole`. Requests that the server refuses are told as `refused`, and all else that goes wrong as failures.
`processor` is once how long the server's process has computed, from when all users are there until the last has ended.
"""

import itertools
import json
import time
from pathlib import Path
from typing import Any

import gevent
import locust.stats
from gevent.event import Event
from locust import HttpUser, events, task
from locust.exception import StopUser

locust.stats.bucket_response_time = lambda milliseconds: round(milliseconds, 2)  # locust's own has two digits
LONGEST = 600  # seconds of one request
COME, SEEDS, ENDED = itertools.count(1), itertools.count(1), itertools.count(1)
ALL_HERE = Event()


@events.init_command_line_parser.add_listener
def options(parser) -> None:
    """What is asked for."""
    parser.add_argument("--server-process", type=int, help="its number")
    parser.add_argument("--body", help="the request as JSON; the first user's seed is 1, the next one's 2")


def processor_seconds(process: int) -> float:
    """Of all threads of a process, as Linux counts them in nanoseconds."""
    threads = Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


class Reader(HttpUser):
    """Comes, waits for all others to have come, and asks once."""

    def on_start(self) -> None:
        """Connect, so that what a client does once is not taken for the server's time."""
        self.client.get("/health")
        if next(COME) == self.environment.parsed_options.num_users:
            self.environment.computed = processor_seconds(self.environment.parsed_options.server_process)
            ALL_HERE.set()
        ALL_HERE.wait(LONGEST)

    @task
    def read(self) -> None:
        """Read one stream; the last user to end ends locust."""
        try:
            self._read(json.loads(self.environment.parsed_options.body) | {"stream": True, "seed": next(SEEDS)})
        except Exception as error:
            self._tell("whole", 0, error=error)
        if next(ENDED) == self.environment.parsed_options.num_users:
            computed = processor_seconds(self.environment.parsed_options.server_process) - self.environment.computed
            self._tell("processor", computed)
            gevent.spawn(self.environment.runner.quit)
        raise StopUser

    def _read(self, body: dict[str, Any]) -> None:
        size, times, event = 0, [time.perf_counter()], ""
        path = "/v1/completions"
        with self.client.post(path, json=body, stream=True, catch_response=True, timeout=LONGEST) as answer:
            if answer.status_code == 429:
                answer.success()
                return self._tell("refused", time.perf_counter() - times[0])
            if answer.status_code != 200:
                return answer.failure(f"status {answer.status_code}")
            for event in filter(None, answer.iter_lines(chunk_size=None)):
                if b'"bytes_b64"' in event:
                    encoded = json.loads(event.removeprefix(b"data: "))["choices"][0]["bytes_b64"]
                    size += len(encoded) * 3 // 4 - encoded.count("=")
                    times.append(time.perf_counter())
            if event != b"data: [DONE]":
                return answer.failure(f"ended by {event}")
        self._tell("first", times[1] - times[0])
        self._tell("byte", (times[-1] - times[1]) / max(size - 1, 1))
        self._tell("whole", times[-1] - times[0], size)

    def _tell(self, name: str, seconds: float, size: int = 0, error: Exception | None = None) -> None:
        told = {"request_type": "SSE", "name": name, "response_time": 1000 * seconds, "response_length": size}
        events.request.fire(**told, exception=error, context={})
