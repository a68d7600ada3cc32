"""Keys, rates, origins, names and headers."""

import asyncio
import socket

import pytest
import uvicorn
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from serving import limits, untrained

from bytequilt.cli import main
from bytequilt.config import UserError
from bytequilt.serve import guard
from bytequilt.serve.app import application
from bytequilt.serve.guard import Guard
from bytequilt.serve.models import Models, short_name
from bytequilt.serve.server import bind

LM = untrained()
KEYS = ("first key", "zweiter Schlüssel")


def client(keys=(), origins=(), hosts=(), **change) -> TestClient:
    """A client of an application whose engines do not run: for all that is decided before them."""
    return TestClient(application(Models({"mine": LM}, limits(**change)), keys, origins, hosts))


def bearer(key):
    return {"Authorization": b"Bearer " + key.encode()}


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/mine", "/v1/nothing", "/metrics"])
def test_keys_are_asked_for(path):
    guarded = client(KEYS)
    for headers in ({}, bearer("first"), bearer("first key "[:-2]), {"Authorization": "Basic first key"}):
        answer = guarded.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "invalid_api_key"
    for key in KEYS:
        assert guarded.get(path, headers=bearer(key)).status_code != 401


def test_a_request_without_a_key_is_not_even_read():
    answer = client(KEYS).post("/v1/completions", content=b"{", headers={"Content-Type": "application/json"})
    assert answer.status_code == 401


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/health"])
def test_the_page_and_health_are_open(path):
    answer = client(KEYS).get(path)
    assert answer.status_code == 200
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"


def test_rates_count_for_each_key_alone():
    guarded = client(KEYS, rate=3)
    first, second = ([guarded.get("/v1/models", headers=bearer(key)).status_code for _ in range(4)] for key in KEYS)
    assert first == second == [200, 200, 200, 429]
    refused = guarded.get("/v1/models", headers=bearer(KEYS[0]))
    assert int(refused.headers["retry-after"]) >= 1
    assert guarded.get("/health").status_code == 200


def test_requests_in_flight_are_limited_and_health_is_not():
    async def main():
        free = asyncio.Event()

        async def slow(scope, receive, send):
            await free.wait()
            await JSONResponse({})(scope, receive, send)

        async def receive():
            return {"type": "http.request"}

        guard = Guard(slow, (), limits(requests=1))

        async def ask(path):
            sent = []

            async def send(message):
                sent.append(message)

            await guard({"type": "http", "path": path, "headers": [], "client": None}, receive, send)
            return sent[0]["status"]

        first = asyncio.create_task(ask("/v1/models"))
        await asyncio.sleep(0)
        assert await ask("/v1/models") == 429
        health = asyncio.create_task(ask("/health"))
        free.set()
        assert [await first, await health, await ask("/v1/models")] == [200, 200, 200]

    asyncio.run(main())


def test_wrong_keys_take_nothing_from_the_rate_of_right_ones():
    guarded = client(KEYS, rate=1)
    assert [guarded.get("/v1/models", headers=bearer("wrong")).status_code for _ in range(3)] == [401] * 3
    assert guarded.get("/v1/models", headers=bearer(KEYS[0])).status_code == 200


def test_other_origins_are_shut_out_unless_they_are_named():
    asks = {"Origin": "https://friend.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in client().options("/v1/completions", headers=asks).headers
    friendly = client(KEYS, origins=("https://friend.example",))
    assert friendly.options("/v1/completions", headers=asks).headers["access-control-allow-origin"] == asks["Origin"]
    stranger = asks | {"Origin": "https://stranger.example"}
    shut_out = friendly.options("/v1/completions", headers=stranger)
    assert "access-control-allow-origin" not in shut_out.headers
    assert shut_out.json()["error"]["type"] == "invalid_request_error"
    refusal = friendly.get("/v1/models", headers={"Origin": asks["Origin"]})
    assert (refusal.status_code, refusal.headers["access-control-allow-origin"]) == (401, asks["Origin"])


def test_a_name_that_was_made_to_point_here_reaches_nothing():
    local = client(hosts=("127.0.0.1", "localhost"))
    refused = local.get("/health", headers={"Host": "evil.example"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request")
    assert local.get("/health", headers={"Host": "localhost:8000"}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "/page.js/../../app.py", "//etc/passwd"]
)
def test_no_other_file_can_be_had(path):
    answer = client().get(path)
    assert answer.status_code == 404
    assert "def " not in answer.text


def test_a_body_that_is_not_json_by_its_type_is_not_read_as_such():
    """Which browsers would send anywhere without asking."""
    answer = client().post("/v1/completions", content=b'{"prompt": "a"}', headers={"Content-Type": "text/plain"})
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"prompt": [256]}, "prompt.0: Input should be less than or equal to 255"),
        ({"prompt": "a", "stop": [""]}, "stop.0: String should have at least 1 character"),
        ({"prompt": "a", "best_of": 2}, "best_of: there is no such field here"),
        ({"prompt": "a", "temperature": "hot", "n": [[0]]}, "temperature: Input should be a valid number"),
    ],
)
def test_of_the_forms_that_a_field_may_have_the_nearest_is_told(fields, told):
    assert client().post("/v1/completions", json=fields).json()["error"]["message"] == told


