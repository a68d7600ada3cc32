"""Studies: their plan, their budgets, their runs, and what they refuse."""

import itertools
import json
import math
import threading
from contextlib import nullcontext

import pyarrow.parquet as pq
import pytest
import torch
from conftest import blt, patcher
from hypothesis import given
from hypothesis import strategies as st

from bytequilt import UserError
from bytequilt.baselines.baseline import Baseline, build
from bytequilt.baselines.vocabulary import Bytes
from bytequilt.cli import main
from bytequilt.codec import OFFSET, encode
from bytequilt.config import BaselineConfig, recipe_path
from bytequilt.data.shards import shard_paths
from bytequilt.lm import LM, load_any
from bytequilt.model.blt import BLT as Network
from bytequilt.model.flops import flops_per_byte
from bytequilt.model.ngram import NgramEntropy
from bytequilt.study.budget import count_batches, entropy_cost, mean_flops, table_cost, training_flops
from bytequilt.study.compare import compare, entropy_seconds, results_of, train
from bytequilt.study.corpus import prepared
from bytequilt.study.jobs import results_in
from bytequilt.study.lead import _uncharged
from bytequilt.study.models import count_parameters, leak, sized, untrained
from bytequilt.study.recipe import Rate, Study, load_study, merged
from bytequilt.study.search import Run, held_out_bpb, learning_rate, planned, tries
from bytequilt.study.trial import Trial
from bytequilt.train import loop, metrics
from bytequilt.train.loop import Interrupted

STUDIES = recipe_path("evidence", "recipes/studies").parent

STACK = {"dim": 16, "layers": 1, "heads": 2, "ffn_dim": 24, "window": 32}
BLT = {
    "encoder": STACK,
    "latent": STACK | {"dim": 24},
    "decoder": STACK,
    "hash": {"rows": 64},
    "cross_heads": 2,
}
ENTROPY = {"dim": 8, "layers": 1, "heads": 2, "ffn_dim": 16, "window": 8}
TRAIN = {"rows": 2, "row_bytes": 128, "warmup": 2, "eval_bytes": 1500, "precision": "fp32", "device": "cpu"}
SENTENCES = ["The cat sat on the mat.", "A dog ran to the red house!", "Why did they sing all day?", "Rain fell."]


@pytest.fixture
def texts(tmp_path):
    """Documents to train on and to hold out, of a few sentences, each with a number of its own."""
    for name, numbers in (("train", range(120)), ("val", range(900, 912)), ("test", range(800, 810))):
        chosen = [" ".join(SENTENCES[(n * k + k) % 4] for k in range(1, 9)) + f" {n * n}" for n in numbers]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in chosen))
    return tmp_path


def study(texts, **changes) -> Study:
    fields = {
        "data": {"train": [str(texts / "train.jsonl")], "val": [str(texts / "val.jsonl")]},
        "test": [str(texts / "test.jsonl")],
        "entropy": ENTROPY,
        "entropy_train": TRAIN | {"steps": 3},
        "train": TRAIN,
        "sweep": {"lr": [1e-4, 1e-2], "share": 0.5},
        "budgets": {"S": {"bytes": 3000}, "L": {"flops": 1.5e8, "seeds": [0, 1]}},
        "ladders": {
            "blt": {"S": BLT, "L": BLT},
            "plain": {"S": {"stack": STACK}, "L": {"stack": STACK | {"layers": 2}}},
        },
        "models": {
            "entropy": {"ladder": "blt", "patching": {"target_bytes": 4.0}},
            "space": {"ladder": "blt", "patching": {"kind": "space"}, "lr_of": "entropy", "sizes": ["S"]},
            "byte": {"ladder": "plain", "lr": 1e-2, "sizes": ["S"]},
            "bpe": {"ladder": "plain", "vocabulary": 270, "train": {"row_bytes": 64}},
        },
    }
    return Study.model_validate(merged(fields, changes))


def do_all(chosen, folder, corpus) -> list[dict]:
    train(chosen, folder, corpus)
    return done(chosen, folder, corpus)


def done(chosen, folder, corpus) -> list[dict]:
    return results_of(chosen, folder, corpus)[0]


