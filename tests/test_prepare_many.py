"""Shards scored by several processes, some of which die: in the end all are there, each once and whole."""

import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from bytequilt.cli import main
from bytequilt.config import DataConfig, RuleConfig, UserError, load_recipe
from bytequilt.data.on_ray import LOCAL, score_on_ray
from bytequilt.data.prepare import ingest, score
from bytequilt.data.shards import check_patcher, read_about, row_groups, shard_paths


class Mortal:
    """Scores by a rule of thumb; its process dies in its second shard, as long as there is no file `spared`."""

    rule = RuleConfig(kind="entropy", threshold=1.0)
    fingerprint = "mortal"
    model = None
    shards = 0

    def __init__(self, spared):
        self.spared = spared

    def entropies(self, texts, advance=None, /):
        Mortal.shards += 1  # of the process: tasks of Ray have each a copy
        if Mortal.shards == 2 and not self.spared.exists():
            self.spared.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [np.full(len(text) + 2, len(text), np.float32) for text in texts]


@pytest.fixture
def corpus(tmp_path):
    for number in range(9):
        (tmp_path / f"{number}.txt").write_text(f"text {number} " * (20 + number))
    ingest(DataConfig(train=(str(tmp_path / "*.txt"),), val_every=9, shard_bytes=100), tmp_path / "corpus")
    assert len(shard_paths(tmp_path / "corpus" / "train")) == 8
    return tmp_path / "corpus"


def assert_all_there(corpus, folder):
    assert [p.name for p in shard_paths(folder)] == [p.name for p in shard_paths(corpus / "train")]
    for path in shard_paths(folder):
        check_patcher(path, read_about(path), "mortal")
        (table,) = row_groups(path)
        assert [len(e) for e in table["entropies"].to_pylist()] == [len(d) + 2 for d in table["data"].to_pylist()]


def of_rank(rank, tmp_path, corpus):
    """One of two processes, as a launcher or a job array starts it."""
    script = "import sys; from pathlib import Path; from test_prepare_many import Mortal, score; a, b, c = map(Path, "
    script += "sys.argv[1:]); score(a, b, Mortal(c))"
    places = [str(corpus), str(tmp_path / "shards"), str(tmp_path / "spared")]
    environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", script, *places], env=environment, timeout=120).returncode


def test_a_process_that_died_leaves_no_half_shard_and_is_made_up_for(corpus, tmp_path):
    assert of_rank(1, tmp_path, corpus) == -signal.SIGKILL
    assert len(shard_paths(tmp_path / "shards")) == 1
    assert of_rank(0, tmp_path, corpus) == 0
    before = {path: path.stat().st_mtime_ns for path in shard_paths(tmp_path / "shards")}
    assert len(before) == 5
    assert of_rank(1, tmp_path, corpus) == 0
    assert_all_there(corpus, tmp_path / "shards")
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())  # what was done is not done again


def test_ray_begins_a_task_again_whose_worker_died(corpus, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="needs the extra `ray`")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    done = []
    score_on_ray(corpus, tmp_path / "shards", Mortal(tmp_path / "spared"), LOCAL, done.append)
    assert (tmp_path / "spared").exists()
    assert_all_there(corpus, tmp_path / "shards")
    assert sum(done) == sum(sum(read_about(path)["bytes"]) for path in shard_paths(corpus / "train"))
    score(corpus, tmp_path / "shards", Mortal(tmp_path / "none"))  # would die, were anything left to do


def test_without_ray_the_extra_is_named(corpus, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"bytequilt\[ray\]"):
        score_on_ray(corpus, tmp_path / "shards", Mortal(tmp_path / "spared"), LOCAL)


ARRAY = """
[data]
train = ["texts"]
val_every = 5
shard_bytes = 200
[patching]
target_bytes = 4.5
sample_bytes = 1000
[entropy]
dim = 16
layers = 1
heads = 2
[entropy_train]
steps = 2
rows = 1
row_bytes = 32
precision = "fp32"
device = "cpu"
[model]
encoder = { dim = 16, layers = 1, heads = 2 }
latent = { dim = 16, layers = 1, heads = 2 }
decoder = { dim = 16, layers = 1, heads = 2 }
hash = { sizes = [] }
cross_heads = 2
[train]
steps = 1
precision = "fp32"
device = "cpu"
"""


def test_a_job_array_prepares_what_one_process_does(tmp_path, monkeypatch, capfd):
    (tmp_path / "texts").mkdir()
    for number in range(12):
        (tmp_path / "texts" / f"{number:02d}.txt").write_text(f"text {number} " * 9)
    (tmp_path / "recipe.toml").write_text(ARRAY)
    monkeypatch.chdir(tmp_path)
    main(["prepare", "recipe.toml", "--out", "one"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    ended = []
    for rank in (1, 0, 1, 0, 1):
        monkeypatch.setenv("RANK", str(rank))
        capfd.readouterr()
        try:
            main(["prepare", "recipe.toml", "--out", "array"])
            ended.append("done")
        except SystemExit:
            ended.append(capfd.readouterr().err.splitlines()[-1])
    assert "other tasks have not written their shards" in ended[0]
    assert ended[1] == "done"  # the corpus is whole: task 0 trains the entropy model, and scores its share
    assert ended[2:] == ["done"] * 3
    with pytest.raises(SystemExit):
        main(["train", "recipe.toml", "--out", "array"])
    assert "no MASTER_ADDR to meet at" in capfd.readouterr().err
    for kind in ("corpus/train", "corpus/val", "shards"):
        ours, theirs = (shard_paths(tmp_path / run / kind) for run in ("array", "one"))
        assert [path.read_bytes() for path in ours] == [path.read_bytes() for path in theirs]


def test_who_comes_before_the_entropy_model_is_told_to_come_again(tmp_path, monkeypatch, capfd):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "0.txt").write_text("some words of text " * 40)
    (tmp_path / "recipe.toml").write_text(ARRAY.replace("shard_bytes = 200", ""))
    monkeypatch.chdir(tmp_path)
    ingest(load_recipe("recipe.toml").data, tmp_path / "array" / "corpus")
    (tmp_path / "array" / ".recipe.toml.1-2.partial").write_text("of a process that died")
    shutil.move("array", "there")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit):
        main(["prepare", "recipe.toml", "--out", "array"])  # nobody else has written the corpus
    shutil.copytree("there", "array", dirs_exist_ok=True)
    with pytest.raises(SystemExit):
        main(["prepare", "recipe.toml", "--out", "array"])
    assert "task 0 has not trained the entropy model yet" in capfd.readouterr().err
