"""Models to and from a hub: a small server that speaks enough of its protocol for huggingface_hub itself to use it."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from conftest import blt, patcher

from bytequilt import LM, UserError, load
from bytequilt.interop import convert
from bytequilt.view.card import card

SHA = {"main": "a" * 40, "v1": "b" * 40}


class Hub(BaseHTTPRequestHandler):
    """Repositories are dictionaries of files, one a revision; a repository named `gated` asks for a token."""

    repositories: dict[str, dict[str, dict[str, bytes]]]

    def log_message(self, *_):
        pass

    def answer(self, content, status=200, head=False, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def refuse(self, code, status=404):
        self.answer({"error": code}, status, X_Error_Code=code)

    def do_POST(self):
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            asked = json.loads(sent)
            name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
            self.repositories.setdefault(name, {"main": {}})
            self.answer({"url": f"{os.environ.get('HF_ENDPOINT', '')}/{name}", "id": name})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(sent)["files"]
            self.answer({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif found := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            for line in map(json.loads, sent.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.repositories[found[1]]["main"][line["value"]["path"]] = content
            self.answer({"commitUrl": f"/{found[1]}/commit/{SHA['main']}", "commitOid": SHA["main"]})
        else:
            self.refuse("Unknown")

    def do_HEAD(self):
        self.do_GET(head=True)

    def do_GET(self, head=False):
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(?:revision|tree)/([^/]+))?", path):
            if (files := self.files(found[1], found[2] or "main")) is None:
                return
            revision = self.revision(found[2] or "main")
            if "/tree/" in path:
                self.answer([{"type": "file", "path": f, "size": len(c), "oid": "0" * 40} for f, c in files.items()])
            else:
                self.answer({"id": found[1], "sha": SHA[revision], "siblings": [{"rfilename": name} for name in files]})
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if (files := self.files(found[1], found[2])) is None:
                return
            if found[3] not in files:
                return self.refuse("EntryNotFound")
            content, revision = files[found[3]], self.revision(found[2])
            tag = f'"{hashlib.sha1(content).hexdigest()}"'
            self.answer(content, head=head, X_Repo_Commit=SHA[revision], ETag=tag)
        else:
            self.refuse("Unknown")

    def revision(self, asked):
        return next((name for name, sha in SHA.items() if asked in (name, sha)), asked)

    def files(self, repository, revision):
        """What it holds; None where an answer has been given already."""
        if repository == "someone/gated" and self.headers.get("Authorization") != "Bearer hf_right":
            return self.refuse("GatedRepo", 403)
        if repository not in self.repositories:
            return self.refuse("RepoNotFound")
        if self.revision(revision) not in self.repositories[repository]:
            return self.refuse("RevisionNotFound")
        return self.repositories[repository][self.revision(revision)]


@contextmanager
def hub(repositories):
    """An endpoint on this machine."""
    handler = type("Handler", (Hub,), {"repositories": repositories})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def run(code, endpoint, cache, *arguments, **environment):
    """A program beside this one: huggingface_hub reads its endpoint when it is imported."""
    known = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "HF_HUB_OFFLINE")} | known | environment,
    )


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture
def saved(tmp_path):
    """A run directory: a model, and the report that its card is written from."""
    LM(blt(), patcher("entropy"), patch_bytes=4.5).save(tmp_path / "run" / "model")
    report = {"bpb": 1.23456, "steps": 600, "held_out_bytes": 92_288, "sample": "Once\nupon"}
    (tmp_path / "run" / "report.json").write_text(json.dumps(report))
    return tmp_path / "run"


LOAD = """
import sys
from bytequilt import load
print(load(sys.argv[1], **dict(pair.split("=") for pair in sys.argv[2:])).generate("Once", max_bytes=9, seed=0).data)
"""


def test_a_model_goes_to_a_hub_with_its_card_and_comes_back(saved, tmp_path):
    repositories = {}
    push = "import sys; from bytequilt import load; load(sys.argv[1]).push_to_hub('someone/mine', token='hf_right')"
    pull = (
        "from bytequilt import LM; print(LM.from_pretrained('someone/mine').generate('Once', max_bytes=9, seed=0).data)"
    )
    with hub(repositories) as endpoint:
        done = run(push, endpoint, tmp_path / "cache", saved)
        assert done.returncode == 0, done.stderr
        there = repositories["someone/mine"]["main"]
        assert {"README.md", "config.json", "model.safetensors"} <= set(there)
        assert "| bits per byte of held-out text | 1.235 |" in there["README.md"].decode()
        assert there["model.safetensors"] == (saved / "model" / "model.safetensors").read_bytes()
        expected = f"{load(saved).generate('Once', max_bytes=9, seed=0).data}\n"
        for code, arguments in ((pull, []), (LOAD, ["someone/mine"])):
            done = run(code, endpoint, tmp_path / "cache", *arguments)
            assert (done.returncode, done.stdout) == (0, expected), done.stderr
    done = run(LOAD, endpoint, tmp_path / "cache", "someone/mine", HF_HUB_OFFLINE="1")  # the endpoint is gone
    assert (done.returncode, done.stdout) == (0, expected), done.stderr


def test_a_revision_of_another_layout_is_loaded_and_converted(saved, tmp_path):
    lm = LM(blt(1, cross_heads=2), patcher("entropy"))
    lm.save(tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "theirs", "hf")
    repositories = {"someone/theirs": {"main": files(saved / "model"), "v1": files(tmp_path / "theirs")}}
    with hub(repositories) as endpoint:
        done = run(LOAD, endpoint, tmp_path / "cache", "someone/theirs", "revision=v1")
        assert done.stdout == f"{lm.generate('Once', max_bytes=9, seed=0).data}\n", done.stderr
        verb = "import sys; from bytequilt.cli import main; main(sys.argv[1:])"
        arguments = ["convert", "someone/theirs", tmp_path / "new", "--revision", "v1"]
        assert run(verb, endpoint, tmp_path / "cache", *arguments).returncode == 0
    assert load(tmp_path / "new").generate("Once", max_bytes=9, seed=0).data == (
        lm.generate("Once", max_bytes=9, seed=0).data
    )


FAILURES = {
    "nobody": ("someone/nobody", {}, "the hub does not give one"),
    "revision": ("someone/mine", {"revision": "v7"}, "no such revision"),
    "gated": ("someone/gated", {}, "asks for consent"),
    "empty": ("someone/empty", {}, "is not a bytequilt model"),
    "llama": ("someone/llama", {}, "is not a bytequilt model"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_the_hub_does_not_give_is_one_line(saved, tmp_path, name):
    repository, options, said = FAILURES[name]
    mine = files(saved / "model")
    repositories = {
        "someone/mine": {"main": mine},
        "someone/gated": {"main": mine},
        "someone/empty": {"main": {"x": b""}},
        "someone/llama": {"main": {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"much"}},
    }
    code = """
