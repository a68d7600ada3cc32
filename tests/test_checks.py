"""What is found out before any work, what a run directory is claimed for, and what survives damage."""

import json
import sys
import types
from contextlib import suppress

import numpy as np
import pytest
import torch
from conftest import blt
from test_train import TRAIN, recipe

from bytequilt.config import DataConfig, PatchingConfig, RuleConfig, UserError, load_recipe
from bytequilt.data.prepare import ingest
from bytequilt.data.shards import documents_to_take, held_out, sample_documents
from bytequilt.data.sources import Document
from bytequilt.files import locked
from bytequilt.lm import LM, load
from bytequilt.overrides import listing, override
from bytequilt.patching.patcher import Patcher
from bytequilt.train.claim import to_toml
from bytequilt.train.run import train
from bytequilt.train.tasks import held_out_score


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    random, words = np.random.default_rng(0), ["the", "quick", "brown", "fox", "jumps"]
    rows = [{"ask": f"prompt {n}: ", "text": " ".join(random.choice(words, 40))} for n in range(40)]
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    train(recipe(text, "entropy"), folder)
    return folder


def changed(made, section, **change):
    return made.model_copy(update={section: getattr(made, section).model_copy(update=change)})


HOPELESS = [
    ("train", {"device": "nowhere"}, "device"),
    ("train", {"device": "meta:99x"}, "device"),
    ("entropy_train", {"device": "nowhere"}, "device"),
    ("train", {"tracker": ""}, "tracker"),
    ("train", {"tracker": "json"}, "is no tracker"),
    ("train", {"tracker": "no_such_module"}, "not installed"),
    ("train", {"init": "no/such/model"}, "no/such/model"),
    ("data", {"train": ("nowhere.txt",)}, "nowhere.txt"),
    ("data", {"val": ("no/*.txt",)}, "no/"),
    ("data", {"train": ()}, "names no source"),
    ("data", {"train": ("",)}, "no name"),
    ("data", {"field": "missing"}, "no field 'missing'"),
    ("data", {"prompt_field": "missing"}, "no field 'missing'"),
    ("data", {"where": {"ask": ("nobody",)}}, "no documents with ask = nobody"),
]


