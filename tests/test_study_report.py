"""What a study comes to: its files, its tables and its plots."""

import csv
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from bytequilt.config import UserError
from bytequilt.files import write_json
from bytequilt.study import choices, table
from bytequilt.study.choices import progress, progress_table
from bytequilt.study.corpus import Corpus
from bytequilt.study.evidence import evidence
from bytequilt.study.markdown import scaled
from bytequilt.study.recipe import Study
from bytequilt.study.report import PLOTS, markdown, pictures, write_report
from bytequilt.study.search import Run
from bytequilt.study.table import Spread, summary
from bytequilt.view import curves

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "study_report.py"
SPEC = importlib.util.spec_from_file_location("study_report", SCRIPT)
script = sys.modules["study_report"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(script)

STACK = {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 64}
BLT = {"encoder": STACK, "latent": STACK, "decoder": STACK, "hash": {"rows": 128}, "cross_heads": 2}
FIELDS = {
    "data": {"train": ["far/away/train.jsonl.xz"], "val": ["far/away/val.jsonl.xz"]},
    "test": ["far/away/test.jsonl.xz"],
    "entropy": STACK,
    "entropy_train": {"steps": 100, "rows": 2, "row_bytes": 50},
    "train": {"rows": 2, "row_bytes": 512},
    "sweep": {"lr": [1e-3, 2e-3, 4e-3], "hash_lr_factor": [2.0, 4.0, 8.0]},
    "budgets": {"S": {"flops": 2e12, "seeds": [0, 1]}, "L": {"flops": 2e13}},
    "ladders": {"blt": {"S": BLT, "L": BLT}, "flat": {"S": {"stack": STACK}, "L": {"stack": STACK}}},
    "models": {
        "quilt": {"ladder": "blt", "patching": {"target_bytes": 4.5}},
        "byte": {"ladder": "flat", "lr_of": "quilt"},
        "merged": {"ladder": "flat", "tokenizer": "/secret/place/llama3/tokenizer.model", "vocabulary": 1000},
        "learnt": {"ladder": "flat", "vocabulary": 512, "train": {"row_bytes": 128}, "lr": 5e-3},
    },
}
BPB = {
    ("quilt", "S"): (2.50, 2.52),
    ("byte", "S"): (2.80, 2.82),
    ("merged", "S"): (2.40, 2.41),
    ("learnt", "S"): (2.51, 2.55),
    ("quilt", "L"): (2.0,),
    ("byte", "L"): (2.2,),
    ("merged", "L"): (2.05,),
    ("learnt", "L"): (2.003,),
}
TRIES = {
    "quilt": {(1e-3, 4): 2.9, (2e-3, 4): 2.7, (4e-3, 4): 2.8, (2e-3, 2): 2.95, (2e-3, 8): 2.95},
    "merged": {
        (1e-3, 4): 2.9,
        (2e-3, 4): 2.8,
        (4e-3, 4): 2.7,
        (2e-3, 2): 2.95,
        (2e-3, 8): 2.95,
        (4e-3, 2): 2.8,
        (4e-3, 8): 2.8,
    },
}
FLOPS = {"quilt": 400e3, "byte": 500e3, "merged": 300e3, "learnt": 200e3}


def study(**changes) -> Study:
    return Study.model_validate(FIELDS | changes)


def row(model: str, size: str, bpb: float, seed: int = 0, rate: tuple[float, float] | None = None, **changes) -> dict:
    """A result as runs write it."""
    entropy = {"entropy": 50e3} if model == "quilt" else {}
    flops = 2e12 if size == "S" else 2e13
    return {
        "model": model,
        "size": size,
        "seed": seed,
        "lr": rate[0] if rate else 2e-3,
        "hash_lr_factor": rate[1] if rate else 4.0,
        "search": rate is not None,
        "split": "abc",
        "budget": {"flops": flops},
        "steps": 10,
        "trained_bytes": 1_000_000 + seed,
        "train_flops": flops,
        "train_flops_without_head": flops / 2,
        "flops_per_byte": entropy | {"body": FLOPS[model] - 20e3, "total": FLOPS[model], "head": 20e3},
        "unit_bytes": 4.25,
        "mean_patch_bytes": 4.5 if model == "quilt" else None,
        "vocabulary": {"merged": 1004, "learnt": 516}.get(model, 260),
        "parameters": 123_456,
        "val_bpb": bpb,
        "test_bpb": None if rate else bpb,
        "test_bytes": None if rate else 5000,
        "leak": 0.0,
        "seconds": 60.0 + seed,
        "threads": 1,
    } | changes


def all_rows() -> list[dict]:
    rows = [row(model, "S", bpb, rate=rate) for model, tried in TRIES.items() for rate, bpb in tried.items()]
    return rows + [row(*place, bpb, seed) for place, seeds in BPB.items() for seed, bpb in enumerate(seeds)]


def corpus(folder: Path) -> Corpus:
    return Corpus(folder, None, None, "abc", 0.0123, 45_000_000, [b"x" * 900], [b"x" * 5000])


def written(folder: Path, given: Study | None = None, rows: list[dict] | None = None) -> dict:
    return table.write(given or study(), all_rows() if rows is None else rows, folder, "a box", corpus(folder))


def cells(text: str) -> dict[str, list[list[str]]]:
    """The rows of all tables, by their first cell."""
    rows: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        if line.startswith("|"):
            first, *others = (cell.strip() for cell in line.strip("|").split("|"))
            rows.setdefault(first, []).append(others)
    return rows


def learnt(model: str, shares: list[float]) -> dict:
    """What came of a model that learnt from examples, as fine-tuning writes it."""
    asked = [{"prompt": 'Is 380 before 381?\nAnswer: "', "answer": 'Yes" and', "right": shares[-1] > 0.5}]
    points = []
    for place, share in enumerate(shares):
        mean = {"accuracy": share, "stderr": 0.05, "constant": 0.5, "copy": 0.0, "unparsed": 0.0, "tasks": 1}
        part = {"tasks": {"order": mean | {"level": "number"}}, "means": {"number": mean, "all": mean}}
        spent = {"examples": 100 * place, "trained_bytes": 10, "train_flops": 3e9 * place}
        points.append(spent | {"held_out": part, "longer": part, "asked": asked})
    return {"model": model, "size": "S", "seed": 0, "lr": 2e-3, "tries": {}, "points": points}


def test_a_report_shows_what_fine_tuned_models_answer(tmp_path):
    tuning = {
        "models": ["quilt", "merged"],
        "size": "S",
        "examples": [100, 200],
        "rows": 10,
        "lr": [2e-3],
        "tried": 100,
    }
    given = Study.model_validate(FIELDS | {"finetune": tuning | {"tasks": ["order"]}})
    results = [learnt("quilt", [0.0, 0.6, 0.9]), learnt("merged", [0.0, 0.5, 0.4])]
    found = table.write(given, all_rows(), tmp_path, "a box", corpus(tmp_path), results)
    text = markdown(found)
    assert "| quilt | number | held out | 0.0% | 60.0% | 90.0% | 50.0% |" in text
    assert "| merged | number | longer | 0.0% | 50.0% | 40.0% | 50.0% |" in text
    assert """`"Yes" and` right | `"Yes" and` wrong |""" in text
    assert ["S", "0", "0.002", "6 G"] in cells(text)["quilt"]
    assert "accuracy-by-examples.svg" in pictures(found, tmp_path)


# -------------------------------------------------------------------------------------------------------------- files


def test_results_come_back(tmp_path):
    found = written(tmp_path)
    assert table.read(tmp_path) == table.read(tmp_path / "results.json") == found
    assert Study.model_validate(table.read(tmp_path)["study"]) == study()
    assert found["rows"] == all_rows()
    assert found["corpus"] == {
        "split": "abc",
        "overlap": 0.0123,
        "train_bytes": 45_000_000,
        "val_bytes": 900,
        "test_bytes": 5000,
        "test_documents": 1,
        "largest_test_document": 5000,
        "entropy_seconds_per_byte": None,
    }
    assert not list(tmp_path.glob("*partial*"))


def test_csv_has_every_number_of_every_run(tmp_path):
    written(tmp_path)
    with open(tmp_path / "results.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    for line, one in zip(lines, all_rows(), strict=True):
        flat = {name: value for name, value in one.items() if name not in table.PREFIXES}
        flat |= {f"flops_{part}": value for part, value in one["flops_per_byte"].items()}
        flat |= {"budget_flops": one["budget"]["flops"], "flops_entropy": one["flops_per_byte"].get("entropy")}
        assert line == {name: "" if value is None else str(value) for name, value in flat.items()}


@pytest.mark.parametrize("text", ["[1, 2", "[]", '{"format": 0}', '{"rows": []}'])
def test_other_files_are_no_results(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UserError, match=r"results\.json"):
        table.read(tmp_path)
    with pytest.raises(UserError, match=r"nowhere\.json"):
        table.read(tmp_path / "nowhere.json")


def test_summary_is_of_seeds_and_not_of_tries():
    found = summary(all_rows())
    assert list(found) == list(BPB)
    quilt = found["quilt", "S"]
    assert quilt["test_bpb"] == Spread(pytest.approx(2.51), 2.50, 2.52, 2)
    assert quilt["seconds"] == Spread(60.5, 60, 61, 2)
    assert quilt["trained_bytes"] == Spread(1_000_000.5, 1_000_000, 1_000_001, 2)
    costs = {name: quilt[name].mean for name in table.QUANTITIES if "flops" in name}
    assert costs == {
        "train_flops": 2e12,
        "train_flops_without_head": 1e12,
        "inference_flops": 400e3,
        "inference_flops_without_head": 380e3,
        "entropy_flops": 50e3,
    }
    assert found["byte", "L"]["entropy_flops"] == Spread(0, 0, 0, 1)


# ------------------------------------------------------------------------------------------------------------- tables


def test_models_are_ranked_with_what_they_cost(tmp_path):
    rows = cells(markdown(written(tmp_path)))
    assert rows["merged"][0] == ["**2.405 (2.400 to 2.410)**", "", "1 MB", "4.25", *COSTS["merged"], "none", "60.5"]
    assert rows["quilt"][0][:2] == ["2.510 (2.500 to 2.520)", "0.105 (4.4%)"]
    assert rows["quilt"][0][8:] == ["50 k", "60.5"]
    assert rows["learnt"][1][:2] == ["2.003", "0.003 (0.2%)"]
    assert [name for name in rows if name in FLOPS] == ["merged", "quilt", "learnt", "byte"]


COSTS = {"merged": ["2 T", "1 T", "300 k", "280 k"]}


def test_networks_are_shown_with_their_tables_apart(tmp_path):
    rows = cells(choices.networks(study(), all_rows()))
    assert rows["quilt"] == [["260", *["1 x 32, 1 x 32, 1 x 32: 123 k (32.9 k)"] * 2]]
    assert rows["merged"] == [["1,004", *["1 x 32: 123 k (32.1 k)"] * 2]]


def test_tries_are_all_shown():
    rows = cells(choices.search(study(), all_rows()))
    assert rows["quilt"] == [
        ["S", "2", "", "2.950", ""],
        ["S", "4", "2.900", "**2.700**", "2.800"],
        ["S", "8", "", "2.950", ""],
    ]
    assert ["S", "4", "2.900", "2.800", "**2.700**"] in rows["merged"]
    few = cells(choices.search(study(), [row for row in all_rows() if row["lr"] != 4e-3]))
    assert few["quilt"][1] == ["S", "4", "2.900", "2.700", "missing"]
    failed = [row("quilt", "S", None, rate=(1e-3, 4.0))]
    assert cells(choices.search(study(), failed))["quilt"] == [
        ["S", "2", "", "missing", ""],
        ["S", "4", "diverged", "missing", "missing"],
        ["S", "8", "", "missing", ""],
    ]
    assert choices.search(study(models={"byte": {"ladder": "flat", "lr": 1e-3}}, sweep=None), []) is None


def test_rates_say_where_they_come_from_and_when_the_grid_is_too_narrow():
    rows = cells(choices.rates(study(), all_rows()))
    assert rows["quilt"] == [["S", "0.002", "4", "5 tries", ""]]
    assert rows["byte"] == [["S", "0.002", "4", "as quilt", ""]]
    assert rows["merged"] == [["S", "0.004", "4", "7 tries", "rate"]]
    assert rows["learnt"] == [["S", "0.005", "1", "given", ""]]
    sweep = {"lr": [2e-3], "hash_lr_factor": [1.0, 4.0, 8.0]}
    upper = [row("quilt", "S", bpb, rate=(2e-3, factor)) for factor, bpb in ((1.0, 2.7), (4.0, 2.6), (8.0, 2.5))]
    assert cells(choices.rates(study(sweep=sweep), upper))["quilt"] == [["S", "0.002", "8", "3 tries", "multiple"]]


def test_rates_are_shown_of_every_size_that_is_searched():
    sweep = {"lr": [1e-3, 2e-3], "hash_lr_factor": [4.0], "again": ["L"]}
    rows = [row("quilt", "S", bpb, rate=(lr, 4.0)) for lr, bpb in ((1e-3, 2.5), (2e-3, 2.6))]
    rows += [row("quilt", "L", bpb, rate=(lr, 4.0)) for lr, bpb in ((1e-3, 2.4), (2e-3, 2.3))]
    shown = cells(choices.rates(study(sweep=sweep), rows))
    assert shown["quilt"] == [["S", "0.001", "4", "2 tries", "rate"], ["L", "0.002", "4", "2 tries", "rate"]]
    assert shown["byte"] == [["S", "0.001", "4", "as quilt", ""], ["L", "0.002", "4", "as quilt", ""]]
    assert cells(choices.rates(study(sweep=sweep), rows[:3]))["quilt"][1] == ["L", "", "", "1 of 2 tries or more", ""]


def test_what_is_missing_is_told_by_size_and_model():
    assert {size: state.missing for size, state in progress(study(), all_rows()).items()} == {"S": {}, "L": {}}
    rows = [row for row in all_rows() if row["model"] != "byte"]
    chosen = study(counts={"ppmd": {"kind": "ppmd", "order": 4, "text_of": "quilt"}})
    states = progress(chosen, [*rows, row("quilt", "S", 2.5) | {"model": "ppmd", "train_flops": 0.0}])
    assert states["S"].missing == {"byte": 2}
    assert (states["S"].done, states["S"].planned) == (7, 9)
    assert states["L"].missing == {"byte": 1, "ppmd": 1}
    assert cells(progress_table(states))["L"] == [["3 of 5", "byte, ppmd"]]


def test_checks_say_what_is_wrong():
    rows = all_rows()
    rows[-1] |= {"leak": 2e-6, "threads": 2, "train_flops": 2.2e13}
    checks = cells(choices.checks(rows, "a box"))
    assert checks["most that a logit moved in the leak test"] == [["2e-06"]]
    assert checks["share of its budget that a run took"] == [["100.0% to 110.0%"]]
    assert checks["threads"] == [["1, 2"]]
    assert checks["machine"] == [["a box"]]


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "0.5 B"), (12, "12 B"), (999_999, "1 MB"), (2.344e12, "2.34 TB"), (3e18, "3e+18 B")]
)
def test_numbers_have_three_digits(value, text):
    assert scaled(value, "B") == text


