"""What a study comes to: its files, its plots, and sentences that are true of its numbers."""

import csv
import importlib.util
import sys
from pathlib import Path

import pytest

from bytequilt.config import UserError
from bytequilt.study import choices, plots, table, verdict, words
from bytequilt.study.corpus import Corpus
from bytequilt.study.recipe import Study
from bytequilt.study.report import PLOTS, markdown, pictures, write_report
from bytequilt.study.table import Spread, summary
from bytequilt.study.verdict import Gap

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
    facts = table.corpus_facts(corpus(folder))
    return table.write(given or study(), all_rows() if rows is None else rows, folder, {"machine": "a box"}, facts)


def report(folder: Path, given: Study | None = None, rows: list[dict] | None = None) -> str:
    """The report in one line a paragraph: where lines break is not what it says."""
    return " ".join(markdown(written(folder, given, rows)).split())


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
    found = table.write(
        given, all_rows(), tmp_path, {"machine": "a box"}, table.corpus_facts(corpus(tmp_path)), results
    )
    text = markdown(found)
    assert "| quilt | number | held out | 0.0% | 60.0% | 90.0% | 50.0% |" in text
    assert "| merged | number | held out, and longer | 0.0% | 50.0% | 40.0% | 50.0% |" in text
    assert """`"Yes" and` right | `"Yes" and` wrong |""" in text
    assert "quilt 6 GFLOPs" in " ".join(text.split())
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
    with pytest.raises(UserError, match="no results at"):
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


# ---------------------------------------------------------------------------------------------------------- sentences


def gap(mean: float, reach: float = 0.0) -> Gap:
    return Gap(mean, mean - reach, mean + reach, mean / 2)


@pytest.mark.parametrize(
    ("one", "other", "side"),
    [
        ((2.0,), (2.006,), -1),
        ((2.0,), (2.004,), 0),
        ((2.006,), (2.0,), 1),
        ((2.0, 2.2), (2.15, 2.3), 0),  # ranges meet
        ((2.0, 2.1), (2.15, 2.3), -1),
        ((2.0,), (1.9, 2.3), 0),  # one seed, within the range of the other
    ],
)
def test_ties_are_small_or_within_the_seeds(one, other, side):
    found = Gap.between(Spread.of(one), Spread.of(other))
    assert found.side == side == -Gap.between(Spread.of(other), Spread.of(one)).side


@pytest.mark.parametrize(
    ("gaps", "sentence"),
    [
        ([gap(0.001), gap(-0.002)], "A tie at both ends."),
        ([gap(0.001), gap(-0.1)], "The tie becomes a lead."),
        ([gap(0.001), gap(0.1)], "The tie becomes a deficit."),
        ([gap(-0.1), gap(0.004)], "The lead closes to a tie."),
        ([gap(0.1), gap(0.004)], "The deficit closes to a tie."),
        ([gap(-0.1), gap(0.1)], "The lead turns into a deficit."),
        ([gap(0.1), gap(-0.1)], "The deficit turns into a lead."),
        ([gap(-0.1), gap(-0.104)], "The lead stays about the same."),
        ([gap(0.1, 0.01), gap(0.13, 0.02)], "The deficit stays about the same."),
        ([gap(-0.1), gap(-0.2)], "The lead grows."),
        ([gap(-0.1), gap(-0.05)], "The lead shrinks."),
        ([gap(0.1), gap(0.07), gap(0.05)], "The deficit shrinks."),
        ([gap(0.1), gap(0.07), gap(0.15)], "The deficit grows, if not steadily."),
    ],
)
def test_trends(gaps, sentence):
    assert verdict.trend(gaps) == sentence


def test_winners_are_named_with_their_gaps():
    small, large = verdict.winners(study(), summary(all_rows()))
    assert small.startswith(
        "**S**, 2 TFLOPs of training: merged wins with 2.405 bits per byte, 0.105 bits (4.2%) ahead of quilt."
    )
    assert small.endswith(
        "quilt is ahead of byte by 0.300 bits (10.7%); in a tie with learnt; behind merged by 0.105 bits (4.4%)."
    )
    assert large.startswith(
        "**L**, 20 TFLOPs of training: quilt has the fewest bits per byte, 2.000, in a tie with learnt."
    )
    assert large.endswith(
        "quilt is ahead of byte by 0.200 bits (9.1%) and merged by 0.050 bits (2.4%); in a tie with learnt."
    )
    (alone,) = verdict.winners(study(), summary([row("byte", "S", 2.5)]))
    assert alone == "**S**, 2 TFLOPs of training: byte is alone here, with 2.500 bits per byte."


