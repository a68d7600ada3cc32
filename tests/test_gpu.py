"""The benchmark of GPUs, as far as a machine without one can run it: a small shape, on the CPU."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu():
    """The script, which imports its neighbours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "gpu", module)
        spec.loader.exec_module(module)
        patch.setattr(module, "DEVICE", "cpu")
        patch.setattr(module, "RECIPES", {"demo": "demo"})
        yield module


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so_and_exits_with_2(gpu, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert not out
    assert len(err.splitlines()) == 1


def test_measurements_run_and_are_written_down(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    options = gpu.Options(out=tmp_path, decoded=8, scored=2000, repeats=1)
    rows = {part: [gpu.attempt(measure, "demo", False, options, 1.0)] for part, measure in gpu.PARTS.items()}
    rows["train"].append(gpu.attempt(gpu.training, "demo", True, options, -1.0))
    assert rows["train"][0]["bytes_per_s"] > 0
    assert rows["decode"][0]["bytes_per_s_16"] > 0
    assert rows["score"][0]["bytes_per_s"] > 0
    assert "no time was left" in rows["train"][1]["failed"]
    gpu.write({"machine": "m", "torch": "t", "command": "c", "tests": {"passed": True, "said": []}} | rows, tmp_path)
    assert json.loads((tmp_path / "gpu.json").read_text())["decode"] == rows["decode"]
    assert "## decode" in (tmp_path / "gpu.md").read_text()
