"""Fine-tuned models learn from the same examples, never from a held-out word, and end alike however often they stop."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blt, blt_config, patcher
from pydantic import ValidationError

from bytequilt.baselines.baseline import Baseline, build
from bytequilt.baselines.vocabulary import BPE, Bytes
from bytequilt.codec import encode
from bytequilt.config import BaselineConfig, UserError
from bytequilt.evals.harness_tasks import lexicon
from bytequilt.evals.words import has_held_out, is_held_out
from bytequilt.lm import LM, load_any
from bytequilt.patching import rules
from bytequilt.study import finetune
from bytequilt.study.examples import Examples, answer_fixed_questions, examples_of
from bytequilt.study.finetune import fine_tunings, trained
from bytequilt.study.jobs import done, results_in, run_all
from bytequilt.study.recipe import Study
from bytequilt.study.tuning import FineTune
from bytequilt.view.curves import accuracy_by_examples

LEXICON = lexicon()
STACK = {"dim": 16, "layers": 1, "heads": 2, "ffn_dim": 24}
TUNING = {
    "models": ["blt", "byte", "bpe"],
    "size": "S",
    "tasks": ["count_char", "order"],
    "examples": [8, 16],
    "rows": 4,
    "lr": [1e-4, 1e-2],
    "tried": 4,
    "items": 2,
}


def study(**change) -> Study:
    return Study.model_validate(
        {
            "data": {"train": ["none"]},
            "entropy_init": "none",
            "train": {"warmup": 2},
            "budgets": {"S": {"bytes": 1.0}},
            "ladders": {"blt": {"S": blt_config().model_dump()}, "transformer": {"S": {"stack": STACK}}},
            "models": {
                "blt": {"ladder": "blt", "patching": {"target_bytes": 4.5}, "lr": 1e-3},
                "byte": {"ladder": "transformer", "lr": 1e-3},
                "bpe": {"ladder": "transformer", "vocabulary": 300, "lr": 1e-3},
            },
            "finetune": TUNING | change,
        }
    )


def tuning(**change) -> FineTune:
    found = study(**change).finetune
    assert found is not None
    return found


def put_models(folder: Path) -> Path:
    """Models with random weights, where training leaves them."""
    LM(blt(), patcher("entropy")).save(folder / "runs" / "blt-S-seed0" / "model")
    for name, vocabulary in {"byte": Bytes(), "bpe": BPE.learn([" ".join(LEXICON.sentences).encode()], 300)}.items():
        torch.manual_seed(0)
        config = BaselineConfig(stack=STACK, vocabulary=vocabulary.size, token_bytes=1.0)
        Baseline(build(config), vocabulary, config).save(folder / "runs" / f"{name}-S-seed0" / "model")
    return folder


def do_all(chosen: Study, folder: Path) -> list[dict]:
    """Fine-tune what is missing; the results of all."""
    done(fine_tunings(chosen, folder, {}), results_in(folder))
    results = run_all(lambda results: fine_tunings(chosen, folder, {}), folder)
    return done(fine_tunings(chosen, folder, {}), results)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A study whose models are all fine-tuned."""
    folder = put_models(tmp_path_factory.mktemp("study"))
    do_all(study(), folder)
    return folder


@pytest.fixture(scope="module")
def results(folder) -> list[dict]:
    return do_all(study(), folder)


# -------------------------------------------------------------------------------------------------------- examples


def test_no_example_has_a_held_out_word_or_number_or_one_that_is_asked_in_the_end():
    for example in examples_of(tuning(tasks=[]), LEXICON, 3000, 0):
        prompt = example["prompt"]
        quoted = re.findall(r'"([^"]+)"', prompt.removesuffix(' Answer: "'))
        assert not any(is_held_out(text) for text in quoted if re.fullmatch("[a-z]{3,}", text))
        assert not any(has_held_out(text) for text in quoted if text[-1] in ".!?")
        assert not any(map(is_held_out, re.findall(r"\d+", prompt)))
        assert not re.search(r"strawberry|\b38[01]\b", prompt + example["text"])
    assert is_held_out("strawberry")


