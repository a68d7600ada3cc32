"""The study of rules: it plans as it says, runs, and its models are told apart by script."""

import importlib.util
import json
from pathlib import Path

import pytest

from bytequilt.evals.scripts import share_of
from bytequilt.lm import load
from bytequilt.study.compare import results_of, train
from bytequilt.study.corpus import prepared
from bytequilt.study.recipe import Study, load_study, merged
from bytequilt.study.search import planned

ROOT = Path(__file__).parents[1]
SMALL = {"dim": 16, "layers": 1, "heads": 2, "ffn_dim": 24, "window": 32}
TEXTS = [
    "All are born free, {} of them.",
    "Все люди рождаются свободными, {}.",
    "人人生而自由,在尊严和权利上一律平等{}。",
]


@pytest.fixture(scope="module")
def by_script():
    path = ROOT / "benchmarks" / "rules_by_script.py"
    spec = importlib.util.spec_from_file_location("rules_by_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_rules_come_first_at_equal_patches_with_two_seeds():
    study = load_study("rules")
    names = [run.name for run in planned(study, {}.get)]
    assert names[:4] == ["budget-S-seed0", "global-S-seed0", "budget-S-seed1", "global-S-seed1"]
    assert {name.split("-S")[0] for name in names[4:]} == {"fixed-4", "byte"}
    targets = [study.models[name].patching.target_bytes for name in ("budget", "global")]
    assert targets[0] == targets[1]
    assert study.budgets["S"].bytes == 20_000_000


def test_it_runs_and_is_reported_by_script(tmp_path, by_script):
    """The shipped recipe with small networks, little text and hardly a step."""
    for name, numbers in (("train", range(80)), ("val", range(90, 99)), ("test", range(100, 109))):
        lines = [json.dumps({"text": TEXTS[n % 3].format(n) * 4}, ensure_ascii=False) + "\n" for n in numbers]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    fields = load_study("rules").model_dump(exclude_unset=True)
    changes = {
        "data": {"train": [str(tmp_path / "train.jsonl")], "val": [str(tmp_path / "val.jsonl")], "share": 1.0},
        "test": [str(tmp_path / "test.jsonl")],
        "entropy": {"dim": 16, "heads": 2, "ffn_dim": 24},
        "entropy_train": {"steps": 2, "rows": 2, "row_bytes": 128},
        "train": {"row_bytes": 128, "precision": "fp32", "device": "cpu"},
        "budgets": {"S": {"bytes": 1500, "seeds": [0]}},
        "ladders": {"blt": {"S": dict.fromkeys(("encoder", "latent", "decoder"), SMALL) | {"cross_heads": 2}}},
    }
    study = Study.model_validate(merged(fields, changes))
    corpus = prepared(study, tmp_path / "out")
    train(study, tmp_path / "out", corpus)
    rows, _ = results_of(study, tmp_path / "out", corpus)
    assert {row["model"] for row in rows} == set(study.models)
    assert {row["corpus"] for row in rows} == {"multilingual"}
    shown = by_script.table(tmp_path / "out", corpus.test, 500)
    lines = [line.strip("| ").split(" | ") for line in shown.splitlines()[2:]]
    assert [line[0].strip() for line in lines] == ["Cyrillic", "Han", "Latin"]
    sizes = [int(line[1].replace(",", "")) for line in lines]
    bits = sum(size * float(line[2].split(" ")[0]) for size, line in zip(sizes, lines, strict=True))
    assert sum(sizes) == sum(map(len, corpus.test))
    assert bits / sum(sizes) == pytest.approx(rows[0]["test_bpb"], abs=2e-3)
    share = share_of(load(str(tmp_path / "out/runs/byte-S-seed0/model")), TEXTS[0].encode())
    assert share.bytes == share.patches
    assert "1.0 bytes" in shown


def test_a_text_has_the_script_of_most_of_its_letters(by_script):
    assert by_script.main_script("人 and more 人人人 人人人人人人人".encode()) == "Han"
    assert by_script.main_script(b"12 + 3") == "other"