def against(model: str, size: str, matching: str, low: float, high: float, other: str = "merged") -> dict:
    """A difference to the best baseline, as study.evidence gives it."""
    ends = {"difference": (low + high) / 2, "low": low, "high": high, "best": True, "seeds": [2, 2]}
    return {"model": model, "against": other, "size": size, "matching": matching} | ends


def judged(folder: Path, differences: list[dict], rows: list[dict] | None = None, **more: list[dict]) -> str:
    folder.mkdir(exist_ok=True)
    evidence = {"differences": differences, "fits": []} | more
    rows = [row | {"corpus": "english"} for row in (all_rows() if rows is None else rows)]
    return markdown(table.write(study(), rows, folder, "a box", corpus(folder), (), evidence))


def test_a_report_leads_with_the_difference_to_the_best_baseline_and_what_follows(tmp_path):
    lines = [against("quilt", "S", matching, -0.03, -0.01) for matching in ("flops", "parameters")]
    lines += [against("quilt", "L", "flops", -0.03, -0.01), against("quilt", "L", "bytes", 0.2, 0.4, "ppmd")]
    text = judged(tmp_path, lines)
    first = text.index("## Against the best baseline")
    assert (
        first < text.index("| size | model") < text.index("difference-to-the-best.svg") < text.index("## What follows")
    )
    value = "-0.020 (-0.030 to -0.010) merged"
    sizes = "123 k and 123 k"
    assert cells(text)["S"][0] == ["quilt", "2 and 2", "3", value, value, "", sizes, "ahead"]
    assert cells(text)["L"][0] == ["quilt", "2 and 2", "3", value, "", "+0.300 (+0.200 to +0.400) ppmd", sizes, "open"]
    assert "**Ahead**" in text
    assert "quilt at S." in text
    assert "**Counting is better** with as much text, read once and without gradients: ppmd beside quilt at L" in text
    assert "1.33 (quilt at S)" in text  # FLOPs a byte, 400 k beside 300 k
    assert "Without the largest document" not in text
    changed = [line | {"low": -0.03, "high": 0.01} for line in lines if line["size"] == "S"]
    text = judged(tmp_path, lines, without_largest=changed)
    outcome = "these verdicts would be others: quilt at S open instead of ahead, -0.020 (-0.030 to +0.010) merged."
    assert f"of the test text, {outcome}" in text
    assert "all verdicts would be the same" in judged(tmp_path, lines, without_largest=lines[:2])
    some = [row for row in all_rows() if row["model"] != "learnt" or row["size"] == "L"]
    assert cells(judged(tmp_path, lines, some))["S"][0][-1] == "ahead, so far"
    assert "What follows" not in judged(tmp_path, [])