def test_fewer_examples_are_the_first_of_more_and_another_seed_has_others():
    first = examples_of(tuning(), LEXICON, 20, 0)
    assert examples_of(tuning(), LEXICON, 40, 0)[:20] == first
    assert not {e["prompt"] for e in first} & {e["prompt"] for e in examples_of(tuning(), LEXICON, 20, 1)}


def model_of(folder: Path, name: str):
    return trained(folder / "runs" / f"{name}-S-seed0" / "model")


@pytest.mark.parametrize("name", TUNING["models"])
def test_every_model_reads_each_example_once_and_learns_its_answer(folder, name):
    model, examples = model_of(folder, name), examples_of(tuning(), LEXICON, 12, 0)
    batches = list(Examples(model, examples, 4))
    read = [{"text": model_text(model, b.ids_BN), "learnt": model_text(model, b.ids_BN[b.learn_BN])} for b in batches]
    for four, step in zip((examples[0:4], examples[4:8], examples[8:12]), read, strict=True):
        assert step["text"] == "".join(e["prompt"] + e["text"] for e in four)
        assert step["learnt"] == "".join(e["text"] for e in four)
    assert all(int((b.ids_BN[b.learn_BN] == 2).sum()) == 4 for b in batches)  # EOS


def model_text(model, ids) -> str:
    vocabulary = getattr(model, "vocabulary", Bytes())
    return b"".join(vocabulary.text(int(id)) for id in ids.flatten()).decode()


def test_patches_of_examples_in_a_row_are_those_of_each_alone(folder):
    model, examples = model_of(folder, "blt"), examples_of(tuning(), LEXICON, 4, 0)
    alone = []
    for example in examples:
        text = (example["prompt"] + example["text"]).encode()
        ids = torch.from_numpy(encode(text, eos=True))[None]
        [nats] = model.patcher.entropies([text])
        alone.append(rules.closes(model.patcher.rule, ids, torch.from_numpy(nats)[None])[0].numpy())
    np.testing.assert_array_equal(next(Examples(model, examples, 4)).closes_BN[0].numpy(), np.concatenate(alone))


# --------------------------------------------------------------------------------------------------------- results


def test_results_say_what_was_learnt_and_what_it_cost(results):
    assert [r["model"] for r in results] == ["blt", "byte", "bpe"]
    for result in results:
        assert float(min(result["tries"], key=result["tries"].get)) == result["lr"]
        assert [p["examples"] for p in result["points"]] == [0, 8, 16]
        sizes = [len(e["prompt"] + e["text"]) for e in examples_of(tuning(), LEXICON, 16, 0)]
        assert [p["trained_bytes"] for p in result["points"]] == [0, sum(sizes[:8]), sum(sizes)]
        entropy = result["flops_per_byte"].get("entropy", 0.0)
        cost = 3 * result["flops_per_byte"]["total"] - 2 * entropy
        assert result["points"][2]["train_flops"] == pytest.approx(cost * sum(sizes))


def test_answers_to_the_questions_in_everybodys_mouth_are_kept_word_for_word(results, folder):
    for result in results:
        asked = result["points"][-1]["asked"]
        assert [one["prompt"] for one in asked] == [
            'How many "r" are in "strawberry"? Answer: "',
            'Does 380 come before 381? Answer: "',
            'Does 381 come before 380? Answer: "',
        ]
        model = load_any(folder / "finetune" / f"{result['model']}-S-seed0" / "model")
        found = model.generate([one["prompt"] for one in asked], max_bytes=16, temperature=0, stop=["\n"])
        assert [one["answer"] for one in asked] == [one.text for one in found]


def test_an_answer_that_is_right_counts_as_such():
    class Knowing:
        def generate(self, prompts, **_):
            return [type("Text", (), {"text": '3"' if "straw" in prompt else 'Yes"'}) for prompt in prompts]

    assert [one["right"] for one in answer_fixed_questions(Knowing(), ["count_char", "order"])] == [True, True, False]
    assert answer_fixed_questions(Knowing(), ["spell"]) == []