def test_scale_is_told_of_each_pair_that_has_it():
    rows = [one for one in all_rows() if (one["model"], one["size"]) != ("learnt", "L")]
    assert verdict.trends(study(), summary(rows)) == [
        "- quilt beside byte: 0.300 ahead at S and 0.200 ahead at L. The lead shrinks.",
        "- quilt beside merged: 0.105 behind at S and 0.050 ahead at L. The deficit turns into a lead.",
    ]


def test_costs_and_who_is_on_the_edge():
    rows = [row("quilt", "S", 2.0, seconds=90.0), row("byte", "S", 2.1, seconds=30.0)]
    assert verdict.costs(study(), summary(rows)) == [
        "- S: Cheapest to run: quilt, 400 kFLOPs a byte, which is the best, too. Fastest to train: byte, 30 s; the "
        "best, quilt, takes 3.00 times that."
    ]
    assert verdict.frontier(summary(rows)) == ["quilt at S"]
    assert verdict.frontier(summary(all_rows())) == ["learnt at L", "quilt at L"]
    timed = study(budgets={"S": {"seconds": 60}, "L": {"seconds": 90}})
    assert "Fastest" not in verdict.costs(timed, summary(rows))[0]


def test_the_subject_patches_by_entropy_or_patches_at_all():
    models = FIELDS["models"]
    space = {"ladder": "blt", "patching": {"kind": "space"}}
    assert verdict.subject_of(study(models={"space": space} | models)) == "quilt"
    assert verdict.subject_of(study(models=models | {"ablated": models["quilt"]})) == "quilt"
    assert verdict.subject_of(study(models={"byte": {"ladder": "flat"}, "space": space})) == "space"
    flat = study(models={"byte": {"ladder": "flat"}, "learnt": {"ladder": "flat"}})
    assert verdict.subject_of(flat) is None
    rows = [row(model, size, bpb) for model, bpb in (("byte", 2.5), ("learnt", 2.4)) for size in "SL"]
    assert verdict.trends(flat, summary(rows)) == []
    assert verdict.winners(flat, summary(rows))[0].endswith(
        "learnt wins with 2.400 bits per byte, 0.100 bits (4.0%) ahead of byte."
    )


# ----------------------------------------------------------------------------------------------------- learning rates


def test_tries_are_all_shown_and_edges_warned_of():
    said = choices.learning_rates(study(), all_rows())
    assert "with 0.5 of that budget" in said[0]
    assert "from 0.002, with 4 times that" in said[0]
    assert (
        "| quilt | 2 |  | 2.950 |  |\n| quilt | 4 | 2.900 | **2.700** | 2.800 |\n| quilt | 8 |  | 2.950 |  |" in said[1]
    )
    assert "| merged | 4 | 2.900 | 2.800 | **2.700** |" in said[1]
    assert said[2].startswith("**Warning:** the best rate lies at the edge of the grid for merged (0.004, upper).")
    assert said[3] == "Not searched for: byte (as quilt: 0.002) and learnt (given: 0.002)."
    sweep = {"lr": [2e-3], "hash_lr_factor": [1.0, 4.0, 8.0]}
    upper = [row("quilt", "S", bpb, rate=(2e-3, factor)) for factor, bpb in ((1.0, 2.7), (4.0, 2.6), (8.0, 2.5))]
    assert "quilt (x 8, upper)" in choices.learning_rates(study(sweep=sweep), upper)[2]


def test_a_try_that_is_missing_leaves_the_choice_open():
    said = choices.learning_rates(study(), [one for one in all_rows() if one["lr"] != 4e-3])
    assert "| quilt | 4 | 2.900 | 2.700 | missing |" in said[1]
    assert not any("Warning" in one for one in said)


def test_without_a_search_rates_are_given():
    models = {"byte": {"ladder": "flat", "lr": 1e-3}}
    said = choices.learning_rates(study(models=models, sweep=None), [row("byte", "S", 2.5)])
    assert said == ["Not searched for: byte (given: 0.002)."]


# ----------------------------------------------------------------------------------------------------------- reports