def only(chosen: Study, *names: str) -> Study:
    """The study of these models alone."""
    return chosen.model_copy(update={"models": {name: chosen.models[name] for name in names}})


def byte_model(**change) -> Baseline:
    config = BaselineConfig(stack=STACK | change)
    return Baseline(build(config), Bytes(), config)


# -------------------------------------------------------------------------------------------------------------- plan


def test_the_tries_of_a_size_come_first_and_then_its_models(texts):
    names = [run.name for run in planned(study(texts), {}.get)]
    assert names[:4] == [f"{model}-S-seed0-lr{lr}x1" for model in ("entropy", "bpe") for lr in ("0.01", "0.0001")]
    assert names[4:8] == ["entropy-S-seed0", "space-S-seed0", "byte-S-seed0", "bpe-S-seed0"]
    assert names[8:] == ["entropy-L-seed0", "bpe-L-seed0", "entropy-L-seed1", "bpe-L-seed1"]


def test_a_larger_size_is_tried_after_the_smaller_one_has_run(texts):
    again = study(texts, sweep={"lr": [1e-4, 1e-2], "share": 0.5, "again": ["L"]})
    names = [run.name for run in planned(again, lambda run: run.rate and run.rate.lr)]
    last = max(at for at, name in enumerate(names) if "-S-" in name)
    assert all("-L-" in name for name in names[last + 1 :])
    assert [name for name in names[last + 1 :] if "lr" in name] == names[last + 1 : last + 5]


GRID = {"lr": [1.0, 2.0, 4.0, 8.0], "hash_lr_factor": [1.0, 2.0, 4.0]}
RATES = [Rate(*rate) for rate in itertools.product(*GRID.values())]


@given(st.lists(st.integers(0, 9), min_size=len(RATES), max_size=len(RATES)), st.randoms())
def test_a_search_ends_where_no_neighbour_is_better_in_whatever_order_tries_are_done(heights, random):
    searched = Study.model_validate(
        {
            "data": {"train": ["text"]},
            "train": TRAIN,
            "sweep": GRID,
            "budgets": {"S": {"bytes": 1000}},
            "ladders": {"plain": {"S": {"stack": STACK}}},
            "models": {"byte": {"ladder": "plain"}},
        }
    )
    bpb = {Run("byte", "S", 0, rate): height or math.inf for rate, height in zip(RATES, heights, strict=True)}

    def end(one_at_a_time: bool) -> tuple[list[Run], Run]:
        known: dict[Run, float] = {}
        while True:
            asked, best = tries(searched, "byte", known.get)
            if best is not None:
                return asked, best
            new = [run for run in asked if run not in known]
            known |= {run: bpb[run] for run in ([random.choice(new)] if one_at_a_time else new)}

    asked, best = end(one_at_a_time=True)
    assert (asked, best) == end(one_at_a_time=False)
    assert asked[0].rate == (4.0, 2.0)
    for run in bpb:
        near = sorted(max(a / b, b / a) for a, b in zip(run.rate, best.rate, strict=True))
        if near in ([1.0, 1.0], [1.0, 2.0]):
            assert run in asked
            assert bpb[run] >= bpb[best]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": {"byte": {"ladder": "none", "lr": 1e-2}}}, "ladder none"),
        ({"models": {"byte": {"lr": None, "lr_of": "nobody"}}}, "nobody"),
        ({"models": {"byte": {"sizes": ["XL"]}}}, "XL"),
        ({"models": {"byte": {"patching": {"kind": "space"}, "vocabulary": 300}}}, "vocabulary"),
        ({"budgets": {"S": {"bytes": 1e4, "flops": 1e9}}}, "one of flops"),
        ({"train": {"steps": 5}}, "steps"),
        ({"train": {"row": 5}}, "row"),
        ({"sweep": None}, "no learning rate"),
        ({"models": {"byte": {"lr": None, "lr_of": "byte"}}}, "takes another's"),
        ({"models": {"byte": {"lr": None, "lr_of": "space"}}}, "takes another's"),
        (
            {"models": {"byte": {"sizes": []}}, "ladders": {"plain": {"S": None, "L": None, "s": {"stack": STACK}}}},
            "dict",
        ),
        ({"models": {"bpe": {"hash_lr_factor": 2.0}}}, "give that, too"),
        ({"models": {"bpe": {"vocabulary": 256}}}, "greater than 256"),
        ({"ladders": {"plain": {"S": {"stack": STACK | {"dim": 15}}}}}, "even multiple"),
    ],
)
def test_a_study_that_does_not_fit_together_is_told(texts, change, said):
    with pytest.raises(ValueError, match=said):
        study(texts, **change)