@pytest.mark.parametrize("stops", [(2, 1), (4,)])
def test_what_was_interrupted_ends_as_if_it_had_not_been(stops, results, folder, tmp_path, monkeypatch):
    put_models(tmp_path)
    real = finetune.evaluate
    for calls in stops:
        left = calls

        def evaluate(*args, **options):
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return real(*args, **options)

        monkeypatch.setattr(finetune, "evaluate", evaluate)
        with pytest.raises(KeyboardInterrupt):
            do_all(study(models=["blt"]), tmp_path)
    monkeypatch.setattr(finetune, "evaluate", real)
    assert do_all(study(models=["blt"]), tmp_path) == results[:1]
    first, second = (place / "finetune/blt-S-seed0/model/model.safetensors" for place in (folder, tmp_path))
    assert first.read_bytes() == second.read_bytes()


def test_what_is_done_is_not_done_again(results, folder, monkeypatch):
    monkeypatch.setattr(finetune, "fit", lambda *_: pytest.fail("a model is trained again"))
    assert do_all(study(), folder) == results
    assert results_in(folder)[folder / "finetune" / "blt-S-seed0"] == results[0]


def test_results_of_another_recipe_are_not_taken_for_this_ones(results, folder):
    with pytest.raises(UserError, match="blt-S-seed0 is of another recipe"):
        do_all(study(items=3), folder)


def test_a_rate_that_is_too_high_to_learn_is_not_taken(results, tmp_path, monkeypatch):
    real = finetune.fit

    def fit(task, batches, config, *args):
        if config.lr == 1e-2:
            raise finetune.Diverged
        return real(task, batches, config, *args)

    monkeypatch.setattr(finetune, "fit", fit)
    [result] = do_all(study(models=["byte"], examples=[4]), put_models(tmp_path))
    assert result["lr"] == 1e-4
    assert result["tries"] == {"0.0001": results[1]["tries"]["0.0001"], "0.01": None}


def test_a_model_that_is_not_trained_is_named(tmp_path):
    with pytest.raises(UserError, match="blt-S-seed0 is not trained yet"):
        do_all(study(), tmp_path)


def test_a_study_without_fine_tuning_has_none_to_do(tmp_path):
    assert do_all(study().model_copy(update={"finetune": None}), tmp_path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"examples": [16, 8]}, "must rise"),
        ({"examples": [10]}, "10 examples are no whole number of steps of 4"),
        ({"tried": 6}, "6 examples are no whole number"),
        ({"tasks": ["sing"]}, "no task named sing"),
        ({"models": ["blt", "lstm"]}, "names lstm of size S"),
        ({"size": "XL"}, "names blt of size XL"),
        ({"seeds": [0, 5]}, "names seed 5"),
        ({"longer": {"words": [9, 8], "sentences": [9, 10], "numbers": [5, 6]}}, "the shortest comes first"),
    ],
)
def test_a_recipe_at_fault_is_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        study(**change)


# ------------------------------------------------------------------------------------------------------------ plot


def test_the_plot_of_the_same_results_is_the_same(results, tmp_path):
    for name in ("one.svg", "two.svg"):
        accuracy_by_examples(results, tmp_path / name)
    drawn = (tmp_path / "one.svg").read_bytes()
    assert drawn == (tmp_path / "two.svg").read_bytes()


def test_the_plot_draws_what_was_measured(results, tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn = []
    plain = Axes.errorbar
    monkeypatch.setattr(Axes, "errorbar", lambda self, *args, **o: drawn.append(args) or plain(self, *args, **o))
    known = json.loads(json.dumps(results[:1]))
    for point, accuracy in zip(known[0]["points"], (0.0, 0.5, 1.0), strict=True):
        point["held_out"]["means"] = {"number": {"accuracy": accuracy, "stderr": 0.1, "constant": 0.5}}
        point["longer"]["means"] = {"number": {"accuracy": accuracy / 2, "stderr": 0.2, "constant": 0.5}}
    twice = [known[0], known[0] | {"seed": 1}]
    accuracy_by_examples(twice, tmp_path / "x.png")
    assert drawn[0][:2] == ([0, 8, 16], [0.0, 0.5, 1.0])
    assert drawn[1][:2] == ([0, 8, 16], [0.0, 0.25, 0.5])
    assert drawn[0][2] == pytest.approx([0.1 / 2**0.5] * 3)


def test_nothing_to_draw_is_said_so(tmp_path):
    with pytest.raises(UserError, match="nothing to draw"):
        accuracy_by_examples([], tmp_path / "x.svg")