def test_a_study_without_baselines_is_about_its_first_model(tmp_path):
    names = ("quilt", "merged", "byte")
    given = study(models={name: {"ladder": "blt", "patching": FIXED, "lr": 1e-3} for name in names})
    line = {"against": "quilt", "size": "S", "seeds": [2, 2], "matching": "flops", "best": False}
    lines = [
        line | {"model": "byte", "difference": 0.1, "low": 0.05, "high": 0.15},
        line | {"model": "merged", "difference": -0.1, "low": None, "high": None},
        line | {"model": "byte", "against": "merged", "difference": 0.2, "low": 0.1, "high": 0.3},
    ]
    rows = [row(name, "S", 2.0, corpus="english") for name in names]
    evidence = {"differences": lines, "fits": []}
    text = markdown(table.write(given, rows, tmp_path, "a box", corpus(tmp_path), (), evidence))
    assert cells(text)["S"][:2] == [["merged", "2 and 2", "-0.100"], ["byte", "2 and 2", "+0.100 (+0.050 to +0.150)"]]
    assert text.index("## Against quilt") < text.index("## What is done")
    assert "## What follows" not in text


def test_any_study_has_a_report(tmp_path):
    given = study(
        test=[],
        entropy=None,
        entropy_train=None,
        sweep=None,
        budgets={"S": {"bytes": 1e6}, "L": {"seconds": 60}},
        models={"byte": {"ladder": "flat", "lr": 1e-3}, "fixed": {"ladder": "blt", "patching": FIXED, "lr": 1e-3}},
    )
    rows = [
        row("byte", "S", 2.5, budget={"bytes": 1e6}),
        row("byte", "L", 2.0, budget={"seconds": 60.0}),
    ]
    text = markdown(written(tmp_path, given, rows))
    assert "### L: 60 seconds of training" in text
    assert "stride = 4" in text
    with pytest.raises(UserError, match="no run of the study is done"):
        markdown(written(tmp_path, rows=[]))