def test_fields_are_changed_section_by_section():
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 5}, "d": {"e": 1}}) == {
        "a": {"b": 5, "c": 2},
        "d": {"e": 1},
    }


# -------------------------------------------------------------------------------------------------------------- runs


def test_a_study_is_run_and_runs_are_not_done_again(texts, tmp_path):
    chosen, folder = study(texts), tmp_path / "results"
    rows = do_all(chosen, folder, corpus := prepared(chosen, folder))
    bpb = held_out_bpb(rows)
    assert [row["model"] for row in rows] == [run.model for run in planned(chosen, bpb)]
    by_name = {f"{row['model']}-{row['size']}": row for row in rows if not row["search"]}
    for name in ("entropy", "bpe"):
        tried = {run.rate: bpb(run) for run in tries(chosen, name, bpb)[0]}
        rate = learning_rate(chosen, name, bpb)
        assert rate == min(tried, key=lambda rate: tried[rate])
        assert {row["lr"] for row in rows if row["model"] == name and not row["search"]} == {rate.lr}
    assert by_name["space-S"]["lr"] == by_name["entropy-S"]["lr"]
    for row in rows:
        assert row["trained_bytes"] == metrics.read(_home(folder, row) / "metrics.jsonl")[-1]["bytes"]
        wanted, spent = ("flops", "train_flops") if row["size"] == "L" else ("bytes", "trained_bytes")
        assert row[spent] == pytest.approx(row["budget"][wanted], rel=0.08)  # a step is a twelfth of a budget here
    for row in by_name.values():  # what is reported is what the saved model scores
        scores = load_any(str(_home(folder, row) / "model")).score_documents(corpus.test)
        assert row["test_bpb"] == pytest.approx(sum(s.bits for s in scores) / sum(s.bytes for s in scores), rel=1e-6)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
    assert do_all(chosen, folder, prepared(chosen, folder)) == rows
    assert all(
        path.stat().st_mtime_ns == at for path, at in before.items() if path.name in ("result.json", "metrics.jsonl")
    )


def _home(folder, row):
    return folder / "runs" / Run.of(row).name


def test_a_run_that_was_interrupted_is_the_same_in_the_end(texts, tmp_path, monkeypatch):
    chosen = study(texts, models={"entropy": {"sizes": ["S"]}, "bpe": {"sizes": ["S"]}})
    whole = do_all(chosen, tmp_path / "whole", prepared(chosen, tmp_path / "whole"))
    asked = itertools.count(1)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "stop_requested", lambda: nullcontext(lambda: next(asked) % 9 == 0))
        for _ in range(200):
            try:
                corpus = prepared(chosen, tmp_path / "parts")
                rows = do_all(chosen, tmp_path / "parts", corpus)
                break
            except Interrupted:
                continue
    assert next(asked) > 40
    timed = {"seconds", "threads"}
    assert [{k: v for k, v in row.items() if k not in timed} for row in rows] == [
        {k: v for k, v in row.items() if k not in timed} for row in whole
    ]


def test_two_workers_share_the_runs(texts, tmp_path, monkeypatch):
    chosen, folder = study(texts, models={"entropy": {"sizes": ["S"]}, "bpe": {"sizes": ["S"]}}), tmp_path / "results"
    did, rows, run = [], [], Trial.run

    def noted(self):
        did.append(self.name)
        return run(self)

    def work():
        corpus = prepared(chosen, folder)
        train(chosen, folder, corpus, wait=0.05)
        rows.append(done(chosen, folder, corpus))

    monkeypatch.setattr(Trial, "run", noted)
    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(did) == sorted(run.name for run in planned(chosen, held_out_bpb(rows[0])))
    assert rows[0] == rows[1]


# ----------------------------------------------------------------------------------------------------- what they refuse