def test_monitors_may_ask_for_the_head_of_health():
    assert client().head("/health").status_code == 200


def test_a_body_that_does_not_come_takes_nobodys_place_for_long(monkeypatch):
    monkeypatch.setattr(guard, "BODY", 0.05)
    place, sent = Guard(application(Models({"mine": LM}, limits())), (), limits()), []

    async def main():
        parts = iter([b'{"prompt":'])

        async def receive():
            if (part := next(parts, None)) is None:
                await asyncio.Event().wait()
            return {"type": "http.request", "body": part, "more_body": True}

        async def send(message):
            sent.append(message)

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers, "client": None}
        scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": ""}
        await place(scope, receive, send)

    asyncio.run(asyncio.wait_for(main(), 30))
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]
    assert place.open == 0


def test_a_connection_without_a_request_is_closed(monkeypatch):
    monkeypatch.setattr(guard, "HEAD", 0.3)

    async def slow(scope, receive, send):
        await asyncio.sleep(0.6)  # an answer may take longer than the first lines of a request
        await JSONResponse({})(scope, receive, send)

    async def closed(address, *parts):
        """What came until the server hung up."""
        reader, writer = await asyncio.open_connection(*address)
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0.05)
        answer = await reader.read()
        writer.close()
        return answer

    async def main():
        listener = bind("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(slow, log_config=None, http=guard.Protocol, lifespan="off"))
        running = asyncio.create_task(server.serve([listener]))
        whole = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
        sent = [(), (b"GET / HT", b"TP/1.1\r\n"), (whole, b""), (whole, whole[:9])]
        answers = await asyncio.gather(*(closed(listener.getsockname(), *parts) for parts in sent))
        server.should_exit = True
        await running
        return answers

    nothing, broken, once, again = asyncio.run(asyncio.wait_for(main(), 60))
    assert nothing == broken == b""
    assert once.startswith(b"HTTP/1.1 200")
    assert again.count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_chunk_does_not_wait_for_the_one_before_to_be_acknowledged(host):
    """Which it does on a connection without TCP_NODELAY, once the first chunks have gone."""

    async def main():
        heard = asyncio.get_running_loop().create_future()
        try:
            listener = bind(host, 0)
        except UserError:
            pytest.skip(f"no {host} here")
        async with await asyncio.start_server(lambda reader, writer: heard.set_result(writer), sock=listener):
            _, client = await asyncio.open_connection(*listener.getsockname()[:2])
            server = await heard
            delays = server.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
            client.close()
            server.close()
        return delays

    assert not asyncio.run(main())


def test_models_have_short_names(tmp_path):
    (tmp_path / "mine" / "model").mkdir(parents=True)
    assert short_name(str(tmp_path / "mine")) == short_name(str(tmp_path / "mine" / "model")) == "mine"
    assert short_name("owner/name") == "owner/name"
    both = Models({str(tmp_path / "mine"): LM, "tiny": LM}, limits())
    assert both.engine(str(tmp_path / "mine")).name == "mine"
    assert str(tmp_path) not in str(both.card("mine"))
    with pytest.raises(UserError):
        Models({str(tmp_path / "mine"): LM, str(tmp_path / "mine" / "model"): LM}, limits())


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--port", "70000"], "port"),
        (["--host", "192.0.2.1"], "192.0.2.1"),
        (["--rows", "0"], "rows"),
        (["--timeout", "nan"], "seconds"),
        (["no-such-model"], "no-such-model"),
    ],
)
def test_bad_options_are_told_in_a_line(arguments, word, capsys):
    with pytest.raises(SystemExit) as end:
        main(["serve", *arguments])
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert word in said
    assert said.count("\n") == 1
