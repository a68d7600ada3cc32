"""What lm-evaluation-harness is told of our models: scores by the obvious route, texts of `generate`, tasks of ours."""

import json
import subprocess
import sys
from dataclasses import dataclass
from itertools import product

import pytest
import torch
from conftest import blt, ids_of, noise, patcher, undecided

from bytequilt import LM, UserError, load
from bytequilt.cli import main
from bytequilt.evals.answers import evaluate, task_items
from bytequilt.evals.characters import TASKS, find_tasks

lm_eval = pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from bytequilt.evals import harness  # noqa: E402
from bytequilt.evals.harness import Harness, HarnessTasks  # noqa: E402
from bytequilt.evals.harness_tasks import lexicon  # noqa: E402
from bytequilt.infer.score import Score  # noqa: E402

CHOICES = """
task: our_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: right
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
DOCUMENTS = [
    {"question": "Once upon a", "choices": ["time", "xqz"], "right": 0},
    {"question": "It was the best of", "choices": ["qqq", "times"], "right": 1},
    {"question": "She looked at", "choices": ["him and", "zvk the"], "right": 1},
    {"question": "", "choices": ["The", "éé"], "right": 0},
]


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


@pytest.fixture
def folder(tmp_path):
    """A directory with a task of four documents."""
    data = tmp_path / "documents.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    (tmp_path / "choice.yaml").write_text(CHOICES.format(data=data))
    return tmp_path


def requests(kind, *arguments):
    return [Instance(request_type=kind, doc={}, arguments=one, idx=0) for one in arguments]


def by_hand(lm, context, continuation):
    """Log p of a continuation, and whether each of its bytes is the likeliest, from one forward pass."""
    ids = ids_of(context + continuation, eos=False)
    assert not undecided(lm.patcher, ids)
    with torch.no_grad():
        log_p = lm.model(ids, lm.patcher(ids))[0, :-1].double().log_softmax(-1)[len(context) :]
    targets = ids[0, 1 + len(context) :]
    return float(log_p.gather(1, targets[:, None]).sum()), bool((log_p.argmax(-1) == targets).all())


# ------------------------------------------------------------------------------------------------------------- scores


def test_likelihoods_are_those_of_one_forward_pass_and_in_order():
    lm = LM(blt(), patcher("entropy"))
    texts = ["", "b", "Once ", "Once", " upon é", "a\n\n", "日本"]
    pairs = list(product(texts, texts[1:]))
    found = Harness(lm, portion=3).loglikelihood(requests("loglikelihood", *pairs))
    for (log_p, greedy), (context, continuation) in zip(found, pairs, strict=True):
        direct, likeliest = by_hand(lm, context.encode(), continuation.encode())
        assert log_p == pytest.approx(direct, abs=1e-4)
        assert greedy == likeliest


@pytest.mark.parametrize("kind", ["entropy", "space", "fixed"])
def test_a_text_may_be_parted_anywhere_even_within_a_character(kind):
    lm, data = LM(blt(), patcher(kind)), " né à 日本 ".encode()
    splits = [
        (data[:at].decode(errors="surrogateescape"), data[at:].decode(errors="surrogateescape")) for at in range(15)
    ]
    model = Harness(lm)
    before = model.loglikelihood(requests("loglikelihood", *(("", head) for head, _ in splits)))
    after = model.loglikelihood(requests("loglikelihood", *splits))
    ((whole,),) = [model.loglikelihood_rolling(requests("loglikelihood_rolling", (data.decode(),)))]
    assert len(data) == 15
    assert [a[0] + b[0] for a, b in zip(before, after, strict=True)] == pytest.approx([whole] * 15, abs=1e-4)


def test_what_greedy_generation_writes_is_greedy_and_nothing_else(tiny):
    text = tiny.generate("Once upon", max_bytes=12, temperature=0).data.decode()
    other = text[:-1] + ("x" if text[-1] != "x" else "y")
    asked = [("Once upon", text), ("Once upon", other), ("Once upon", text[:5]), ("Once up", f"on{text}")]
    found = Harness(tiny).loglikelihood(requests("loglikelihood", *asked))
    assert [greedy for _, greedy in found[:3]] == [True, False, True]
    assert Harness(tiny).loglikelihood(requests("loglikelihood", asked[0]))[0][1]  # alone, and so in a batch


def test_rolling_reads_a_whole_text_without_its_end():
    lm, texts = LM(blt(), patcher("entropy")), [noise(n, n).decode("latin-1") for n in (1, 300, 40)] + [""]
    found = Harness(lm).loglikelihood_rolling(requests("loglikelihood_rolling", *((text,) for text in texts)))
    assert found == pytest.approx([-lm.score("", text).nats for text in texts], abs=1e-4)
    assert found[2] == pytest.approx(by_hand(lm, b"", texts[2].encode())[0], abs=1e-4)


# -------------------------------------------------------------------------------------------------------- generation


def test_texts_are_those_of_generate_each_with_its_options(tiny):
    asked = [
        ("Once", {"until": [" the", ""], "max_gen_toks": 5, "do_sample": False, "temperature": 0.7}),
        ("In the", {"until": "\n", "max_gen_toks": 3}),
        ("It was", {"until": [" the", ""], "max_gen_toks": 5, "do_sample": False, "temperature": 0.7}),
        ("", {"max_gen_toks": 4, "do_sample": True, "top_p": 0.9}),
    ]
    found = Harness(tiny, token_bytes=4, seed=3).generate_until(requests("generate_until", *asked))
    options = [
        {"max_bytes": 20, "temperature": 0, "stop": [" the"]},
        {"max_bytes": 12, "temperature": 0, "stop": ["\n"]},
        {"max_bytes": 20, "temperature": 0, "stop": [" the"]},
        {"max_bytes": 16, "temperature": 1.0, "top_p": 0.9, "seed": 3},
    ]
    assert found == [tiny.generate(prompt, **each).text for (prompt, _), each in zip(asked, options, strict=True)]
    assert not any(" the" in text for text in found[::2])


def test_repeats_of_a_request_are_sampled_anew_and_again_alike(tiny):
    asked = requests("generate_until", *[("Once", {"max_gen_toks": 4, "do_sample": True, "temperature": 1.0})] * 3)
    found = Harness(tiny).generate_until(asked)
    assert len(set(found)) == 3
    assert Harness(tiny).generate_until(asked) == found


# ------------------------------------------------------------------------------------------------------------- tasks


def test_a_task_with_local_data_has_the_accuracy_found_by_hand(tiny, folder):
    found = HarnessTasks(["our_choice"], folder).evaluate(tiny)
    right = 0
    for document in DOCUMENTS:
        costs = [tiny.score(document["question"], f" {choice}").nats for choice in document["choices"]]
        right += costs.index(min(costs)) == document["right"]
    row = found["tasks"]["our_choice"]
    assert row["metrics"]["acc"]["value"] == right / 4 == 0.75
    assert (row["items"], row["shots"]) == (4, 0)


def test_the_harness_finds_the_model_by_its_name(folder):
    harness.register()
    found = lm_eval.simple_evaluate(
        "bytequilt",
        "pretrained=tiny,token_bytes=2",
        tasks=["our_choice"],
        batch_size=1,
        device="cuda:0",
        limit=2,
        task_manager=TaskManager(include_path=folder, include_defaults=False),
    )
    assert found["results"]["our_choice"]["acc,none"] == 1.0


def test_eval_prints_tasks_of_both_kinds(folder, capfd):
    arguments = ["eval", "tiny", "--tasks", "our_choice,compare", "--include-path", str(folder), "--items", "2"]
    main([*arguments, "--limit", "3", "--json"])
    found = json.loads(capfd.readouterr().out)
    assert set(found) == {"answers", "harness"}
    assert found["harness"]["tasks"]["our_choice"]["items"] == 3
    main(arguments)
    out = capfd.readouterr().out
    assert all(word in out for word in ("our_choice", "acc", "0.7500", "compare", "lm-evaluation-harness"))


def test_the_harness_runs_from_its_own_command_line(folder):
    options = ["--model", "bytequilt", "--model_args", "pretrained=tiny", "--tasks", "our_choice"]
    command = [sys.executable, "-m", "bytequilt.evals.harness", *options, "--include_path", str(folder), "--limit", "2"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
    assert "|our_choice|" in shown.stdout
    command[6] = "pretrained=absent"
    failed = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert failed.returncode == 2
    assert "no model at absent" in failed.stderr.splitlines()[-1]


# -------------------------------------------------------------------------------------------------- our own tasks


@dataclass
class Knowing:
    """Writes the right answer behind every third prompt that it knows, and a wrong one or none behind the others."""

    answers: dict[str, str]

    def generate(self, prompt, /, **_):
        places = [list(self.answers).index(one) for one in prompt]
        return [
            Text([f'{self.answers[one]}" it is', 'no"', "no"][at % 3]) for one, at in zip(prompt, places, strict=True)
        ]

    def score(self, pairs, /):
        return [Score(1.0, len(answer)) for _, answer in pairs]


@dataclass
class Text:
    text: str


def test_every_task_on_characters_is_one_of_the_harness_and_their_group_has_them_all():
    manager = TaskManager(include_path=harness.TASKS, include_defaults=False)
    assert manager.all_subtasks == sorted(f"bytequilt_{name}" for name in TASKS)
    assert manager.task_index["bytequilt_characters"].cfg["task"] == [f"bytequilt_{name}" for name in TASKS]
    for name in TASKS:
        assert manager.task_index[f"bytequilt_{name}"].cfg["dataset_kwargs"] == {"task": name}


def test_accuracy_through_the_harness_is_that_of_evaluate(tiny):
    names = ["reverse", "contains_word", "compare"]
    sets = [task_items(task, lexicon(), 200, 0, "few-shot") for task in find_tasks(names)]
    known = {prompt: item.answer for one in sets for prompt, item in zip(one.prompts, one.items, strict=True)}
    model = Knowing(known)
    found = HarnessTasks([f"bytequilt_{name}" for name in names]).evaluate(model)["tasks"]
    for name, row in evaluate(model, names, lexicon=lexicon())["tasks"].items():
        there = found[f"bytequilt_{name}"]["metrics"]["exact_match"]
        assert there["value"] == pytest.approx(row["accuracy"])
        assert 0.3 < row["accuracy"] < 0.6
    few = HarnessTasks(["bytequilt_compare"]).evaluate(tiny, limit=2)["tasks"]["bytequilt_compare"]
    assert (few["items"], few["metrics"]["exact_match"]["value"]) == (2, 0.0)


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "pretrained=DIR"),
        ("pretrained=tiny,chess=1", "no model argument chess; there are pretrained, "),
        ("pretrained=tiny,dtype=int4", "dtype must be one of"),
        ("pretrained=tiny,token_bytes=0", "token_bytes must be a number above 0"),
        ("pretrained=tiny,device=abacus", "cannot use device 'abacus'"),
        ("pretrained=/absent/model", "/absent/model"),
    ],
)
def test_what_cannot_be_opened_is_said_in_a_line(arguments, said):
    with pytest.raises(UserError) as raised:
        Harness.create_from_arg_string(arguments)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"guidance": "none"}])
def test_options_that_cannot_be_followed_are_said(tiny, options):
    with pytest.raises(UserError, match="cannot generate as this asks"):
        Harness(tiny).generate_until(requests("generate_until", ("Once", {"max_gen_toks": 1, **options})))


def test_a_missing_directory_and_a_limit_of_zero_are_refused(tmp_path, capfd):
    with pytest.raises(UserError, match="not a directory of tasks"):
        HarnessTasks(["our_choice"], tmp_path / "absent")
    with pytest.raises(SystemExit):
        main(["eval", "tiny", "--tasks", "compare", "--limit", "0"])
    assert "limit must be at least 1" in capfd.readouterr().err