def test_a_budget_below_one_step_is_told(texts, tmp_path):
    chosen = study(texts, budgets={"S": {"bytes": None, "flops": 1e4}})
    with pytest.raises(UserError, match=r"entropy-S-seed0-lr0.01x1: a budget of 5e\+03 flops is below one step, \d"):
        do_all(chosen, tmp_path / "results", prepared(chosen, tmp_path / "results"))


def test_results_of_another_corpus_are_told(texts, tmp_path):
    chosen, folder = study(texts), tmp_path / "results"
    prepared(chosen, folder)
    other = study(texts, test=[str(texts / "val.jsonl")])
    with pytest.raises(UserError, match="another corpus"):
        prepared(other, folder)


def test_results_of_another_recipe_are_told(texts, tmp_path):
    small, folder = {"models": {"entropy": {"sizes": ["S"]}, "bpe": {"sizes": ["S"]}}}, tmp_path / "results"
    chosen = study(texts, **small)
    rows = do_all(chosen, folder, corpus := prepared(chosen, folder))
    fewer = study(texts, **small, sweep={"lr": [1e-2]})  # other runs of the same kind are welcome
    assert len(done(fewer, folder, corpus)) == len(rows) - 2
    other = study(texts, **small, ladders={"plain": {"S": {"stack": {"layers": 3}}}})
    with pytest.raises(UserError, match="is of another recipe"):
        do_all(other, folder, corpus)


def test_results_of_another_learning_rate_are_told(texts, tmp_path):
    """As when the grid is widened, and a rate beyond its old edge wins."""
    chosen, folder = study(texts, models={"byte": {"lr": 1e-3}}), tmp_path / "results"
    chosen = only(chosen, "byte")
    do_all(chosen, folder, corpus := prepared(chosen, folder))
    other = chosen.model_copy(update={"models": {"byte": chosen.models["byte"].model_copy(update={"lr": 2e-3})}})
    with pytest.raises(UserError, match="is of another recipe"):
        done(other, folder, corpus)


def test_an_entropy_model_of_another_recipe_is_told(texts, tmp_path):
    prepared(study(texts), tmp_path / "results")
    with pytest.raises(UserError, match="entropy model of another recipe"):
        prepared(study(texts, entropy={"layers": 2}), tmp_path / "results")


def test_a_threshold_is_calibrated_anew_for_another_aim(texts, tmp_path):
    chosen, folder = study(texts), tmp_path / "results"
    corpus = prepared(chosen, folder)
    other = study(texts, models={"entropy": {"patching": {"target_bytes": 3.0}}})
    first, second = (
        untrained(recipe, folder, corpus, "entropy", "S").patcher.rule.threshold for recipe in (chosen, other)
    )
    assert first > second


def test_a_final_run_that_diverges_is_left_out_and_said(texts, tmp_path, capsys):
    chosen = study(texts, models={"byte": {"lr": 1e30}, "bpe": {"lr": 1e-2, "sizes": ["S"]}})
    chosen = only(chosen, "byte", "bpe")
    rows = do_all(chosen, tmp_path / "results", prepared(chosen, tmp_path / "results"))
    assert [row["model"] for row in rows] == ["bpe"]
    assert "not finite" in capsys.readouterr().err


def test_a_report_alone_trains_nothing(texts, tmp_path):
    with pytest.raises(SystemExit):
        main(["compare", "study", "--out", str(tmp_path / "none"), "--report"])
    assert not (tmp_path / "none").exists()


def test_flops_are_the_mean_over_contexts_by_their_bytes():
    model = byte_model(window=None)
    mean = mean_flops(model, 1.0, [64.0, 960.0])
    assert mean["total"] == pytest.approx(sum(model.flops(1.0, n)["total"] * n for n in (64, 960)) / 1024)
    assert mean["head"] == model.flops(1.0, 64)["head"]


def test_a_try_that_diverges_is_not_chosen(texts, tmp_path):
    chosen = study(texts, models={name: {"sizes": ["S"]} for name in ("entropy", "bpe")}, sweep={"lr": [1e-2, 1e30]})
    rows = do_all(chosen, folder := tmp_path / "results", prepared(chosen, tmp_path / "results"))
    name = Run("bpe", "S", 0, Rate(1e30, 1.0)).name
    assert results_in(folder)[folder / "runs" / name]["val_bpb"] is None
    assert learning_rate(chosen, "bpe", held_out_bpb(rows)) == (1e-2, 1.0)


