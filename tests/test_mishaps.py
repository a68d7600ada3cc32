"""A run under torchrun to which much happens: it is told to stop, killed, killed while it saves, and hangs."""

import json
import os
import subprocess
import sys

import numpy as np
import torch
from safetensors.torch import load_file

from bytequilt.train import metrics

RECIPE = """
patching = { kind = "space" }
report = { prompt = "the ", max_bytes = 4 }
[data]
train = ["text.jsonl"]
val_every = 10
streams = 2
[model]
encoder = { dim = 16, layers = 1, heads = 2, ffn_dim = 24, window = 16 }
latent = { dim = 32, layers = 1, heads = 2, ffn_dim = 40 }
decoder = { dim = 16, layers = 1, heads = 2, ffn_dim = 24, window = 16 }
hash = { rows = 50 }
cross_heads = 2
[train]
steps = 6
rows = 2
row_bytes = 64
accumulate = 4
warmup = 2
eval_bytes = 400
save_every = 2
precision = "fp32"
device = "cpu"
timeout = 25
shard = "full"
"""

TROUBLE = '''
"""A tracker, of the first process alone, that brings trouble: of another kind each time the processes are begun."""
import json, os, signal, time
from pathlib import Path
from torch.distributed.checkpoint import FileSystemWriter

attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def init(**_):
    there = sorted(path.name for path in Path("run/checkpoints/blt").glob("*"))
    Path(f"attempt{attempt}.json").write_text(json.dumps(there))
    if attempt == "2":
        FileSystemWriter.finish = die  # comes when all have written their parts


def finish():
    pass


def log(record):
    match attempt, record["step"]:
        case "0", 1:
            os.kill(os.getpid(), signal.SIGTERM)
        case "1", 3:
            die()
        case "3", 5:
            time.sleep(1000)
'''


def torchrun(folder, *arguments, restarts=0):
    """`torchrun -m bytequilt train` of two processes in a folder."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", str(restarts), "--shutdown-timeout", "3"]
    command += ["-m", "bytequilt", "train", "recipe.toml", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)


def test_whatever_happens_the_run_goes_on_to_the_same_weights(tmp_path):
    random, words = np.random.default_rng(0), ["the", "quick", "brown", "fox", "a", "b"]
    texts = [" ".join(random.choice(words, 60)) for _ in range(60)]
    (tmp_path / "text.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "trouble.py").write_text(TROUBLE)
    calm = torchrun(tmp_path, "--out", "calm", "--json")
    assert calm.returncode == 0, calm.stderr[-3000:]
    assert json.loads(calm.stdout)["steps"] == 6
    assert metrics.read(tmp_path / "calm" / "metrics.jsonl")[-1]["val_bpb_row"] > 0
    assert calm.stderr.count("corpus: ") == 1  # said once, by the first process

    troubled = torchrun(tmp_path, "--out", "run", "--train.tracker", "trouble", restarts=4)
    assert troubled.returncode == 0, troubled.stderr[-3000:]
    begun = [json.loads((tmp_path / f"attempt{number}.json").read_text()) for number in range(5)]
    named = [[name for name in names if not name.startswith(".")] for names in begun]
    assert named[:2] == [[], ["step-00000001"]]
    assert named[3] == named[2]  # what was being saved is passed over, though all its parts are there
    assert any(name.endswith(".partial") for name in begun[3])
    assert named[4][-1] > named[3][-1]
    said = troubled.stderr
    assert said.count("blt stopped at step 1 of 6; the same command goes on from there") == 1
    assert said.count("exitcode: 130") >= 1
    assert "Timed out" in said or "timeout" in said.lower()
    lost = [line for line in said.splitlines() if "lost another process" in line]
    assert 1 <= len(lost) <= 3  # of those killed the launcher may hear first
    assert all(line.startswith("bytequilt: rank ") and len(line) <= 300 for line in lost)
    assert "Traceback" not in said
    ours, theirs = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("calm", "run"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
