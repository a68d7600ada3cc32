"""Random command lines: each verb ends with 0, or with 2 and one clear line; never with a traceback.

`python tests/test_fuzz.py 5000` runs so many in a row, `python tests/test_fuzz.py 5000 1234` from number 1234 on. Each
case is drawn from its number alone, so that one that fails can be run again.
"""

import contextlib
import gzip
import io
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from inspect import Parameter, signature
from pathlib import Path
from random import Random
from typing import Any, get_args

import pytest
import torch
from conftest import blt, patcher

from bytequilt import LM
from bytequilt.cli import main
from bytequilt.config import load_recipe
from bytequilt.overrides import listing
from bytequilt.verbs import FUNCTIONS

CASES = 300
SECONDS = 60  # after which no further case is begun
LINE = 300
WORDS = [
    "",
    " ",
    "é",
    "日本 語",
    "-",
    "--",
    "~nobody/x",
    "a" * 1000,
    "\udcff",
    "none",
    "nan",
    "[",
    "*",
    "hf:no/no",
]
NUMBERS = ["0", "1", "2", "-1", "7", "0.5", "nan", "inf", "-inf", "1e400", "2147483648", str(10**30), "0x10", "1_0"]
DEVICES = ["cpu", "cuda", "cpu:9", "mps", "abacus", "meta"]
RECIPE = """
patching = { kind = "budget", target_bytes = 4, sample_bytes = 2000 }
entropy = { dim = 16, layers = 1, heads = 2, ffn_dim = 16, window = 16 }
[data]
train = ["records.jsonl"]
[entropy_train]
steps = 1
rows = 1
row_bytes = 64
[model]
encoder = { dim = 16, layers = 1, heads = 2, ffn_dim = 16, window = 16 }
latent = { dim = 32, layers = 1, heads = 2, ffn_dim = 16 }
decoder = { dim = 16, layers = 1, heads = 2, ffn_dim = 16, window = 16 }
hash = { rows = 64 }
cross_heads = 2
[train]
steps = 1
rows = 1
row_bytes = 64
[report]
max_bytes = 4
"""


@dataclass
class Outcome:
    """How a command line ended."""

    arguments: list[str]
    code: int
    said: str

    @property
    def fault(self) -> str | None:
        """What is wrong with it; None where it ended as it should."""
        last = self.said.rstrip("\n").rpartition("\n")[2]
        if self.code not in (0, 2):
            return f"exit code {self.code}: {self.said[-2000:]}"
        if "Traceback (most recent" in self.said:
            return self.said[-2000:]
        if self.code == 2 and not 0 < len(last) <= LINE:
            return f"a last line of {len(last)} characters: {last[:400]}"
        return None


def make_files(folder: Path) -> list[str]:
    """Files of every kind, sound and not, and a small model and recipe. Returns their names."""
    text = "It was the best of times, it was the worst of times.\n\n" * 60
    records = "".join(json.dumps({"id": str(n), "text": text[n : n + 90], "prompt": "Q: "}) + "\n" for n in range(60))
    written = {
        "text.txt": text.encode(),
        "empty.txt": b"",
        "bytes.bin": bytes(range(256)) * 4,
        "records.jsonl": records.encode(),
        "broken.jsonl": b'{"text": "a"}\n{"text": 1}\n[',
        "list.json": b'[{"text": "a"}]',
        "deep.json": b"[" * 5000,
        "table.csv": b"text,other\nhello,1\n",
        "bad.csv": b'text\n"open',
        "cut.jsonl.gz": gzip.compress(records.encode())[:-9],
        "not.parquet": b"PAR1",
        "small.toml": RECIPE.encode(),
        "utf16.toml": RECIPE.encode("utf-16"),
        "deep.toml": b"a=" + b"[" * 2000,
        "other.toml": b"[train]\nsteps = 1e25\n",
        "config.json": b'{"format": 1}',
    }
    for name, data in written.items():
        (folder / name).write_bytes(data)
    (folder / "folder").mkdir()
    (folder / "link").symlink_to(folder)
    LM(blt(cross_heads=2), patcher("entropy")).save(folder / "model")
    return [*written, "folder", "link", "model", "missing", "*.jsonl", "tiny", "demo"]


def command_line(number: int, names: list[str], folder: Path) -> list[str]:
    """The command line of that number: a verb, what it asks for or something else, and options of its own."""
    random = Random(number)
    verb = random.choice(sorted(FUNCTIONS))
    options, asked = parameters(FUNCTIONS[verb])
    words = [argument(name, random, names, folder) for name in asked if random.random() < 0.97]
    for name, kind in random.sample(options, min(len(options), random.choice((0, 1, 1, 2, 3)))):
        words.append("--" + name.replace("_", "-"))
        if kind is not bool or random.random() < 0.05:
            words.append(value(name, kind, random, names))
    if verb == "distill":
        words += ["--out", str(folder / f"lean-{number}")]
    if verb in ("train", "prepare"):
        words += recipe_options(random, names, folder)
    if random.random() < 0.05:
        words.insert(random.randrange(len(words) + 1), random.choice(WORDS))
    return [verb, *words, *bounds(verb)]


