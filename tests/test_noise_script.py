"""The script that compares models of a study under noise."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bytequilt.baselines.baseline import Baseline, build
from bytequilt.baselines.vocabulary import Bytes
from bytequilt.config import BaselineConfig
from bytequilt.evals.noise import CLEAN, NOISES, robustness
from bytequilt.lm import load_any

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "noise.py"
SPEC = importlib.util.spec_from_file_location("noise_script", SCRIPT)
script = sys.modules["noise_script"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(script)

CONFIG = BaselineConfig(stack={"dim": 16, "layers": 1, "heads": 2, "ffn_dim": 32})
TEXTS = [f"Text {number}: the cat sat on the mat. " * 3 for number in range(6)]


@pytest.fixture
def out(tmp_path):
    for seed, name in enumerate(("a", "a", "b+ngrams")):
        torch.manual_seed(seed)
        folder = tmp_path / "runs" / f"{name}-S-seed{seed}"
        folder.mkdir(parents=True)
        Baseline(build(CONFIG), Bytes(), CONFIG).save(folder / "model")
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return tmp_path


def test_models_are_compared_under_every_noise(out, capsys):
    arguments = [str(out), str(out / "test.jsonl"), "--size", "S", "--models", "a", "b+ngrams"]
    assert script.main([*arguments, "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)
    assert [line["noise"] for line in lines] == [name for name in (CLEAN, *NOISES) for _ in "ab"]
    assert [line["seeds"] for line in lines[:2]] == [2, 1]
    models = [load_any(path) for path in sorted(out.glob("runs/a-*/model"))]
    summed = [robustness(model, [text.encode() for text in TEXTS])["Drop"] for model in models]
    drop = next(line for line in lines if (line["noise"], line["model"]) == ("Drop", "a"))
    assert drop["bits_per_clean_byte"] == pytest.approx(np.mean([row["bits_per_clean_byte"] for row in summed]))
    other = next(line for line in lines if (line["noise"], line["model"]) == ("Drop", "b+ngrams"))
    assert other["above"] == pytest.approx(other["bits_per_clean_byte"] - drop["bits_per_clean_byte"])
    assert other["low"] < other["above"] < other["high"]
    assert script.main(arguments) == 0
    assert "| Drop | b+ngrams | 1 |" in capsys.readouterr().out


def test_a_model_that_is_not_there_is_told(out, capsys):
    assert script.main([str(out), str(out / "test.jsonl"), "--size", "L", "--models", "a"]) == 2
    assert "has no trained a of size L" in capsys.readouterr().err