@pytest.mark.parametrize(("section", "change", "said"), HOPELESS, ids=str)
def test_what_cannot_work_is_said_before_any_work_and_nothing_is_left(text, tmp_path, section, change, said):
    with pytest.raises(UserError, match=said) as caught:
        train(changed(recipe(text, "entropy"), section, **change), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300
    assert not (tmp_path / "run").exists()


NUMBERS = [line.split()[0] for line in listing(load_recipe("demo")).splitlines() if "--" in line.split(" ")[2]]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400", "-1"])
def test_a_number_out_of_range_is_found_as_the_recipe_is_read(value):
    refused = []
    for name in NUMBERS:
        with suppress(UserError):
            override(load_recipe("demo"), [name, value])
            continue
        refused.append(name)
    texts = {"--data.field", "--data.prompt-field", "--data.messages-field", "--data.train", "--data.val"}
    names = {"--entropy-init", "--train.init", "--train.tracker", "--train.device", "--entropy-train.init"}
    names |= {"--report.prompt", "--entropy-train.tracker", "--entropy-train.device", "--patching.after"}
    whole = {"--train.seed", "--entropy-train.seed", "--report.seed"}  # a seed may be below zero
    exempt = {"--patching.threshold", "--patching.rise"} | (whole if value == "-1" else set())
    assert set(NUMBERS) - set(refused) <= texts | names | exempt


HUGE = "99999999999"
ENDLESS = {"steps", "rows", "row-bytes", "row-patches", "accumulate", "dim", "layers", "heads", "kv-heads", "ffn-dim"}


NAMES = [name for name in NUMBERS if name.rpartition(".")[2] in ENDLESS and "hash" not in name]


@pytest.mark.parametrize("name", NAMES)
def test_an_absurd_number_that_would_never_end_is_refused_with_the_recipe(name):
    with pytest.raises(UserError) as caught:
        override(load_recipe("demo"), [name, HUGE])
    assert name.rpartition(".")[2].replace("-", "_") in str(caught.value)


TOO_LARGE = [
    ["--model.hash.rows", HUGE],
    ["--model.latent.dim", str(2**24)],
    ["--entropy.ffn-dim", str(2**24), "--entropy.layers", "1024"],
    ["--train.row-bytes", str(2**32)],
    ["--entropy-train.rows", str(2**20)],
]


@pytest.mark.parametrize("flags", TOO_LARGE, ids=str)
def test_what_no_memory_holds_is_said_before_any_work(text, tmp_path, flags):
    with pytest.raises(UserError, match=r"training the (BLT|entropy model) takes .* and this machine has"):
        train(override(recipe(text, "entropy"), flags), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_that_gives_no_numbers_is_not_written(text, tmp_path):
    hasty = changed(recipe(text, "space"), "train", lr=1e30, hash_lr=1e30, warmup=0, steps=1)
    with pytest.raises(UserError, match="lower the learning rate"):
        train(hasty, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_a_field_of_one_number_or_several_takes_either():
    made = load_recipe("demo")
    assert override(made, ["--model.cross-heads", "2"]).model.cross_heads == 2
    assert override(made, ["--model.cross-heads", "2", "4"]).model.cross_heads == (2, 4)
    assert override(made, ["--model.hash.sizes", "3"]).model.hash.sizes == (3,)


@pytest.mark.parametrize("change", [{"target_bytes": 0.5}, {"target_bytes": 40, "max_length": 24}], ids=str)
def test_patches_that_cannot_be_are_refused_with_the_recipe(change):
    with pytest.raises(ValueError, match="target_bytes"):
        PatchingConfig(kind="entropy", **change)
    with pytest.raises(ValueError, match="target_bytes"):
        PatchingConfig(kind="budget", **({"max_length": 24} | change))


def test_an_attempt_that_came_to_no_corpus_claims_no_folder(text, tmp_path):
    (bad := tmp_path / "bad.jsonl").write_text('{"text": "one"}\n{"text": 2}\n')
    made, run = recipe(text, "space"), tmp_path / "run"
    with pytest.raises(UserError, match="must be a string"):
        train(changed(made, "data", train=(str(bad),)), run)
    assert (run / "recipe.toml").is_file()
    assert train(made, run)["steps"] == 4
    with pytest.raises(UserError, match="another recipe"):
        train(changed(made, "data", val_every=3), run)


def test_data_that_is_prepared_serves_another_shape_or_training(text, tmp_path):
    made, run = recipe(text, "entropy"), tmp_path / "run"
    for section in ("entropy_train", "train"):  # found out when the corpus is there; then when entropies are
        with pytest.raises(UserError, match="smaller than a batch"):
            train(changed(made, section, rows=100_000), run)
    shards = [(path, path.stat().st_mtime_ns) for path in sorted((run / "shards").iterdir())]
    assert train(changed(made, "train", rows=3), run)["steps"] == 4
    assert [(path, path.stat().st_mtime_ns) for path in sorted((run / "shards").iterdir())] == shards
    for other in (changed(made, "train", rows=2), changed(made, "entropy_train", rows=2)):
        with pytest.raises(UserError, match="another recipe"):
            train(other, run)


def test_a_recipe_of_somebodys_own_is_not_written_over(text, tmp_path):
    (tmp_path / "recipe.toml").write_text(own := "# mine\n" + to_toml(recipe(text, "space")))
    with pytest.raises(UserError, match="another recipe"):
        train(changed(recipe(text, "space"), "data", val_every=3), tmp_path)
    assert (tmp_path / "recipe.toml").read_text() == own


def test_a_tracker_hears_of_every_step(text, tmp_path, monkeypatch):
    heard = []
    tracker = types.SimpleNamespace(init=lambda **_: heard.append("init"), log=heard.append, finish=lambda: None)
    monkeypatch.setitem(sys.modules, "my_tracker", tracker)
    train(changed(recipe(text, "space"), "train", tracker="my_tracker"), tmp_path / "run")
    assert [record if record == "init" else record["step"] for record in heard] == ["init", 1, 2, 3, 4]


def test_more_steps_go_on_in_the_same_folder(text, tmp_path):
    longer = changed(recipe(text, "space"), "train", steps=6)
    assert train(recipe(text, "space"), tmp_path / "run")["steps"] == 4
    before = load(tmp_path / "run").model.decoder.head.weight
    report = train(longer, tmp_path / "run")
    assert report["steps"] == 6
    assert not torch.equal(before, load(tmp_path / "run").model.decoder.head.weight)
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert train(longer, tmp_path / "run") == report


def test_a_recipe_is_the_same_with_its_defaults_left_out(text, tmp_path):
    made = recipe(text, "space")
    report = train(made, tmp_path / "run")
    path = tmp_path / "run" / "recipe.toml"
    lines = [line for line in path.read_text().splitlines() if "table_optimizer" not in line and "keep" not in line]
    path.write_text("\n".join(lines))  # as a version wrote it that had fewer fields
    assert train(made, tmp_path / "run") == report


def test_one_process_at_a_time_has_a_folder(text, tmp_path):
    with locked(tmp_path / "run"), pytest.raises(UserError, match="another process is at work in"):
        train(recipe(text, "space"), tmp_path / "run")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"threshold": "x"}'])
def test_a_damaged_calibration_is_made_again(text, trained, damage):
    path, made = trained / "calibration.json", recipe(text, "entropy")
    whole = path.read_text()
    path.write_text(damage)
    (trained / "report.json").unlink()
    train(made, trained)
    assert json.loads(path.read_text()) == json.loads(whole)


def test_an_empty_recipe_of_a_full_disk_is_written_again(text, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").touch()
    train(recipe(text, "space"), tmp_path / "run")
    assert (tmp_path / "run" / "recipe.toml").stat().st_size


def test_what_an_interrupted_writer_left_is_swept(text, tmp_path):
    train(recipe(text, "space"), tmp_path / "run")
    (tmp_path / "run" / ".report.json.1.partial").touch()
    train(recipe(text, "space"), tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.partial"))


def test_a_model_to_start_from_brings_its_patcher(text, trained, tmp_path):
    rule = load(trained).patcher.rule
    change = {"train": TRAIN.model_dump() | {"steps": 1, "init": str(trained)}}
    train(recipe(text, "entropy", patching={"kind": "entropy", "target_bytes": 2.0}, **change), tmp_path / "own")
    assert load(tmp_path / "own").patcher.rule == rule
    assert not (tmp_path / "own" / "entropy").exists()
    train(recipe(text, "entropy", patching={"kind": "entropy", "threshold": 1.0}, **change), tmp_path / "given")
    assert load(tmp_path / "given").patcher.rule.threshold == 1.0


def test_prompts_are_not_counted_in_held_out_text(text, tmp_path):
    ingest(DataConfig(train=(text,), val_every=10, prompt_field="ask"), tmp_path)
    documents, lm = held_out(tmp_path), LM(blt(), Patcher(RuleConfig(kind="space")))
    score, _ = held_out_score(lm, documents)
    nats = 0.0
    for d in documents:  # the slow way: costs of all bytes, one by one
        before = lm.score(b"", d.data[: d.prompt]).nats
        nats += lm.score_documents([d.data])[0].nats - before
    assert score.nats == pytest.approx(nats)
    assert score.bytes == sum(len(d.data) - d.prompt for d in documents)
    other = [Document(d.id, b"Prompt" + d.data[6:], d.prompt) for d in documents]
    assert held_out_score(lm, other)[0].bytes == score.bytes


@pytest.mark.parametrize("sizes", [[30_000_000, *[1000] * 200], [10] * 5000, [70_000] * 40, [5], [900_000, 900_000]])
@pytest.mark.parametrize("wanted", [1, 10_000, 1_000_000])
def test_a_sample_is_counted_in_bytes(sizes, wanted):
    places, limit = documents_to_take(np.array(sizes), wanted)
    size = sum(min(sizes[place], limit) for place in places)
    assert size <= max(wanted, len(places))
    assert size >= min(sum(sizes), wanted) * 0.45


def test_samples_are_cut_and_evenly_spread(tmp_path):
    (tmp_path / "long.txt").write_bytes(b"x" * 50_000)
    for number in range(60):
        (tmp_path / f"short{number:02}.txt").write_bytes(bytes([65 + number % 26]) * 500)
    ingest(DataConfig(train=(str(tmp_path),), val_every=50), tmp_path / "corpus")
    sample = sample_documents(tmp_path / "corpus" / "train", 20_000)
    assert 10_000 <= sum(map(len, sample)) <= 20_000
    assert len(sample) > 10