import sys
from bytequilt import UserError, load
try:
    load(sys.argv[1], **dict(pair.split("=") for pair in sys.argv[2:]))
except UserError as error:
    print(error)
"""
    with hub(repositories) as endpoint:
        done = run(code, endpoint, tmp_path / "cache", repository, *(f"{k}={v}" for k, v in options.items()))
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert done.stdout.count("\n") == 1
    assert not list((tmp_path / "cache").rglob("*.safetensors"))  # no weights are downloaded in vain


def test_a_token_opens_what_is_gated(saved, tmp_path):
    with hub({"someone/gated": {"main": files(saved / "model")}}) as endpoint:
        assert run(LOAD, endpoint, tmp_path / "cache", "someone/gated", "token=hf_right").returncode == 0


def test_without_a_network_and_a_cache_the_reason_is_given(tmp_path):
    done = run(LOAD, "http://127.0.0.1:9", tmp_path / "cache", "someone/mine", HF_HUB_OFFLINE="1")
    assert "it cannot be reached, and its cache does not hold the model" in done.stderr


def test_saving_beside_a_card_keeps_the_card(saved, tmp_path):
    lm = load(saved)
    lm.save_pretrained(tmp_path / "out")
    assert sorted(files(tmp_path / "out")) == ["README.md", "config.json", "model.safetensors"]
    (tmp_path / "out" / "README.md").write_text("my own words")
    lm.save_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == "my own words"
    assert LM.from_pretrained(tmp_path / "out").patch_bytes == 4.5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_options_that_there_are_not_are_named(saved):
    with pytest.raises(UserError, match="no option devcie"):
        load(saved, devcie="cpu")
    with pytest.raises(UserError, match="no option devcie"):
        LM.from_pretrained(saved, devcie="cpu")


def test_a_shipped_model_needs_no_network():
    assert LM.from_pretrained("tiny").patch_bytes == 4.5


def test_what_is_said_of_a_card_goes_to_its_front(saved, tmp_path):
    load(saved).save_pretrained(tmp_path / "out", model_card_kwargs={"license": "mit"})
    assert "license: mit" in (tmp_path / "out" / "README.md").read_text().split("---")[1]


def test_a_report_that_is_broken_breaks_no_model(saved):
    (saved / "report.json").write_text("{")
    assert load(saved).patch_bytes == 4.5


def test_a_card_without_a_report_tells_the_shape_alone(saved):
    text = card(load(saved / "model").model.config, {})
    assert "## Shape" in text
    assert "## Measured" not in text