def parameters(verb: Callable[..., None]) -> tuple[list[tuple[str, Any]], list[str]]:
    """Options of a verb with their kinds, and the names of what it takes without a name."""
    options: list[tuple[str, Any]] = []
    asked = []
    for parameter in signature(verb).parameters.values():
        group = next((kind for kind in get_args(parameter.annotation)[:1] if is_dataclass(kind)), None)
        kind = get_args(parameter.annotation)[0] if get_args(parameter.annotation) else parameter.annotation
        if group:
            options += [(field.name, str) for field in fields(group)]
        elif parameter.default is Parameter.empty:
            asked.append(parameter.name)
        elif parameter.name != "fields":
            options.append((parameter.name, kind))
    return options, asked


def argument(name: str, random: Random, names: list[str], folder: Path) -> str:
    """Something for an argument without a name: what it stands for, mostly."""
    fitting = {
        "model": ["model", "tiny"],
        "src": ["model"],
        "dst": [str(folder / f"dst-{random.random()}")],
        "recipe": ["small.toml", "small.toml", "demo", "finetune", "book"],
        "text": ["Hello, world", "日本", "-"],
        "files": ["text.txt", "records.jsonl", "bytes.bin", "table.csv"],
        "what": ["decode"],
        "question": ["How many r's are in strawberry?"],
    }
    return random.choice(fitting.get(name, names) if random.random() < 0.85 else [*names, *WORDS])


def value(name: str, kind: Any, random: Random, names: list[str]) -> str:
    """A value for an option: mostly of its kind, sometimes of any other."""
    if "device" in name:
        return random.choice(DEVICES)
    if random.random() < 0.3:
        return random.choice([*NUMBERS, *WORDS, *names])
    words = {"init": ["model", "tiny"], "model": ["model"], "tokens": ["default"], "field": ["text", "prompt"]}
    if name in words:
        return random.choice(words[name])
    if "Path" in str(kind):
        return f"new-{random.randrange(9)}{random.choice(('', '.html', '.svg', '.png'))}"
    choices = [choice for choice in get_args(kind) if isinstance(choice, str)]
    return random.choice(choices or ["1", "2", "3", "0.5", "0"])


def recipe_options(random: Random, names: list[str], folder: Path) -> list[str]:
    """A run directory, and some fields of a recipe."""
    words = ["--out", str(folder / f"run-{random.randrange(40)}")]
    for name in random.sample(FIELDS, random.choice((0, 1, 1, 2))):
        words += [name, value(name.rpartition(".")[2], str, random, names)]
    return words


FIELDS = [line.split()[0] for line in listing(load_recipe("demo")).splitlines() if line.startswith("  --")]


def bounds(verb: str) -> list[str]:
    """What keeps a verb from working for minutes, or for ever. The last of two equal options counts."""
    tiny = ["--train.steps", "1", "--entropy-train.steps", "1", "--data.train", "records.jsonl"]
    return {
        "generate": ["--max-bytes", "3"],
        "ask": ["--max-bytes", "3"] if "max_bytes" in signature(FUNCTIONS.get("ask", main)).parameters else [],
        "train": [*tiny, "--train.rows", "1", "--report.max-bytes", "3"],
        "prepare": tiny,
        "distill": ["--steps", "1", "--sample-bytes", "1000"],
        "bench": ["--prompt", "2", "--output", "2", "--rows", "1"],
        "eval": ["--items", "1", "--limit", "1"],
        "compare": ["--report"],  # of what is there, which is nothing
        "serve": ["--port", "-1"],
    }.get(verb, [])


def run(arguments: list[str]) -> Outcome:
    """A command line in this process, with a standard input of its own."""
    out, said = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    stdin = io.TextIOWrapper(io.BytesIO(b"from standard input \xff"), "utf-8")
    before, sys.stdin = sys.stdin, stdin
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
            main(arguments)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except Exception:
        code = 1
        said.write(traceback.format_exc())
    finally:
        sys.stdin = before
    return Outcome(arguments, code, said.getvalue())


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[list[str]]:
    """The files of the fuzzer as the working directory, without a network."""
    before = os.getcwd(), os.environ.get("HF_HUB_OFFLINE"), torch.get_num_threads()
    os.chdir(folder)
    try:
        yield make_files(folder)
    finally:
        os.chdir(before[0])
        torch.set_num_threads(before[2])


def faults(first: int, count: int, folder: Path, seconds: float) -> tuple[list[str], int]:
    """What went wrong in so many cases, and how many of them there was time for."""
    wrong, begun, done = [], time.monotonic(), 0
    with workplace(folder) as names:
        for number in range(first, first + count):
            if time.monotonic() - begun > seconds:
                break
            outcome = run(command_line(number, names, folder))
            done += 1
            if outcome.fault:
                wrong.append(f"case {number}: {outcome.arguments}\n{outcome.fault}")
                print(wrong[-1], file=sys.stderr, flush=True)
    return wrong, done


@pytest.mark.filterwarnings("ignore")
def test_random_command_lines_end_well(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    wrong, done = faults(0, CASES, tmp_path, SECONDS)
    assert not wrong, "\n\n".join(wrong)[:6000]
    assert done > 20


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    asked, start = (int(word) for word in (*sys.argv[1:3], *("300", "0")[len(sys.argv[1:3]) :]))
    with tempfile.TemporaryDirectory() as place:
        found, ran = faults(start, asked, Path(place), float("inf"))
    print(f"{ran} cases, {len(found)} faults")
    sys.exit(bool(found))
