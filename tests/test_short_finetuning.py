"""Fine-tuning that is short to ask for: a model's own shape and patches, pairs or chats, and what came of it."""

import json

import pytest
from conftest import blt, patcher

from bytequilt import LM, load
from bytequilt.cli import main
from bytequilt.config import DataConfig, Recipe, UserError, load_recipe
from bytequilt.data.chat import chat
from bytequilt.data.sources import Document, documents
from bytequilt.overrides import override
from bytequilt.train.checks import complete
from bytequilt.train.report import opening
from bytequilt.train.run import train

SHORT = ["--train.steps", "2", "--train.rows", "1", "--train.row-bytes", "64", "--report.max-bytes", "5"]


@pytest.fixture
def origin(tmp_path):
    """A small model with a rule and options of its own."""
    rule = patcher("budget").rule.model_copy(update={"after": "=", "max_length": 9})
    LM(blt(), patcher(rule), 5.0).save(tmp_path / "origin")
    return tmp_path / "origin"


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    lines = [{"prompt": f"{n}+{n}=", "completion": str(2 * n)} for n in range(60)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_shape_and_patches_are_the_models_own(origin, pairs, tmp_path):
    recipe = override(load_recipe("finetune"), ["--train.init", str(origin), "--data.train", str(pairs), *SHORT])
    report = train(recipe, tmp_path / "run")
    before, after = load(origin), load(tmp_path / "run")
    assert after.model.config == before.model.config
    assert after.patcher.rule == before.patcher.rule
    assert after.patcher.fingerprint == before.patcher.fingerprint
    assert after.patch("12=34, and so on").json() == before.patch("12=34, and so on").json()
    assert report["steps"] == 2


@pytest.mark.parametrize("kind", ["entropy-max", "monotonic", "combined", "words", "marks", "fixed", "byte"])
def test_every_rule_comes_along(kind, pairs, tmp_path):
    LM(blt(), patcher(kind)).save(tmp_path / "origin")
    recipe = override(load_recipe("finetune"), ["--train.init", str(tmp_path / "origin"), "--data.train", str(pairs)])
    train(override(recipe, SHORT), tmp_path / "run")
    assert load(tmp_path / "run").patcher.rule == load(tmp_path / "origin").patcher.rule


def test_a_recipe_may_give_its_own_patches(origin):
    fields = ["--train.init", str(origin), "--patching.kind", "fixed", "--patching.stride", "3"]
    recipe = complete(override(load_recipe("finetune"), fields))
    assert isinstance(recipe, Recipe)
    assert (recipe.patching.kind, recipe.patching.stride) == ("fixed", 3)
    assert recipe.model == load(origin).model.config


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        (["--patching.target-bytes", "3"], {"kind": "budget", "after": "=", "max_length": 9, "target_bytes": 3.0}),
        (["--patching.threshold", "2"], {"kind": "budget", "after": "=", "threshold": 2.0, "target_bytes": None}),
        (["--patching.kind", "entropy", "--patching.target-bytes", "3"], {"kind": "entropy", "after": ""}),
    ],
)
def test_what_a_recipe_leaves_open_is_the_models(origin, pairs, tmp_path, fields, wanted):
    given = ["--train.init", str(origin), "--data.train", str(pairs), *SHORT, *fields]
    recipe = complete(override(load_recipe("finetune"), given))
    assert {name: getattr(recipe.patching, name) for name in wanted} == wanted
    train(recipe, tmp_path / "run")
    assert load(tmp_path / "run").patcher.fingerprint == load(origin).patcher.fingerprint


def test_an_entropy_model_to_start_from_needs_one_to_train(origin, pairs, tmp_path):
    fields = ["--entropy-train.init", str(origin), "--entropy-train.steps", "1"]
    given = ["--train.init", str(origin), "--data.train", str(pairs), *SHORT, *fields]
    with pytest.raises(UserError, match="entropy"):
        train(override(load_recipe("finetune"), given), tmp_path / "run")


