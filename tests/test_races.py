"""Processes that meet: two that want one folder, and a child that was forked from one that ran on several threads."""

import os
import subprocess
import sys
import time

import pytest
from test_fuzz import RECIPE

from bytequilt import load


def start(folder, *arguments):
    command = [sys.executable, "-m", "bytequilt", *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    return subprocess.Popen(command, cwd=folder, **streams)


def both(folder, *arguments):
    """Two processes with the same command at the same time: what the one that lost said."""
    pair = [start(folder, *arguments) for _ in range(2)]
    said = {process: process.communicate(timeout=300) for process in pair}
    codes = sorted(process.returncode for process in pair)
    last = [said[process][1].strip().splitlines()[-1] for process in pair if process.returncode == 2]
    assert not any("Traceback" in text for texts in said.values() for text in texts), said
    return codes, last


def recipe(folder, steps):
    line = '{"text": "It was the best of times, it was the worst of times."}\n'
    (folder / "records.jsonl").write_text(line * 120)
    (folder / "small.toml").write_text(RECIPE.replace("[train]\nsteps = 1", f"[train]\nsteps = {steps}"))


def test_two_that_train_in_one_folder(tmp_path):
    recipe(tmp_path, 4)
    codes, last = both(tmp_path, "train", "small.toml", "--out", "run", "--train.device", "cpu")
    assert codes in ([0, 2], [0, 0])  # the second may begin when the first has ended
    assert all("another process is at work in run" in line and len(line) <= 300 for line in last)
    assert load(tmp_path / "run").generate("It", max_bytes=3).data is not None
    assert not list((tmp_path / "run").rglob("*.partial"))


def test_two_that_convert_into_one_folder(tmp_path):
    codes, last = both(tmp_path, "convert", "tiny", "copy")
    assert codes in ([0, 2],)
    assert all("copy" in line and len(line) <= 300 for line in last)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]
    assert load(tmp_path / "copy").model is not None


def test_two_that_write_one_picture(tmp_path):
    codes, _ = both(tmp_path, "patch", "Hello, world", "--html", "a.html")
    assert codes == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]
    assert (tmp_path / "a.html").read_text("utf-8").endswith("</html>\n")


FORK = """
import os, sys, torch
from bytequilt import load
torch.set_num_threads(2)
lm = load("tiny", native=False)
before = lm.generate("The president of the United States " * 9, max_bytes=3, temperature=0).data
child = os.fork()
if not child:
    same = lm.generate("The president of the United States " * 9, max_bytes=3, temperature=0).data == before
    os._exit(0 if same and lm.bits_per_byte(b"hello world " * 200) > 0 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_goes_on(tmp_path):
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", FORK], timeout=200, env=os.environ | {"OMP_NUM_THREADS": "2"})
    assert done.returncode == 0, time.monotonic() - begun