def test_a_study_that_has_only_tried_rates_has_a_report(tmp_path):
    tries = [row("quilt", "S", 2.5, rate=(2e-3, 4.0)), row("quilt", "S", 2.4, rate=(1e-3, 4.0))]
    results = written(tmp_path, rows=[*tries, row("merged", "S", None, rate=(2e-3, 4.0))])
    assert pictures(results, tmp_path) == {}
    text = markdown(results)
    assert cells(text)["S"][0] == ["0 of 8", "quilt x 2, byte x 2, merged x 2, learnt x 2"]
    assert "No run with a full budget is done" in text
    assert "## Results" not in text
    assert ".svg" not in text
    section = script.section_of("mine", results)
    assert cells(section)["quilt"] == [["2.400 (0.001 x 4)"]]
    assert "0.5 of the budget" in section


FIXED = {"kind": "fixed", "stride": 4}


# -------------------------------------------------------------------------------------------------------------- plots


def test_plots_are_the_same_each_time(tmp_path):
    pytest.importorskip("matplotlib")
    for cost in curves.COSTS:
        drawn = [tmp_path / f"{cost}-{number}.svg" for number in range(2)]
        for path in drawn:
            curves.bpb_by_cost(summary(all_rows()), cost, path)
        assert drawn[0].read_bytes() == drawn[1].read_bytes()
        assert b"<svg" in drawn[0].read_bytes()
    curves.bpb_by_cost(summary([row("byte", "S", 2.5)]), "seconds", tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_plots_say_what_they_lack(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"\.png or \.svg"):
        curves.bpb_by_cost(summary(all_rows()), "seconds", tmp_path / "plot.jpg")
    with pytest.raises(UserError, match="nothing to draw"):
        curves.bpb_by_cost({}, "seconds", tmp_path / "plot.svg")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"bytequilt\[plot\]"):
        curves.bpb_by_cost(summary(all_rows()), "seconds", tmp_path / "plot.svg")
    with pytest.raises(UserError, match=r"bytequilt\[plot\]"):
        write_report(study(), all_rows(), tmp_path, corpus(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "results.csv"}


@pytest.mark.parametrize(("low", "high"), [(1e12, 1.1e12), (1.9e12, 2.1e13), (0.4, 90), (3e3, 4e9), (1e9, 1e19)])
def test_axes_have_a_few_labels(low, high):
    matplotlib = pytest.importorskip("matplotlib.figure")
    axes = matplotlib.Figure().subplots()
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    curves.label_log_axis(axes.xaxis, low, high)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert 3 <= len(labels) <= curves.MAX_LABELS
    assert len(set(labels)) == len(labels)


# ------------------------------------------------------------------------------------------------------ made again


def test_report_is_made_again_from_its_results(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    write_report(study(), all_rows(), tmp_path, corpus(tmp_path))
    names = {"results.json", "results.csv", "report.md", *PLOTS.values()}
    assert {path.name for path in tmp_path.iterdir()} == names
    before = {name: (tmp_path / name).read_bytes() for name in names}
    assert script.main([str(tmp_path), "--check"]) == 0
    plot = tmp_path / PLOTS["seconds"]
    plot.write_text(plot.read_text() + " ")
    (tmp_path / "report.md").unlink()
    assert script.main([str(tmp_path), "--check"]) == 1
    assert capsys.readouterr().err.count("is not what results.json gives") == 2
    assert script.main([str(tmp_path)]) == 0
    assert {name: (tmp_path / name).read_bytes() for name in names} == before
    assert script.main([str(tmp_path / "nowhere")]) == 2


@pytest.mark.parametrize(
    ("said", "complaints"),
    [
        ("| | S | L |\n|---|---|---|\n| quilt | 2.510 | **2.000** |\n| merged | 2.405 | 2.050 |", 0),
        ("| | S | L |\n|---|---|---|\n| quilt | 2.000 | 2.510 |", 2),
        ("quilt is 0.105 behind merged at S", 0),
        ("quilt is 0.104 behind merged at S", 1),
    ],
)
def test_figures_of_a_page_are_held_to_the_results(tmp_path, said, complaints):
    assert len(list(script.wrong_figures(said, written(tmp_path)))) == complaints


def test_results_are_taken_and_the_pages_that_speak_of_them_made_again(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    lines = [against("quilt", "S", matching, -0.03, -0.01) for matching in ("flops", "parameters")]
    judged(tmp_path / "out", lines)
    folder, page, readme = tmp_path / "docs" / "mine", tmp_path / "docs" / "results.md", tmp_path / "README.md"
    folder.mkdir(parents=True)
    page.write_text("By hand.\n<!-- mine: made -->\nold\n<!-- mine: end -->\nBy hand, too.\n")
    readme.write_text("| row |\n| mine | old |\n| study | another's |\n")
    assert script.main([str(folder), "--take", str(tmp_path / "out")]) == 0
    assert "| merged | 2.405 | 2.050 |" in page.read_text()
    assert "(mine/difference-to-the-best.svg)" in page.read_text()
    assert "old" not in page.read_text() + readme.read_text()
    assert page.read_text().startswith("By hand.\n<!-- mine: made -->\n| test")
    assert page.read_text().endswith("\n<!-- mine: end -->\nBy hand, too.\n")
    assert "S -0.020 (-0.030 to -0.010; merged): ahead" in readme.read_text()
    assert "12 of 12 runs done, [report](docs/mine/report.md)" in readme.read_text()
    assert "| study | another's |" in readme.read_text()
    assert script.main([str(folder), "--check"]) == 0
    page.write_text(page.read_text().replace("2.405", "2.404"))
    assert script.main([str(folder), "--check"]) == 1
    assert "does not say what results.json gives" in capsys.readouterr().err


def test_studies_of_other_texts_are_joined_and_told_apart(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    lines = [against("quilt", "S", matching, -0.03, -0.01) for matching in ("flops", "parameters")]
    judged(tmp_path / "out", lines)
    text = corpus(tmp_path / "out")
    russian = [row | {"corpus": "russian"} for row in all_rows() if row["size"] == "S" and row["model"] != "byte"]
    behind = {"differences": [against("quilt", "S", "flops", 0.01, 0.03)], "fits": []}
    (tmp_path / "ru").mkdir()
    table.write(study(corpus="russian"), russian, tmp_path / "ru", "a box", text, (), behind)
    folder, page = tmp_path / "docs" / "mine", tmp_path / "docs" / "results.md"
    folder.mkdir(parents=True)
    page.write_text("<!-- mine: made -->\n<!-- mine: end -->\n")
    readme = tmp_path / "README.md"
    readme.write_text("| mine | old |\n")
    assert script.main([str(folder), "--take", str(tmp_path / "out"), str(tmp_path / "ru")]) == 0
    english, _, other = page.read_text().partition("### The same question asked on Russian text")
    assert "ahead" in english
    assert "behind" not in english.split("Runs done")[0]
    assert "by the rule" in other
    assert "| behind" in other
    assert "| byte |" not in other
    both = table.read(folder)
    assert {row["corpus"] for row in both["rows"]} == {"english", "russian"}
    assert [line["corpus"] for line in both["differences"]] == ["english", "english", "russian"]
    assert markdown(script.of_corpus(both)) == (folder / "report.md").read_text()
    assert script.of_corpus(both, "russian")["rows"] == russian
    row = "; Russian text, quilt: S +0.020 (+0.010 to +0.030; merged): behind, so far | `bytequilt"
    assert row in readme.read_text()
    assert script.main([str(folder), "--check"]) == 0
    assert script.main([str(folder), "--take", str(tmp_path / "out"), str(tmp_path / "out")]) == 2
    assert "two studies to publish have the corpus english" in capsys.readouterr().err


def test_published_bits_are_what_intervals_are_computed_from(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    random, out, folder = np.random.default_rng(0), tmp_path / "out", tmp_path / "docs" / "mine"
    rows = [row(model, "S", 2.0, seed=seed, corpus="english") for model in ("quilt", "merged") for seed in (0, 1)]
    bits = {Run.of(own).name: random.normal(20.0, 1.0, 9).tolist() for own in rows}
    for name, own in (bits | {"bytes": list(range(10, 19))}).items():
        write_json(out / "documents" / f"{name}.json", own)
    given = study()
    known = evidence(rows, lambda own: bits[Run.of(own).name], range(10, 19), given.counts, given.blts)
    table.write(given, rows, out, "a box", corpus(out), (), known)
    assert script.main([str(folder), "--take", str(out)]) == 0
    assert script.main([str(folder), "--check"]) == 0
    results = table.read(folder)
    results["differences"][0]["low"] -= 0.001
    write_json(folder / "results.json", results, indent=1)
    assert script.main([str(folder), "--check"]) == 1
    assert "the intervals of english are not those of documents.json.xz" in capsys.readouterr().err


def test_plots_of_another_matplotlib_are_taken_as_they_are(tmp_path):
    path, text = tmp_path / "plot.svg", "<dc:title>Matplotlib v3.9.0, https</dc:title>"
    path.write_text(text.replace("9.0", "8.1") + "other letters")
    assert not script.differs(path, text)
    path.write_text(text + "other letters")
    assert script.differs(path, text)


@pytest.mark.parametrize(
    "folder", [path.parent for path in ROOT.glob("docs/*/results.json")], ids=lambda path: path.name
)
def test_published_report_is_what_its_results_give(folder, capsys):
    pytest.importorskip("matplotlib")
    assert script.main([str(folder), "--check"]) == 0, capsys.readouterr().err