def test_report_states_the_choices(tmp_path):
    text = report(tmp_path)
    for said in (
        "4 models trained at equal budgets: **S**, 2 TFLOPs of training, 2 seeds; **L**, 20 TFLOPs of training, 1",
        "At L there are models of one seed: their spread is not known, and small gaps may be chance;",
        "where it is, seeds lie up to 0.040 apart.",
        "Split `abc`. Training text: `away/train.jsonl.xz`, 45 MB.",
        "Test text, which models are compared on: `away/test.jsonl.xz`, 5 kB.",
        "1.23% of the held-out and test bytes stand in the training text",
        "(1 layer of width 32, 2 heads, window 512), trained once on 10 kB at most: some 1.5 GFLOPs, 0.00075 ",
        "times the smallest budget of a model.",
        "Its training: `steps = 100`, `rows = 2`, `row_bytes = 50`. ",
        "tokens: the first 1,000 ranks of `llama3/tokenizer.model`, made by others on other text | 1,004 |",
        "tokens: 512 ranks learnt here, from 12 MB of the training text at most | 516 | `row_bytes = 128` |",
        "bytes in patches, rule `entropy`, 4.5 bytes aimed at | 260 |",
        "| quilt | 1 x 32, 1 x 32, 1 x 32: 123 k (32.9 k) |",
        "| merged | 1 x 32: 123 k (32.1 k) |",
        "| merged | **2.405 (2.400 to 2.410)** | | 1 MB | 4.25 | 2 T | 1 T | 300 k | 280 k | none | 60.5 |",
        "| quilt | 2.510 (2.500 to 2.520) | 0.105 (4.4%) | 1 MB | 4.25 | 2 T | 1 T | 400 k | 380 k | 50 k | 60.5 |",
        "| learnt | 2.003 | 0.003 (0.2%), a tie |",
        "no earlier logit moved at all",
        "All 24 planned runs are done.",
        "Machine: a box. All runs had 1 thread.",
    ):
        assert " ".join(said.split()) in text
    assert "secret" not in text
    assert "Warning:** that is off" not in text


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "0.5 B"), (12, "12 B"), (999_999, "1 MB"), (2.344e12, "2.34 TB"), (3e18, "3e+18 B")]
)
def test_numbers_have_three_digits(value, text):
    assert words.scaled(value, "B") == text


def test_lines_fit_a_screen(tmp_path):
    lines = markdown(written(tmp_path)).splitlines()
    assert all(len(line) <= 120 for line in lines if not line.startswith("|"))


def test_report_says_what_is_missing_or_wrong(tmp_path):
    rows = [one for one in all_rows() if (one["model"], one["size"]) != ("byte", "L")]
    rows[-1] |= {"leak": 2e-6, "threads": 2, "train_flops": 2.2e13}
    text = report(tmp_path, rows=rows)
    assert "**Missing** are 1 of 24 runs: byte-L-seed0." in text
    assert "no earlier logit moved by more than 2e-06 (learnt-L-seed0)" in text
    assert "**Runs had 1 or 2 threads: their seconds do not compare.**" in text
    assert "to 110.0% (learnt-L-seed0) of their budgets. **Warning:** that is off by more than 5%" in text


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
    text = report(tmp_path, given, rows)
    assert (
        "1 model trained at equal budgets: **S**, 1 MB of training text, 1 seed; **L**, 60 seconds of training" in text
    )
    assert "No model patches by entropy" in text
    assert "**There is no test text apart" in text
    assert "rule `fixed`, `stride = 4`" in text
    assert "byte is alone here" in text
    with pytest.raises(UserError, match="no run of the study is done"):
        report(tmp_path, rows=[row("quilt", "S", 2.5, rate=(2e-3, 4.0))])


FIXED = {"kind": "fixed", "stride": 4}


# -------------------------------------------------------------------------------------------------------------- plots


def test_plots_are_the_same_each_time(tmp_path):
    pytest.importorskip("matplotlib")
    for cost in plots.COSTS:
        drawn = [tmp_path / f"{cost}-{number}.svg" for number in range(2)]
        for path in drawn:
            plots.plot(summary(all_rows()), cost, path)
        assert drawn[0].read_bytes() == drawn[1].read_bytes()
        assert b"<svg" in drawn[0].read_bytes()
    plots.plot(summary([row("byte", "S", 2.5)]), "seconds", tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_plots_say_what_they_lack(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"\.png or \.svg"):
        plots.plot(summary(all_rows()), "seconds", tmp_path / "plot.jpg")
    with pytest.raises(UserError, match="nothing to draw"):
        plots.plot({}, "seconds", tmp_path / "plot.svg")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"bytequilt\[plot\]"):
        plots.plot(summary(all_rows()), "seconds", tmp_path / "plot.svg")
    with pytest.raises(UserError, match=r"bytequilt\[plot\]"):
        write_report(study(), all_rows(), tmp_path, corpus(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "results.csv"}


@pytest.mark.parametrize(("low", "high"), [(1e12, 1.1e12), (1.9e12, 2.1e13), (0.4, 90), (3e3, 4e9), (1e9, 1e19)])
def test_axes_have_a_few_labels(low, high):
    matplotlib = pytest.importorskip("matplotlib.figure")
    axes = matplotlib.Figure().subplots()
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    plots._ticks(axes.xaxis, low, high)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert 3 <= len(labels) <= plots.MOST
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
