"""A real server, asked by OpenAI's own client and by clients that misbehave."""

import asyncio
import base64
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

import openai
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI, OpenAI
from schemathesis import GenerationMode
from serving import TEXTS, WAIT, process, untrained

from bytequilt import load

EXAMPLES = Path(__file__).parents[1] / "examples"
ROWS, QUEUE = 8, 8
PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "mine"
    untrained().save(folder)
    options = ["--rows", str(ROWS), "--queue", str(QUEUE), "--max-output", "5000", "--max-prompt", "2000"]
    with process("tiny", str(folder), *options) as (_, address, _):
        yield address


@pytest.fixture(scope="module")
def client(address):
    return OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0, timeout=WAIT)


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


def complete(client, **fields):
    return client.completions.create(**({"model": "tiny", "prompt": PROMPT, "max_tokens": 20, "seed": 1} | fields))


def data_of(choices):
    return b"".join(base64.b64decode(choice.bytes_b64) for choice in choices)


def post(address, path, body, timeout=WAIT):
    """Status and JSON of an answer to anything at all."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def metric(address, name, model="tiny"):
    with urllib.request.urlopen(f"{address}/metrics", timeout=WAIT) as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{") and f'model_name="{model}"' in line
    )


def idle(address):
    """Wait until no text is left."""
    until = time.monotonic() + WAIT
    names = [f"bytequilt:num_requests_{state}" for state in ("running", "waiting")]
    while any(metric(address, name, model) for name in names for model in ("tiny", "mine")):
        assert time.monotonic() < until, "a row is not free"
        time.sleep(0.05)


# --------------------------------------------------------------------------------------------------------- completions


def test_the_models_are_there_by_name_and_the_first_is_the_default(address, client):
    assert [model.id for model in client.models.list()] == ["tiny", "mine"]
    assert client.models.retrieve("mine").model_extra["unit"] == "byte"
    assert post(address, "/v1/completions", {"prompt": "a", "max_tokens": 1})[1]["model"] == "tiny"
    with pytest.raises(openai.NotFoundError):
        complete(client, model="other")


def test_a_completion_is_what_the_model_generates(client, tiny):
    answer = complete(client, max_tokens=40, temperature=0.7, top_p=0.9, extra_body={"top_k": 20, "min_p": 0.02})
    same = tiny.generate(PROMPT, max_bytes=40, temperature=0.7, top_p=0.9, top_k=20, min_p=0.02, seed=1)
    (choice,) = answer.choices
    assert (choice.text, data_of([choice]), choice.finish_reason) == (same.text, same.data, "length")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(PROMPT), 40)
    assert answer.usage.patches == same.stats.patches
    assert answer.object == "text_completion"


def test_every_form_of_a_prompt(client, tiny):
    same = [tiny.generate(text, max_bytes=8, temperature=0).text for text in (PROMPT, "The")]
    ask = {"max_tokens": 8, "temperature": 0}
    assert [c.text for c in complete(client, prompt=[PROMPT, "The"], **ask).choices] == same
    assert [c.text for c in complete(client, prompt=list(b"The"), **ask).choices] == same[1:]
    assert [c.text for c in complete(client, prompt=[list(PROMPT.encode()), list(b"The")], **ask).choices] == same
    raw = base64.b64encode(b"\xff\x00The").decode()
    answer = complete(client, prompt=None, extra_body={"prompt_b64": raw}, echo=True, **ask)
    assert data_of(answer.choices) == b"\xff\x00The" + tiny.generate(b"\xff\x00The", max_bytes=8, temperature=0).data
    assert answer.choices[0].text.startswith("\ufffd\0The")


@pytest.mark.parametrize("size", [1, 7, 33, 64])
def test_a_stream_is_the_same_answer_in_pieces(client, size):
    """The untrained model writes any bytes; characters are cut at the end, and are broken everywhere."""
    ask = {"model": "mine", "prompt": TEXTS[1:3], "n": 2, "max_tokens": size, "temperature": 1.2, "echo": size == 33}
    whole = complete(client, **ask)
    chunks = list(complete(client, **ask, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None and len(chunk.choices) == 1 for chunk in chunks[:-1])
    for choice in whole.choices:
        parts = [chunk.choices[0] for chunk in chunks[:-1] if chunk.choices[0].index == choice.index]
        assert "".join(part.text for part in parts) == choice.text == data_of([choice]).decode("utf-8", "replace")
        assert data_of(parts) == data_of([choice])
        assert [part.finish_reason for part in parts] == [None] * (len(parts) - 1) + [choice.finish_reason]


def test_choices_are_several_and_repeatable(client):
    ask = {"n": 3, "max_tokens": 30, "temperature": 1.0}
    first, again = (complete(client, **ask).choices for _ in range(2))
    assert [choice.index for choice in first] == [0, 1, 2]
    assert len({choice.text for choice in first}) == 3
    assert [choice.text for choice in first] == [choice.text for choice in again]


def test_no_part_of_a_stop_string_is_ever_sent(client):
    whole = complete(client, max_tokens=60, temperature=0).choices[0].text
    stop = whole[20:26]
    for stops in (stop, ["never there", stop, whole[40:50]]):
        answer = complete(client, max_tokens=60, temperature=0, stop=stops).choices[0]
        assert (answer.text, answer.finish_reason) == (whole[: whole.index(stop)], "stop")
        chunks = complete(client, max_tokens=60, temperature=0, stop=stops, stream=True)
        assert "".join(chunk.choices[0].text for chunk in chunks) == answer.text
    with pytest.raises(openai.UnprocessableEntityError):
        complete(client, stop=["a", "b", "c", "d", "e"])


def test_echo_without_new_bytes_scores_the_prompt(client, tiny):
    text = "Once upon a time, \u00e9"
    answer = complete(client, prompt=text, echo=True, max_tokens=0, logprobs=2)
    (choice,) = answer.choices
    scored = choice.logprobs
    assert (choice.text, choice.finish_reason, answer.usage.completion_tokens) == (text, "length", 0)
    assert -sum(scored.token_logprobs) == pytest.approx(tiny.score("", text).nats, rel=1e-4)
    assert scored.tokens[-3:] == [" ", "bytes:\\xc3", "bytes:\\xa9"]
    assert scored.text_offset[-3:] == [17, 18, 18]
    for token, own, top in zip(scored.tokens, scored.token_logprobs, scored.top_logprobs, strict=True):
        assert top[token] == own
        assert len(top) in (2, 3)


def test_log_probabilities_come_with_each_byte(client, tiny):
    same = tiny.generate(PROMPT, max_bytes=12, temperature=0.5, seed=1, logprobs=True)
    for stream in (False, True):
        answer = complete(client, temperature=0.5, max_tokens=12, logprobs=3, echo=True, stream=stream)
        choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
        own = [p for choice in choices for p in choice.logprobs.token_logprobs]
        assert own[len(PROMPT) :] == pytest.approx(same.logprobs, rel=1e-4)
        offsets = [offset for choice in choices for offset in choice.logprobs.text_offset]
        assert offsets == list(range(len(PROMPT) + 12))
        assert all(len(top) in (3, 4) for choice in choices for top in choice.logprobs.top_logprobs)


def test_biases_and_penalties_change_what_is_drawn(client):
    forced = complete(client, temperature=0, logit_bias={str(ord("z")): 100}, max_tokens=5)
    assert forced.choices[0].text == "zzzzz"
    ask = {"temperature": 0, "logit_bias": {"122": 100, "113": 100}, "max_tokens": 16}
    assert len(set(complete(client, **ask).choices[0].text)) == 1
    assert set(complete(client, **ask, frequency_penalty=2).choices[0].text) == {"z", "q"}
    likely = complete(client, temperature=0, max_tokens=40).choices[0].text
    assert complete(client, temperature=0, max_tokens=40, presence_penalty=2).choices[0].text != likely


# ---------------------------------------------------------------------------------------------------------------- chat


def test_chat_goes_through_the_plain_template(client, tiny):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    ask = {"model": "tiny", "messages": messages, "max_completion_tokens": 30, "temperature": 0.5, "seed": 2}
    prompt = "System: Be brief.\n\nUser: Hello\n\nAssistant: "
    same = tiny.generate(prompt, max_bytes=30, temperature=0.5, seed=2, stop="\n\nUser:", logprobs=True)
    answer = client.chat.completions.create(**ask, logprobs=True, top_logprobs=2)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", same.text)
    assert answer.usage.prompt_tokens == len(prompt)
    assert [entry.logprob for entry in choice.logprobs.content] == pytest.approx(same.logprobs, rel=1e-4)
    assert bytes(entry.bytes[0] for entry in choice.logprobs.content) == same.data
    assert all(len(entry.top_logprobs) == 2 for entry in choice.logprobs.content)


def test_an_answer_can_be_sent_back_and_null_asks_for_nothing(client):
    messages = [{"role": "user", "content": "Hello"}]
    ask = {
        "model": "tiny",
        "max_tokens": 5,
        "seed": 1,
        "temperature": None,
        "stop": None,
        "logprobs": None,
        "user": None,
    }
    first = client.chat.completions.create(messages=messages, **ask).choices[0].message
    second = client.chat.completions.create(messages=[*messages, first, *messages], **ask)
    said = f"User: Hello\n\nAssistant: {first.content}\n\nUser: Hello\n\nAssistant: "
    assert second.usage.prompt_tokens == len(said.encode())


def test_chat_streams_to_the_asynchronous_client(address, tiny):
    messages = [{"role": "user", "content": "Привет"}]
    ask = {"model": "tiny", "messages": messages, "max_tokens": 24, "seed": 3, "stream": True, "n": 2}

    async def main():
        async with AsyncOpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0, timeout=WAIT) as client:
            chunks = await client.chat.completions.create(**ask, stream_options={"include_usage": True})
            return [chunk async for chunk in chunks]

    chunks = asyncio.run(main())
    assert {choice.delta.role for choice in chunks[0].choices} == {"assistant"}
    assert chunks[-1].usage.completion_tokens == 48
    for index in range(2):
        same = tiny.generate(
            "User: Привет\n\nAssistant: ", max_bytes=24, temperature=1.0, seed=3 + index, stop="\n\nUser:"
        )
        parts = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert "".join(part.delta.content for part in parts) == same.text
        assert parts[-1].finish_reason == "length"


# ------------------------------------------------------------------------------------------------------------- patches


def test_patches_are_those_of_the_model(address, tiny):
    for text in TEXTS:
        status, shown = post(address, "/v1/patches", {"input": text, "compare": True})
        patched = tiny.patch(text)
        assert status == 200
        assert [(p["start"], p["length"], p["text"]) for p in shown["patches"]] == [
            (p.start, p.length, p.text) for p in patched
        ]
        assert shown["entropy_bits"] == pytest.approx(patched.entropy_bits, abs=1e-3)
        assert shown["threshold_bits"] == pytest.approx(patched.threshold_bits)
        assert {"words", "fixed", "monotonic"} <= {rule["kind"] for rule in shown["rules"]}
    tokens = post(address, "/v1/patches", {"input": TEXTS[0], "tokens": "default"})[1]["tokens"]
    assert tokens["count"] == len(tokens["pieces"])
    assert sum(piece["length"] for piece in tokens["pieces"]) == len(TEXTS[0])
    assert post(address, "/v1/patches", {"input": "a", "tokens": "/etc/passwd"})[0] == 400
    patched = tiny.patch(TEXTS[0])
    higher = post(address, "/v1/patches", {"input": TEXTS[0], "threshold_bits": 2 * patched.threshold_bits})[1]
    assert len(higher["patches"]) < len(patched)


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/completions", b'{"prompt": ', 400),
        ("/v1/completions", b"\xff\xfe", 400),
        ("/v1/completions", b"[]", 422),
        ("/v1/completions", b"", 422),
        ("/v1/completions", b'{"prompt": "\\ud800"}', 422),
        ("/v1/completions", {"prompt": "a", "temperature": "hot"}, 422),
        ("/v1/completions", {"prompt": "a", "surprise": 1}, 422),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}, 400),
        ("/v1/completions", {"prompt": "a", "model": "/etc/passwd"}, 404),
        ("/v1/completions", {"prompt": "a" * 3000}, 400),
        ("/v1/completions", {"prompt": "a" * 2_000_000}, 413),
        ("/v1/chat/completions", {"messages": []}, 422),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "tools": []}, 422),
        ("/v1/patches", {"input": "a", "threshold_bits": 1e9}, 422),
        ("/v1/nothing", {}, 404),
        ("/health", {}, 405),
    ],
)
def test_errors_have_openais_form_and_say_nothing_of_the_inside(address, path, body, status):
    answered, error = post(address, path, body)
    assert answered == status
    assert set(error["error"]) == {"message", "type", "param", "code"}
    assert 0 < len(error["error"]["message"]) <= 300
    assert not any(word in json.dumps(error) for word in ("Traceback", "site-packages", ".py", "/etc"))


LOCAL = "Host: localhost\r\n"
JSON = f"POST /v1/completions HTTP/1.1\r\n{LOCAL}Content-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        ("GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n", 400),
        ("GET /health HTTP/1.1\r\n\r\n", 400),
        ("\0\1\2 garbage\r\n\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (f"{JSON}Content-Length: many\r\n\r\n", 400),
        (f"{JSON}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
        (f"{JSON}Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (f"{JSON}Content-Length: 99999999\r\n\r\n", 413),
        (f"{JSON}Content-Length: 40000\r\n\r\n{'[' * 40_000}", 400),
        (f"{JSON}Content-Length: 5020\r\n\r\n{{'n': {'9' * 5000}}}".replace("'", '"').ljust(5200), 400),
        (f"GET /%ff%00 HTTP/1.1\r\n{LOCAL}\r\n", 404),
        (f"DELETE / HTTP/1.1\r\n{LOCAL}\r\n", 405),
        (f"OPTIONS /v1/completions HTTP/1.1\r\n{LOCAL}\r\n", 405),
        (f"GET /page.js HTTP/1.1\r\n{LOCAL}Range: bytes=99999999-\r\n\r\n", 416),
        (f"GET /ws HTTP/1.1\r\n{LOCAL}Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 404),
    ],
)
def test_whoever_refuses_writes_the_same_form(address, request_text, status):
    place = urlparse(address)
    with socket.create_connection((place.hostname, place.port), timeout=WAIT) as connection:
        connection.sendall(request_text.encode("latin-1"))
        with http.client.HTTPResponse(connection) as answer:
            answer.begin()
            error = json.loads(answer.read())
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    assert set(error) == {"error"}
    assert set(error["error"]) == {"message", "type", "param", "code"}
    assert 0 < len(error["error"]["message"]) <= 300


# ------------------------------------------------------------------------------------------- many clients, and bad ones


def test_the_same_seed_gives_the_same_bytes_among_neighbours(address, tiny):
    async def ask(client, seed):
        answer = await client.completions.create(model="tiny", prompt=PROMPT, max_tokens=40, seed=seed)
        return answer.choices[0].text

    async def main():
        async with AsyncOpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0, timeout=WAIT) as client:
            return await asyncio.gather(*(ask(client, seed) for seed in range(ROWS + QUEUE)))

    together = asyncio.run(main())
    alone = [tiny.generate(PROMPT, max_bytes=40, temperature=1.0, seed=seed).text for seed in (0, 7, 15)]
    assert [together[0], together[7], together[15]] == alone


def test_a_hundred_at_once_are_answered_or_refused(address):
    async def ask(client):
        try:
            answer = await client.completions.create(model="tiny", prompt=PROMPT, max_tokens=300)
            return answer.choices[0].finish_reason
        except openai.RateLimitError as error:
            return "refused" if 1 <= int(error.response.headers["retry-after"]) <= 60 else "no time"

    async def main():
        async with AsyncOpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0, timeout=WAIT) as client:
            return await asyncio.gather(*(ask(client) for _ in range(100)))

    answers = asyncio.run(main())
    assert len(answers) == 100
    assert set(answers) <= {"length", "stop", "refused"}
    assert answers.count("refused") > 0  # most of them, unless the client is slower than the server
    assert len(answers) - answers.count("refused") >= ROWS + QUEUE
    idle(address)


def test_clients_that_go_free_their_rows(address, client):
    ask = {"model": "tiny", "prompt": PROMPT, "max_tokens": 5000, "temperature": 0}
    for _ in range(ROWS + QUEUE):
        stream = client.completions.create(**ask, stream=True)
        next(iter(stream))
        stream.close()
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3).completions.create(**ask)
    idle(address)
    assert complete(client, max_tokens=1).choices[0].finish_reason == "length"


def test_a_client_that_does_not_read_holds_up_nobody(address, client):
    place = urlparse(address)
    body = json.dumps({"prompt": PROMPT, "max_tokens": 400, "stream": True, "temperature": 0}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        silent.connect((place.hostname, place.port))
        silent.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert len(complete(client, max_tokens=30).choices) == 1
        idle(address)


# ------------------------------------------------------------------------------------------------------ other clients


def test_whatever_a_fuzzer_makes_of_the_schema_is_answered(address):
    """As the schema says: no other status, no answer of another type, and never a fault of the server."""
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    operations = [operation.ok() for operation in schema.get_all_operations()]
    cases = [operation.as_strategy(generation_mode=mode) for operation in operations for mode in GenerationMode]

    @settings(max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(cases))
    def fuzz(case):
        if isinstance(case.body, dict):  # what is in range, but would take long
            for name in ("max_tokens", "max_completion_tokens", "n"):
                if isinstance(case.body.get(name), int) and case.body[name] > 3:
                    case.body[name] = 3
        answer = case.call(timeout=WAIT)
        case.validate_response(answer, checks=[schemathesis.checks.not_a_server_error])
        assert answer.status_code in (200, 400, 404, 405, 413, 422)

    fuzz()
    idle(address)


def test_lm_eval_scores_over_http_as_our_adaptor_does(address, tiny):
    pytest.importorskip("lm_eval")
    pytest.importorskip("tenacity", reason="lm-eval's clients of servers need lm-eval[api]")
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    from bytequilt.evals.harness import Harness

    class Bytes:
        """The one tokenizer that a model of bytes needs."""

        name_or_path = "bytes"

    class Local(LocalCompletionsAPI):
        def tok_encode(self, text, **options):
            return [list(one.encode()) for one in text] if isinstance(text, list) else list(text.encode())

    options = {"model": "tiny", "tokenizer_backend": None, "batch_size": 2, "timeout": WAIT}
    local = Local(base_url=f"{address}/v1/completions", **options)
    local.tokenizer, local.tokenized_requests = Bytes(), True
    pairs = [
        ("Once upon a", " time"),
        ("It was the best of", " times"),
        ("The sign said", " \u00e9xqz"),
        ("He", " said."),
    ]
    asked = [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0) for pair in pairs]
    over_http, ours = local.loglikelihood(asked), Harness(tiny).loglikelihood(asked)
    assert [greedy for _, greedy in over_http] == [greedy for _, greedy in ours]
    assert [score for score, _ in over_http] == pytest.approx([score for score, _ in ours], rel=1e-4)


# ------------------------------------------------------------------------------------------------------------ examples


def test_the_client_of_the_examples_runs(address):
    environment = os.environ | {"OPENAI_BASE_URL": f"{address}/v1", "OPENAI_API_KEY": "none"}
    command = [sys.executable, str(EXAMPLES / "openai_client.py")]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=2 * WAIT, check=True)
    assert b"nats" in done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_the_lines_for_curl_run(address):
    text = (EXAMPLES / "curl.md").read_text(encoding="utf-8").replace("http://127.0.0.1:8000", address)
    for block in re.findall(r"```sh\n(curl.*?)```", text, re.DOTALL):
        script = "set -e\n" + block.replace("curl -s", "curl -sSf")
        assert subprocess.run(["bash", "-c", script], capture_output=True, timeout=WAIT, check=True).stdout
