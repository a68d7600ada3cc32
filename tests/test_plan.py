"""A plan of a run: what the run itself would find, and nothing left behind."""

import json

import pytest
from conftest import blt, patcher

from bytequilt import LM
from bytequilt.cli import main
from bytequilt.config import UserError, load_recipe
from bytequilt.data.prepare import ingest
from bytequilt.info import parameters
from bytequilt.overrides import override
from bytequilt.train import plan as planning
from bytequilt.train.plan import plan
from bytequilt.view.plan import duration

TEXT = "It was the best of times, it was the worst of times.\n\n" * 400
SMALL = """
patching = { kind = "budget", target_bytes = 4, sample_bytes = 2000 }
entropy = { dim = 16, layers = 1, heads = 2, ffn_dim = 16, window = 16 }
[entropy_train]
steps = 7
rows = 2
row_bytes = 64
[model]
encoder = { dim = 16, layers = 1, heads = 2, ffn_dim = 16, window = 16 }
latent = { dim = 32, layers = 1, heads = 2, ffn_dim = 16 }
decoder = { dim = 16, layers = 1, heads = 2, ffn_dim = 16, window = 16 }
hash = { rows = 64 }
cross_heads = 2
[train]
steps = 9
rows = 2
row_bytes = 64
accumulate = 3
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "small.toml").write_text(SMALL)
    (tmp_path / "text.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(*fields):
    return override(load_recipe("small.toml"), ["--data.train", "text.txt", *fields])


def test_a_plan_counts_what_the_run_counts(place):
    planned, chosen = plan(recipe()), recipe()
    manifest = ingest(chosen.data, place / "corpus")
    for part, name in (("train", "train"), ("held_out", "val")):
        assert planned["documents"][part] == manifest[name]["documents"]
        assert planned["bytes"][part] == manifest[name]["bytes"]
    counted = parameters(chosen.model, chosen.entropy)
    assert planned["parameters"]["blt"] + planned["parameters"]["tables"] == counted["total"]
    assert planned["parameters"]["entropy"] == counted["entropy"]
    assert planned["steps"] == {"entropy": 7, "blt": 9}
    assert planned["trained_bytes"] == {"entropy": 7 * 2 * 64, "blt": 9 * 2 * 64 * 3}
    assert planned["memory_bytes"] > 16 * counted["total"]
    assert planned["seconds"]["total"] == pytest.approx(sum(planned["seconds"].values()) / 2, abs=0.5)


def test_a_plan_leaves_nothing(place, capfd, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("torch")))  # made by PyTorch's import
    monkeypatch.setattr("tempfile.tempdir", None)
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    main(["train", "small.toml", "--data.train", "text.txt", "--plan", "--json"])
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
    assert json.loads(capfd.readouterr().out)["documents"] == {"train": 1, "held_out": 1}
    main(["train", "small.toml", "--data.train", "text.txt", "--plan"])
    assert "on this machine" in capfd.readouterr().out


def test_a_model_that_brings_its_patches_needs_no_entropy_model(place):
    LM(blt(), patcher("budget"), 4.0).save(place / "origin")
    fields = ["--train.init", "origin", "--data.train", "text.txt", "--data.prompt-field", "none"]
    planned = plan(override(load_recipe("finetune"), fields))
    assert list(planned["steps"]) == ["blt"]
    assert planned["parameters"]["entropy"] > 0
    assert planned["seconds"]["prepare"] >= 0


@pytest.mark.parametrize("flops", [1.0, 1e4, 1e6, 1e9, 1e15])
def test_a_measured_step_is_bounded_whatever_the_model(flops):
    """Of a model as large as may be, a few bytes are measured; of a small one, the whole step."""
    config = load_recipe("demo").train.model_copy(update={"rows": 64, "row_bytes": 8192, "accumulate": 16})
    part = planning.cut(config, flops)
    size = part.rows * part.row_bytes * part.accumulate
    assert size * flops * 3 <= planning.WORK or (part.accumulate, part.rows, part.row_bytes) == (1, 1, 64)
    assert (part == config) == (64 * 8192 * 16 * flops * 3 <= planning.WORK)


def test_a_step_that_is_cut_is_told_whole(place, monkeypatch):
    whole = plan(recipe())
    monkeypatch.setattr(planning, "WORK", 1)
    in_part = plan(recipe())
    assert {**in_part, "seconds": 0, "memory_bytes": 0} == {**whole, "seconds": 0, "memory_bytes": 0}
    assert in_part["memory_bytes"] == pytest.approx(whole["memory_bytes"], rel=0.3)
    assert in_part["seconds"].keys() == whole["seconds"].keys()
    with pytest.raises(UserError, match="smaller than a batch"):
        plan(recipe("--train.rows", "4096"))


@pytest.mark.parametrize("field", ["model.latent", "model.encoder", "entropy"])
def test_layers_as_many_as_may_be_are_not_measured(place, monkeypatch, field):
    monkeypatch.setattr(planning, "memory_of_machine", lambda: 10**8)
    monkeypatch.setattr(planning, "measure", None)
    assert plan(recipe(f"--{field}.layers", "4096"))["seconds"] is None


def test_what_does_not_fit_is_not_measured(place, monkeypatch):
    monkeypatch.setattr(planning, "memory_of_machine", lambda: 1000)
    monkeypatch.setattr(planning, "measure", None)
    planned = plan(recipe())
    assert planned["seconds"] is None
    assert planned["memory_bytes"] > 1000


def test_a_plan_refuses_what_the_run_would(place):
    for fields in (["--data.train", "missing.txt"], ["--train.device", "abacus"]):
        with pytest.raises(UserError):
            plan(recipe(*fields))


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (119, "119 s"), (120, "2.0 minutes"), (7200, "2.0 hours"), (3e5, "3.5 days")]
)
def test_durations_are_in_the_unit_that_fits(seconds, said):
    assert duration(seconds) == said