def test_models_of_different_splits_are_not_compared(texts, tmp_path):
    chosen, folder = study(texts, models={"entropy": {"sizes": ["S"]}, "bpe": {"sizes": ["S"]}}), tmp_path / "results"
    do_all(chosen, folder, corpus := prepared(chosen, folder))
    path = folder / "runs" / "byte-S-seed0" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"split": "another"}))
    with pytest.raises(UserError, match="another split"):
        done(chosen, folder, corpus)


def test_held_out_text_that_stands_in_the_training_text_is_measured(texts, tmp_path, capsys):
    line = "A line that is long enough not to be the same by chance, and stands in both of the texts."
    for name in ("train", "val"):
        with (texts / f"{name}.jsonl").open("a") as file:
            file.write(json.dumps({"text": f"{line}\nshort"}) + "\n")
    chosen = study(texts)
    corpus = prepared(chosen, tmp_path / "results")
    held = corpus.val + corpus.test
    lines = [one for text in held for one in text.split(b"\n") if len(one) >= 60]
    train = b"\n".join(corpus.sample(10**9)).split(b"\n")
    assert corpus.overlap == sum(len(one) for one in lines if one in train) / sum(map(len, held)) > 0
    assert "stands in the training text" in capsys.readouterr().err


def test_a_tokenizer_that_is_missing_is_told_with_where_to_get_it(texts, tmp_path):
    chosen = study(texts, models={"bpe": {"tokenizer": str(tmp_path / "tokenizer.model")}})
    with pytest.raises(UserError, match="llama-models"):
        do_all(chosen, tmp_path / "results", prepared(chosen, tmp_path / "results"))


# -------------------------------------------------------------------------------------------------- what models cost


