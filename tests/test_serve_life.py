"""How a server ends: after SIGTERM, and after a fault of its engine."""

import json
import signal
import threading
import time
import urllib.error
import urllib.request

from serving import WAIT, process

BREAKS = """
import time
from bytequilt.infer.batcher import Batcher
insert, step = Batcher.insert, Batcher.step

def breaking(self, prompt, sampling):
    self.broken = getattr(self, "broken", False) or prompt == b"break"
    return insert(self, prompt, sampling)

def broken(self):
    if getattr(self, "broken", False):
        ACTION
    return step(self)

Batcher.insert, Batcher.step = breaking, broken
"""


def post(address, prompt, most, stream=True):
    body = {"prompt": prompt, "max_tokens": most, "stream": stream, "temperature": 0}
    headers = {"Content-Type": "application/json"}
    return urllib.request.Request(f"{address}/v1/completions", json.dumps(body).encode(), headers)


class Reader(threading.Thread):
    """Reads the events of a stream as they come."""

    def __init__(self, address, prompt, most):
        super().__init__(daemon=True)
        self.request, self.events = post(address, prompt, most), []
        self.start()
        until = time.monotonic() + WAIT
        while not self.events:
            assert time.monotonic() < until
            time.sleep(0.01)

    def run(self):
        with urllib.request.urlopen(self.request, timeout=WAIT) as answer:
            for line in map(bytes.decode, answer):
                if line.startswith("data: "):
                    self.events.append(line[6:].strip())

    def last(self):
        self.join(WAIT)
        return self.events[-1] if self.events[-1] == "[DONE]" else json.loads(self.events[-1])


def status(request):
    try:
        with urllib.request.urlopen(request, timeout=WAIT) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_after_sigterm_texts_may_end_and_the_rest_hear_of_it():
    with process("--grace", "10", "--max-output", "100000") as (running, address, _):
        long, short = Reader(address, "Once", 90_000), Reader(address, "Once", 20)
        assert short.last() == "[DONE]"
        short = Reader(address, "Once", 20)
        running.send_signal(signal.SIGTERM)
        until = time.monotonic() + WAIT
        while (answer := status(f"{address}/health"))[0] == 200:
            assert time.monotonic() < until
        assert answer[0] == 503
        refused, body = status(post(address, "Once", 5))
        assert (refused, body["error"]["code"]) == (503, "unavailable")
        assert short.last() == "[DONE]"
        assert long.last()["error"]["message"] == "the server has ended"
        assert running.wait(WAIT) == 0


def test_a_fault_of_the_engine_ends_the_process():
    with process(program=BREAKS.replace("ACTION", "raise RuntimeError(42)")) as (running, address, log):
        reader = Reader(address, "Once", 5000)
        code, body = status(post(address, "break", 5, stream=False))
        assert (code, body["error"]["code"]) == (503, "unavailable")
        assert reader.last()["error"]["message"] == "the engine has failed"
        assert running.wait(WAIT) == 1
        assert "RuntimeError: 42" in log.read_text()


def test_an_engine_that_hangs_ends_the_process():
    with process("--stall", "5", program=BREAKS.replace("ACTION", "time.sleep(1000)")) as (running, address, _):
        reader = Reader(address, "Once", 5000)
        code, _ = status(post(address, "break", 5, stream=False))
        assert code == 503
        assert reader.last()["error"]["message"] == "the engine has failed"
        assert running.wait(WAIT) == 1


def test_the_process_waits_for_its_engine_before_it_ends():
    """A step that is under way when the server ends is finished: cut off in native code, it would abort the process."""
    slow = "import torch\n" + BREAKS.replace("ACTION", "torch.ones(3000, 3000) @ torch.ones(3000, 3000)")
    with process("--grace", "0.1", program=slow) as (running, address, _):
        reader = Reader(address, "Once", 5000)
        threading.Thread(target=status, args=[post(address, "break", 5, stream=False)], daemon=True).start()
        time.sleep(0.5)  # mostly enough to be in that step; where it is not, the test asks for less, and passes
        running.send_signal(signal.SIGTERM)
        assert reader.last()["error"]["message"] == "the server has ended"
        assert running.wait(WAIT) == 0
