"""The benchmark of training speed: its two sides cost the same, and it runs. No test asserts a time."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from bytequilt import lm
from bytequilt.baselines.networks import baseline_flops, equal_stack
from bytequilt.config import BaselineConfig
from bytequilt.model.flops import flops_per_byte

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "wall_clock.py"


@pytest.fixture(scope="module")
def clock():
    """The script, which imports its neighbours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        spec = importlib.util.spec_from_file_location("wall_clock", SCRIPT)
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "wall_clock", module)
        spec.loader.exec_module(module)
        yield module


@pytest.mark.parametrize("size", ["S", "M", "L", "small"])
def test_sides_have_equal_flops_per_byte(clock, size):
    options = clock.Options(size=size)
    config, _ = clock.shapes(size)
    blt = sum(clock.blt_parts(config, options).values())
    assert blt == pytest.approx(flops_per_byte(config, None, options.mean_patch, options.row_bytes)["total"])
    vocabulary = options.vocabulary + 4
    stack = equal_stack(blt, config.latent, vocabulary, options.mean_token, options.row_bytes)
    bpe = BaselineConfig(stack=stack, vocabulary=vocabulary, token_bytes=options.mean_token)
    assert baseline_flops(bpe, options.row_bytes)["total"] == pytest.approx(blt, rel=0.02)
    assert sum(clock.bpe_parts(bpe, options).values()) == pytest.approx(blt, rel=0.02)


def test_tokens_have_the_mean_size_that_was_asked_for(clock):
    vocabulary = clock.Lengths(1000, 3.9)
    sizes = [len(vocabulary.text(id)) for id in range(vocabulary.size)]
    assert sum(sizes) / 1000 == pytest.approx(3.9, abs=0.01)
    assert set(sizes[4:]) == {3, 4}


def test_speed_and_modules_are_reported_and_nothing_stays_marked(clock):
    found = clock.measured(clock.Options(size="S", rows=1, row_bytes=64, vocabulary=300, repeats=1, warmup=0))
    assert [side["side"] for side in found["sides"]] == ["BLT", "BPE", "entropy model, forward"]
    for clock_ in ("processor", "seconds"):
        ratio = found["ratio"][clock_]
        assert 0 < ratio["min"] <= ratio["median"] <= ratio["max"]
    for rows in found["modules"].values():
        *parts, whole = rows
        assert sum(row["time_share"] for row in parts) == pytest.approx(1.0)
        assert sum(row["flops_share"] for row in parts) == pytest.approx(whole["flops_share"]) == pytest.approx(1.0)
    shared = (lm.target_nats, torch.nn.utils.clip_grad_norm_, torch.optim.AdamW.step)
    assert "timed" not in {function.__name__ for function in shared}