@pytest.mark.parametrize("fields", [[], ["--train.init", "no/such"], ["--train.init", "demo"]])
def test_without_a_model_nothing_is_begun(fields, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError):
        train(override(load_recipe("finetune"), fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_report_has_an_example_before_and_after(origin, pairs, tmp_path, capfd):
    arguments = ["train", "finetune", "--init", str(origin), "--data.train", str(pairs), *SHORT]
    main([*arguments, "--out", str(tmp_path / "run")])
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    example = report["example"]
    assert example["prompt"].endswith("=")
    assert report["prompt"] == example["prompt"]
    assert f'next: bytequilt generate "{example["prompt"]}" --model' in capfd.readouterr().err
    assert example["wanted"] == str(2 * int(example["prompt"].partition("+")[0]))
    options = {"max_bytes": 5, "temperature": 0}
    assert example["before"] == load(origin).generate(example["prompt"], **options).text
    assert example["after"] == load(tmp_path / "run").generate(example["prompt"], **options).text


def test_an_empty_prompt_is_the_opening_of_held_out_text():
    """Of prompts the first; of text its first words; of a script without spaces, as much as a line holds."""
    assert opening([Document("a", b"text"), Document("b", b"2+2=4", 4)]) == "2+2="
    assert (
        opening([Document("a", "Все счастливые семьи похожи друг на друга".encode())]) == "Все счастливые семьи похожи "
    )
    assert len(opening([Document("a", "今日は".encode() * 99)])) <= 41


def test_another_report_is_made_without_training_again(origin, pairs, tmp_path):
    arguments = ["train", "finetune", "--init", str(origin), "--data.train", str(pairs), *SHORT]
    main([*arguments, "--report.prompt", "1", "--out", str(tmp_path / "run")])
    weights = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    steps = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    main([*arguments, "--out", str(tmp_path / "run")])
    assert json.loads((tmp_path / "run" / "report.json").read_text())["prompt"].endswith("=")
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == weights
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == steps


def test_the_same_command_goes_on(origin, pairs, tmp_path, capfd):
    arguments = ["train", "finetune", "--init", str(origin), "--data.train", str(pairs), *SHORT]
    for _ in range(2):
        main([*arguments, "--out", str(tmp_path / "run"), "--json"])
    first, second = capfd.readouterr().out.splitlines()
    assert first == second


# ---------------------------------------------------------------------------------------------------------------- chats


def test_a_chat_is_its_roles_and_texts():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2+2?\n"},
        {"role": "assistant", "content": " 4"},
    ]
    assert chat(messages) == ("System: Be brief.\n\nUser: 2+2?\n\n\nAssistant: ", " 4")
    assert chat(messages[2:]) == ("Assistant: ", " 4")


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        "hi",
        [1],
        [{"role": "user", "content": "hi"}],
        [{"role": "assistant"}],
        [{"role": "assistant", "content": None}],
        [{"role": 1, "content": "a"}],
        [{"role": "", "content": "a"}],
    ],
)
def test_what_is_no_chat_is_named_with_its_line(messages, tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": messages}) + "\n")
    with pytest.raises(UserError, match=r"chats\.jsonl:1"):
        list(documents(str(path), DataConfig(messages_field="messages")))


def test_chats_and_pairs_share_a_file(tmp_path):
    path = tmp_path / "both.jsonl"
    messages = [{"role": "user", "content": "é?"}, {"role": "assistant", "content": "ja"}]
    lines = [{"messages": messages}, {"prompt": "2+2=", "completion": "4"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = load_recipe("finetune").data
    asked, paired = documents(str(path), config)
    assert (asked.data, asked.prompt) == ("User: é?\n\nAssistant: ja".encode(), len("User: é?\n\nAssistant: ".encode()))
    assert (paired.data, paired.prompt) == (b"2+2=4", 4)


def test_chats_come_out_of_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    pq.write_table(pa.table({"messages": [messages], "other": [1]}), tmp_path / "chats.parquet")
    (document,) = documents(str(tmp_path / "chats.parquet"), load_recipe("finetune").data)
    assert document.data == b"User: a\n\nAssistant: b"