class Seer(torch.nn.Module):
    """Predicts a byte by looking at it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, ids_BN):
        return torch.nn.functional.one_hot(ids_BN.roll(-1, 1), 260).float()


def test_a_model_that_sees_the_future_is_found():
    model = byte_model()
    assert leak(model, b"The cat sat on the mat." * 9) < 1e-5
    assert leak(model, b"") == leak(model, b"A") == 0
    model.network = Seer()
    with pytest.raises(UserError, match="sees the future"):
        leak(model, b"The cat sat on the mat." * 9)


@pytest.mark.parametrize("kind", ["entropy", "space", "fixed"])
def test_patches_do_not_see_the_future(kind):
    model = LM(blt(), patcher(kind))
    assert leak(model, b"The cat sat on the mat. Why did they sing?" * 5) < 1e-3


def test_a_batch_is_measured_as_it_is(texts, tmp_path):
    chosen = study(texts)
    corpus = prepared(chosen, tmp_path / "results")
    config, shards = chosen.training("space"), corpus.shards(chosen.models["space"])
    model = LM(Network(chosen.network("space", "S")), patcher("space"))
    use = count_batches(model, model.batches(shards, config), lambda use: use.batches == 32)
    batches = model.batches(shards, config)
    text = [next(batches).ids_BN for _ in range(32)]
    assert use.bytes == use.ids == sum(int((ids >= OFFSET).sum()) for ids in text)
    assert use.batches == 32
    assert 3 < use.unit_bytes < 7


def test_the_entropy_model_is_read_once_and_the_rest_is_trained():
    assert training_flops({"entropy": 10.0, "encoder": 1.0, "total": 31.0}) == 3 * 21 + 10
    assert training_flops({"body": 1.0, "head": 2.0, "total": 3.0}) == 9


def test_a_budget_of_time_is_met_by_the_speed_that_is_measured(texts, tmp_path):
    chosen = study(texts, budgets={"S": {"bytes": None, "seconds": 1.0}}, models={"byte": {"sizes": ["S"]}})
    chosen = only(chosen, "byte")
    (row,) = do_all(chosen, tmp_path / "results", prepared(chosen, tmp_path / "results"))
    path = tmp_path / "results" / "runs" / "byte-S-seed0" / "steps.json"
    assert row["steps"] == json.loads(path.read_text())["steps"] > 5


def test_shipped_studies_are_in_order():
    assert set(load_study("study").budgets) == {"S", "M", "L"}
    assert all(load_study(path.stem).models for path in STUDIES.glob("*.toml"))


def test_patches_of_8_bytes_pay_for_a_larger_latent_transformer():
    chosen = load_study("evidence")
    for size in chosen.sizes("blt-entropy-8"):
        short, long = (
            flops_per_byte(chosen.network(model, size), chosen.entropy, unit, 1024)["total"]
            for model, unit in (("blt-entropy", 4.5), ("blt-entropy-8", 8.0))
        )
        assert long == pytest.approx(short, rel=0.02)


def test_the_verb_writes_its_results(texts, tmp_path, capsys):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        f"""
        data = {{ train = ["{texts}/train.jsonl"], val = ["{texts}/val.jsonl"] }}
        train = {{ rows = 2, row_bytes = 128, warmup = 2, eval_bytes = 1000 }}
        budgets = {{ S = {{ bytes = 2000 }} }}
        [ladders]
        plain = {{ S = {{ stack = {{ dim = 16, layers = 1, heads = 2 }} }} }}
        [models]
        byte = {{ ladder = "plain", lr = 1e-2 }}
        bpe = {{ ladder = "plain", lr = 1e-2, vocabulary = 260, train = {{ row_bytes = 64 }} }}
        """
    )
    main(["compare", str(recipe), "--out", str(tmp_path / "out"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in found["rows"]] == ["byte", "bpe"]
    for name in ("report.md", "results.csv", "results.json"):
        assert (tmp_path / "out" / name).is_file()
    main(["compare", str(recipe), "--out", str(tmp_path / "out"), "--report"])
    assert "bpe" in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------------------- evidence

HASHED = {"stack": STACK, "hash": {"sizes": [2, 3], "rows": 50}}
NGRAMS = {"ladder": "hashed", "vocabulary": 270, "train": {"row_bytes": 64}, "lr": 1e-2}


def with_evidence(texts, **changes) -> Study:
    """Two seeds of BLTs and baselines with n-grams, and models that count."""
    fields = {
        "budgets": {"S": {"flops": 3e7, "seeds": [0, 1]}},
        "ladders": {"hashed": {"S": HASHED}},
        "warmup_share": 0.25,
        "counts": {
            "kn3": {"kind": "kneser-ney", "order": 3, "text_of": "quilt"},
            "token-2gram": {"kind": "kneser-ney", "order": 2, "vocabulary": 270, "text_of": "quilt"},
        },
    }
    chosen = study(texts).model_dump(exclude={"models", "budgets", "ladders"}, exclude_none=True)
    ladders = {"blt": {"S": BLT}, **fields["ladders"]}
    models = {
        "quilt": {"ladder": "blt", "patching": {"kind": "space"}, "lr": 1e-2},
        "frozen": {"ladder": "blt", "patching": {"kind": "space"}, "lr": 1e-2, "frozen_tables": True, "stage": 2},
        "bpe+ngrams": NGRAMS | {"parameters": {"S": 20_000}},
    }
    return Study.model_validate(merged(chosen | fields | {"ladders": ladders, "models": models}, changes))


def test_models_that_need_entropies_are_charged_with_the_time_of_computing_them(texts, tmp_path):
    chosen = study(texts)
    corpus = prepared(chosen, tmp_path)
    per_byte = corpus.seconds(corpus.entropy)
    assert per_byte > 0
    again = prepared(chosen, tmp_path)
    assert again.seconds(again.entropy) == per_byte  # measured once
    for model, charged in (("entropy", True), ("space", False), ("bpe", False)):
        cost = entropy_seconds({"model": model, "trained_bytes": 1000}, chosen, corpus)
        assert cost == ({"entropy_seconds": 1000 * per_byte} if charged else {})
    assert prepared(with_evidence(texts), tmp_path / "without").entropy is None


def test_a_study_ends_in_intervals_and_models_that_count_are_rows(texts, tmp_path):
    chosen, folder = with_evidence(texts), tmp_path / "out"
    results = compare(chosen, folder)
    rows = {(row["model"], row["seed"]): row for row in results["rows"]}
    assert {name for name, _ in rows} == {*chosen.models, *chosen.counts}
    assert {row["corpus"] for row in rows.values()} == {"english"}
    assert rows["bpe+ngrams", 0]["matching"] == "parameters"
    assert rows["bpe+ngrams", 0]["parameters"] == pytest.approx(20_000, rel=0.02)
    assert rows["kn3", 0]["trained_bytes"] <= rows["quilt", 0]["trained_bytes"] + 1
    for (name, seed), row in rows.items():
        bits = json.loads((folder / "documents" / f"{name}-S-seed{seed}.json").read_text())
        assert sum(bits) / row["test_bytes"] == pytest.approx(row["test_bpb"], rel=1e-5)
    (line,) = [line for line in results["differences"] if line["model"] == "quilt" and line["against"] == "bpe+ngrams"]
    assert line["matching"] == "flops"
    assert line["low"] < line["difference"] < line["high"]
    assert "95 %" in (folder / "report.md").read_text()
    assert compare(chosen, folder) == results  # nothing is done again


def test_frozen_tables_stay_as_they_were_drawn(texts, tmp_path):
    chosen, folder = only(with_evidence(texts), "frozen").model_copy(update={"counts": {}}), tmp_path / "out"
    corpus = prepared(chosen, folder)
    do_all(chosen, folder, corpus)
    torch.manual_seed(0)
    drawn = untrained(chosen, folder, corpus, "frozen", "S").network
    there = load_any(folder / "runs" / "frozen-S-seed0" / "model").network
    assert torch.equal(drawn.encoder.hash.weight, there.encoder.hash.weight)
    assert not torch.equal(drawn.encoder.embed.weight, there.encoder.embed.weight)


def test_parameters_that_tables_cannot_reach_are_refused(texts, tmp_path):
    chosen = with_evidence(texts, models={"bpe+ngrams": {"parameters": {"S": 5_000}}})
    corpus = prepared(chosen, tmp_path / "out")
    with pytest.raises(UserError, match="cannot be met"):
        untrained(chosen, tmp_path / "out", corpus, "bpe+ngrams", "S")


def test_a_charged_entropy_model_takes_from_the_budget(texts, tmp_path):
    patched = {"ladder": "blt", "patching": {"target_bytes": 4.0}, "lr": 1e-2}
    models = {"free": patched, "charged": patched | {"charge_entropy": True}}
    models |= {"table": models["charged"] | {"ngram_patcher": True}}
    chosen = with_evidence(texts, budgets={"S": {"flops": 1e12, "seeds": [0]}}, models=models)
    chosen = only(chosen, *models).model_copy(update={"counts": {}})
    budgets = [
        Trial(
            chosen, tmp_path / "out" / "runs" / name, prepared(chosen, tmp_path / "out"), Run(name, "S", 0), None
        ).budget(None, None)
        for name in models
    ]
    assert budgets[0].amount - budgets[1].amount == entropy_cost(chosen)
    assert budgets[1].amount - budgets[2].amount == table_cost(chosen) > 0
    assert budgets[2].amount > 0


def test_an_ngram_table_patches_in_place_of_the_entropy_model(texts, tmp_path):
    patched = {"ladder": "blt", "patching": {"target_bytes": 4.0}, "lr": 1e-2}
    models = {"full": patched, "table": patched | {"ngram_patcher": True}}
    chosen = with_evidence(texts, budgets={"S": {"flops": 3e7, "seeds": [0]}}, models=models)
    chosen, folder = only(chosen, *models).model_copy(update={"counts": {}}), tmp_path / "out"
    rows = {row["model"]: row for row in compare(chosen, folder)["rows"]}
    assert rows["full"]["flops_per_byte"]["entropy"] > 0 == rows["table"]["flops_per_byte"]["entropy"]
    assert rows["table"]["mean_patch_bytes"] == pytest.approx(4.0, rel=0.1)
    assert rows["table"]["entropy_seconds"] > 0
    trained = load_any(folder / "runs" / "table-S-seed0" / "model")
    assert isinstance(trained.patcher.model, NgramEntropy)

    corpus = prepared(chosen, folder)  # it is read, not made again
    assert corpus.table.model.state_dict().keys() == trained.patcher.model.state_dict().keys()
    for name, table in corpus.table.model.state_dict().items():
        assert torch.equal(table, trained.patcher.model.state_dict()[name])
    text = corpus.sample()[0]
    ids = torch.from_numpy(encode(text, eos=True))
    written = next(values for data, values in scored_documents(corpus.shards(chosen.models["table"])) if data == text)
    assert torch.equal(torch.tensor(written), corpus.table.model.nats(ids[None])[0])


def test_an_ngram_patcher_needs_patches_by_entropy(texts):
    with pytest.raises(ValueError, match="quilt has `ngram_patcher`, but its patches need no entropies"):
        with_evidence(texts, models={"quilt": {"ngram_patcher": True}})


def scored_documents(shards):
    """The documents of scored shards with their entropies."""
    for path in shard_paths(shards):
        table = pq.read_table(path)
        yield from zip(table["data"].to_pylist(), table["entropies"].to_pylist(), strict=True)


def test_a_search_goes_on_at_a_larger_size_from_where_it_ended(texts):
    chosen = study(texts, sweep={"again": ["L"]})
    assert chosen.searched_sizes("bpe") == ("S", "L")
    small = {Run("bpe", "S", 0, Rate(lr, 1.0)): bpb for lr, bpb in ((1e-2, 3.0), (1e-4, 2.0))}
    assert tries(chosen, "bpe", {}.get, "L") == ([], None)
    asked, _ = tries(chosen, "bpe", small.get, "L")
    assert asked[0] == Run("bpe", "L", 0, Rate(1e-4, 1.0))
    large = {Run("bpe", "L", 0, Rate(lr, 1.0)): bpb for lr, bpb in ((1e-2, 1.0), (1e-4, 2.0))}
    assert learning_rate(chosen, "bpe", (small | large).get, "S") == (1e-4, 1.0)
    assert learning_rate(chosen, "bpe", (small | large).get, "L") == (1e-2, 1.0)


def test_a_search_at_a_larger_size_looks_into_a_second_valley(texts):
    chosen = study(texts, sweep={"lr": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], "again": ["L"]})
    small = dict.fromkeys(range(1, 8), 2.0) | {5: 1.9, 6: 1.8, 7: 1.7}
    large = {1: 2.0, 2: 1.5, 3: 1.6, 4: 1.7, 5: 1.8, 6: 1.7, 7: 1.6}
    bpb = {Run("bpe", "S", 0, Rate(float(lr), 1.0)): value for lr, value in small.items()}
    bpb |= {Run("bpe", "L", 0, Rate(float(lr), 1.0)): value for lr, value in large.items()}
    assert learning_rate(chosen, "bpe", bpb.get, "S") == (7.0, 1.0)
    asked, best = tries(chosen, "bpe", bpb.get, "L")
    assert asked[0].rate == (7.0, 1.0)
    assert best == Run("bpe", "L", 0, Rate(2.0, 1.0))


def test_stages_come_one_after_another(texts):
    stages = [run.model for run in planned(with_evidence(texts), {}.get)]
    assert stages == ["quilt", "bpe+ngrams"] * 2 + ["frozen"] * 2


@pytest.mark.parametrize("name", [path.stem for path in STUDIES.glob("evidence*.toml")])
def test_totals_of_the_shipped_studies_can_be_met(name):
    chosen = load_study(name)
    for model, contender in chosen.models.items():
        for size, total in contender.parameters.items():
            config = chosen.network(model, size)
            make = build if isinstance(config, BaselineConfig) else Network
            if contender.vocabulary:
                config = config.model_copy(update={"vocabulary": contender.vocabulary + OFFSET})
            with torch.device("meta"):
                assert count_parameters(make(sized(config, make, total))) == pytest.approx(total, rel=0.02)


def test_a_study_whose_entropy_model_is_given_has_no_cost_of_its_training(texts):
    chosen = with_evidence(texts, models={"quilt": {"patching": {"kind": "entropy", "target_bytes": 4.0}}})
    given = chosen.model_copy(update={"entropy_train": None, "entropy_init": "tiny"})
    line = {"model": "quilt", "against": "bpe+ngrams", "size": "S", "matching": "flops", "best": True, "low": 0.0}
    assert _uncharged(given, {"rows": [], "differences": [line]}) == []
