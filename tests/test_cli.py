"""The command line: contracts of its JSON, and one clear line for whatever is wrong."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import blt, entropy_model, noise

from bytequilt import LM, Patcher, load
from bytequilt.cli import VERBS, main
from bytequilt.config import RuleConfig, load_recipe

MICRO = """# A BLT of a few thousand parameters, to test the way from corpus to report.
[data]
train = ["{text}"]
val_every = 4
[entropy]
dim = 16
layers = 1
heads = 2
ffn_dim = 16
window = 16
[entropy_train]
steps = 2
rows = 2
row_bytes = 64
[patching]
target_bytes = 3.0
[model]
encoder = {{ dim = 16, layers = 1, heads = 2, ffn_dim = 16, window = 16 }}
latent = {{ dim = 16, layers = 1, heads = 2, ffn_dim = 16 }}
decoder = {{ dim = 16, layers = 1, heads = 2, ffn_dim = 16, window = 16 }}
hash = {{ rows = 17 }}
slots = 1
cross_heads = 2
[train]
steps = 2
rows = 2
row_bytes = 64
[report]
max_bytes = 5
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random model directory whose patches an entropy opens, three bytes long in the mean."""
    patcher = Patcher(RuleConfig(threshold=0.0), entropy_model())
    patcher.calibrate([noise(3000)], 3.0)
    folder = tmp_path_factory.mktemp("models") / "entropy"
    LM(blt(), patcher, patch_bytes=3.0).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """A random model directory whose patches are words."""
    folder = tmp_path_factory.mktemp("models") / "space"
    LM(blt(), Patcher(RuleConfig(kind="space"), None)).save(folder)
    return str(folder)


@pytest.fixture
def answer(capfd):
    """Runs a verb that must succeed with one JSON document on stdout, and returns it."""

    def run(*arguments):
        main([*map(str, arguments), "--json"])
        return json.loads(capfd.readouterr().out)

    return run


@pytest.fixture
def complaint(capfd):
    """Runs a verb that must fail with exit code 2 and nothing on stdout; returns the line that ends stderr.

    Only stages of a recipe that went well before may have said something.
    """

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(list(map(str, arguments)))
        out, err = capfd.readouterr()
        assert (stop.value.code, out) == (2, "")
        *before, line = err.splitlines()
        assert line.startswith("bytequilt: ")
        assert len(line) <= 300
        assert all(said.startswith(("corpus: ", "entropy ")) for said in before)
        return line

    return run


def shell(arguments, **options):
    """The command as a process of its own."""
    command = [sys.executable, "-m", "bytequilt", *arguments]
    return subprocess.run(command, capture_output=True, timeout=120, **options)


# --------------------------------------------------------------------------------------------------------- contracts


@pytest.mark.parametrize("text", ["Daenerys Targaryen, café 日本", "a\nb\tc", ""])
def test_patch_partitions_the_text(answer, model, text):
    found = answer("patch", text, "--model", model)
    assert set(found) == {"text", "mean_patch_bytes", "threshold_bits", "patches"}
    assert found["text"] == text
    data, at = text.encode(), 0
    for patch in found["patches"]:
        assert set(patch) == {"start", "length", "text", "hex", "entropy_bits"}
        assert patch["start"] == at
        at += patch["length"]
        assert bytes.fromhex(patch["hex"]) == data[patch["start"] : at]
    assert at == len(data)
    if data:
        assert found["mean_patch_bytes"] == pytest.approx(len(data) / len(found["patches"]))


def test_patches_are_opened_by_an_entropy_above_the_threshold(answer, model, space):
    found = answer("patch", "one two three four five", "--model", model)
    assert found["patches"][0]["entropy_bits"] is None
    assert all(patch["entropy_bits"] > found["threshold_bits"] for patch in found["patches"][1:])
    assert len(found["patches"]) > 1
    found = answer("patch", "one two three", "--model", space)
    assert found["threshold_bits"] is None
    assert [patch["text"] for patch in found["patches"]] == ["one ", "two ", "three"]
    assert {patch["entropy_bits"] for patch in found["patches"]} == {None}


def test_bytes_that_are_no_utf8_are_welcome_everywhere(answer, model, tmp_path, monkeypatch):
    argument = os.fsdecode(b"a\xff\xfeb")  # as Python hands it to a program
    found = answer("patch", argument, "--model", model)
    assert "".join(patch["hex"] for patch in found["patches"]) == "61fffe62"
    assert answer("generate", argument, "--model", model, "--max-bytes", 3)["prompt"] == "a��b"
    path = tmp_path / os.fsdecode(b"n\xe9.txt")
    path.write_bytes(noise(300))
    assert answer("eval", model, path)["bytes"] == 300


def test_patch_writes_a_figure(model, tmp_path, capfd):
    main(["patch", "a <b> c", "--model", model, "--html", str(tmp_path / "a.html")])
    main(["patch", "a <b> c", "--model", model, "--html", str(tmp_path / "a.svg")])
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
    assert "|" in capfd.readouterr().out  # patches show where there is no colour


def test_generate_counts_what_it_made(answer, model):
    found = answer("generate", "The ", "--model", model, "--max-bytes", 12, "--seed", 1, "--top-k", 90, "--top-p", 0.9)
    counts = {"bytes", "patches", "seconds", "bytes_per_second", "latent_calls", "decoder_calls", "drafted", "accepted"}
    assert set(found) == {"prompt", "text", "finish_reason"} | counts
    assert found["prompt"] == "The "
    assert not found["text"].startswith("The ")
    assert 0 < found["patches"] <= found["bytes"] <= 12
    assert found["bytes_per_second"] > 0
    assert found["finish_reason"] == ("length" if found["bytes"] == 12 else "eos")
    again = answer("generate", "The ", "--model", model, "--max-bytes", 12, "--seed", 1, "--top-k", 90, "--top-p", 0.9)
    assert again["text"] == found["text"]


def test_generate_streams_the_same_text(answer, model, capfd):
    found = answer("generate", "The ", "--model", model, "--max-bytes", 9, "--temperature", 0)
    main(["generate", "The ", "--model", model, "--max-bytes", "9", "--temperature", "0"])
    assert capfd.readouterr().out == f"The {found['text']}\n"


def test_generate_takes_every_option(answer, model):
    options = ["--min-p", 0.01, "--repetition-penalty", 1.2, "--utf8", "--logprobs", "--top-logprobs", 2]
    options += ["--speculate", 3]
    found = answer("generate", "The ", "--model", model, "--max-bytes", 30, "--seed", 2, *options)
    assert len(found["logprobs"]) == found["bytes"]
    assert max(found["logprobs"]) <= 0
    assert [len(likeliest) for likeliest in found["top_logprobs"]] == [2] * found["bytes"]
    assert found["drafted"] >= found["accepted"] > 0
    assert "\ufffd" not in found["text"]
    assert len(found["text"]) > 9
    stops = ["--stop", found["text"][7:9], "--stop", found["text"][5:7]]
    cut = answer("generate", "The ", "--model", model, "--max-bytes", 30, "--seed", 2, *options, *stops)
    assert cut["finish_reason"] == "stop"
    assert found["text"].startswith(cut["text"])
    assert len(cut["text"]) <= 5


def test_generate_asks_for_prompts_on_a_terminal(model):
    """Each gets its text, options hold for all, and the end of the file ends the conversation."""
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "bytequilt", "generate", "--model", model, "--max-bytes", "5", "--seed", "1"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, close_fds=True) as process:
        os.close(theirs)
        seen = b""

        def until(times):
            nonlocal seen
            while seen.count(b"prompt> ") < times:
                seen += os.read(ours, 1000)

        until(1)
        os.write(ours, b"The \n")
        until(2)
        os.write(ours, b"And \n")
        until(3)
        os.write(ours, b"\x04")
        assert process.wait(60) == 0
        assert process.stderr.read() == b""
    os.close(ours)
    lines = [line for line in seen.decode("utf-8", "replace").splitlines() if line and "prompt>" not in line]
    assert any(line.startswith("The ") and len(line) > 4 for line in lines)
    assert any(line.startswith("And ") and len(line) > 4 for line in lines)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--min-p", "2"], "min_p must be at least 0 and below 1"),
        (["--repetition-penalty", "0"], "repetition_penalty must be 0.01 to 100"),
        (["--stop", ""], "stop must be texts, none of them empty"),
        (["--speculate", "-1"], "speculate must be a whole number of at least 0"),
        (["--max-bytes", "-1"], "max_bytes must be a whole number of at least 0, unlike -1"),
    ],
)
def test_generate_refuses_what_is_out_of_range(model, option, said, capfd):
    with pytest.raises(SystemExit, match="2"):
        main(["generate", "The ", "--model", model, *option])
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert said in err


def test_eval_takes_records_as_documents(answer, model, tmp_path):
    texts = ["one two", "drei vier fünf"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))
    (tmp_path / "b.txt").write_bytes(noise(50))
    found = answer("eval", model, tmp_path / "a.jsonl", "--field", "body")
    assert set(found) == {"bpb", "bytes", "mean_patch_bytes", "files"}
    assert found["bytes"] == sum(len(text.encode()) for text in texts)
    one = answer("eval", model, tmp_path / "b.txt")
    both = answer("eval", model, tmp_path / "b.txt", tmp_path / "b.txt")
    assert [set(file) for file in both["files"]] == [{"path", "bpb", "bytes"}] * 2
    assert both["bpb"] == pytest.approx(one["bpb"])
    assert both["bytes"] == 100


def test_eval_is_the_bits_per_byte_of_the_library(answer, model, tmp_path):
    from bytequilt import load

    (tmp_path / "a.txt").write_bytes(noise(700))
    assert answer("eval", model, tmp_path / "a.txt")["bpb"] == pytest.approx(load(model).bits_per_byte(noise(700)))


@pytest.mark.parametrize("name", ["model", "demo"])
def test_info_counts(answer, model, name):
    found = answer("info", model if name == "model" else name)
    assert set(found["parameters"]) == {"total", "entropy", "encoder", "latent", "decoder", "hash"}
    parts = found["parameters"]
    assert parts["total"] == sum(parts[module] for module in ("encoder", "latent", "decoder", "hash"))
    flops = found["flops_per_byte"]
    assert flops["total"] == pytest.approx(sum(value for module, value in flops.items() if module != "total"))
    assert found["config"]


def test_json_of_any_verb_is_one_line_of_utf8(model):
    done = shell(["patch", "-", "--model", model, "--json"], input="日本".encode(), env=os.environ | {"LC_ALL": "C"})
    assert done.returncode == 0
    assert done.stdout.count(b"\n") == 1
    assert json.loads(done.stdout)["text"] == "日本"
    assert done.stderr == b""


def test_json_has_no_numbers_that_json_has_no_word_for(answer, model, tmp_path):
    lm = load(model, native=False)
    lm.model.decoder.head.weight.data[:] = torch.nan
    lm.save(tmp_path / "broken")
    (tmp_path / "a.txt").write_bytes(b"one two three")
    assert answer("eval", tmp_path / "broken", tmp_path / "a.txt")["bpb"] is None


@pytest.mark.parametrize("arguments", [["eval", "FILE"], ["info"], ["info", "recipe"], ["patch", "x"]])
def test_people_get_words(arguments, model, tmp_path, capfd):
    (tmp_path / "a.txt").write_bytes(b"one two three")
    verb, *rest = arguments
    path = {"FILE": str(tmp_path / "a.txt")}
    named = {"eval": [model, *(path.get(a, a) for a in rest)], "info": [model] if not rest else ["small"]}
    main([verb, *named.get(verb, [*rest, "--model", model])])
    out = capfd.readouterr().out
    assert {"eval": "bits per byte", "info": "latent", "patch": "mean"}[verb] in out


# ------------------------------------------------------------------------------------------------------------ running


@pytest.fixture(scope="module")
def micro(tmp_path_factory):
    """A recipe that trains in a second, and its run directory after `bytequilt train`."""
    folder = tmp_path_factory.mktemp("micro")
    records = [json.dumps({"text": f"Document {n} of a few: {'one two three four ' * 20}"}) for n in range(8)]
    (folder / "text.jsonl").write_text("\n".join(records))
    recipe = folder / "micro.toml"
    recipe.write_text(MICRO.format(text=folder / "text.jsonl"))
    main(["train", str(recipe), "--out", str(folder / "run"), "--train.steps", "3", "--json"])
    return recipe, folder / "run"


def test_train_reports_and_does_not_do_it_again(answer, micro):
    recipe, run = micro
    found = json.loads((run / "report.json").read_text())
    wanted = "bpb entropy_model_bpb gzip_bpb xz_bpb mean_patch_bytes bytes_per_second flops_per_byte steps sample"
    assert set(wanted.split()) <= set(found)
    assert found["steps"] == 3
    begun = (run / "model" / "model.safetensors").stat().st_mtime_ns
    assert answer("train", recipe, "--out", run, "--train.steps", 3) == found
    assert (run / "model" / "model.safetensors").stat().st_mtime_ns == begun
    assert answer("patch", "one two", "--model", run)["patches"]


def test_prepare_stops_before_the_blt(micro, tmp_path):
    recipe, _ = micro
    main(["prepare", str(recipe), "--out", str(tmp_path / "run")])
    assert (tmp_path / "run" / "shards" / "000000.parquet").is_file()
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nMore"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        np.zeros,
    ],
    ids=str,
)
def test_memory_that_runs_out_is_told_in_one_line(complaint, monkeypatch, error):
    def verb(*_, **__):
        raise error if isinstance(error, Exception) else error(2**50) and None

    monkeypatch.setattr("bytequilt.info.describe", verb)
    assert "not enough memory" in complaint("info", "tiny")


def test_a_run_directory_belongs_to_one_recipe(complaint, micro):
    recipe, run = micro
    before = (run / "report.json").read_bytes()
    assert "another recipe" in complaint("train", recipe, "--out", run, "--train.lr", 0.5)
    assert (run / "report.json").read_bytes() == before


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], "no verb 'nope'"),
        (["patch"], "TEXT"),
        (["patch", "a", "--modle", "x"], "--modle"),
        (["patch", "Hello", "World"], "unexpected 'World': a text of several words goes in quotes"),
        (["pach", "a"], "did you mean patch?"),
        (["patch", "a", "--modle", "x"], "did you mean --model?"),
        (["generate", "a", "--temprature", "1"], "did you mean --temperature?"),
        (["train", "demo", "--train.stps", "5"], "did you mean --train.steps?"),
        (["patch", "a", "--html", "x.png"], "must end with .html"),
        (["patch", "a", "--html", ""], "must end with .html"),
        (["patch", "a", "--model", "x" * 1000], "no model at"),
        (["generate", "x" * 1000, "y" * 1000], "unexpected"),
        (["train", "x" * 1000], "no recipe named"),
        (["train", "demo", "--train.betas", "2", "2"], "train.betas"),
        (["train", "demo", "--train.lr", "nan"], "train.lr"),
        (["train", "demo", "--report.temperature", "inf"], "report.temperature"),
        (["train", "demo", "--model.latent.ffn-dim", "1e25"], "model.latent.ffn_dim"),
        (["train", "demo", "--model.latent.layers", "1000000000"], "model.latent.layers"),
        (["train", "demo", "--train.seed", str(10**30)], "train.seed"),
        (["train", "demo", "--train.steps", "99999999999"], "train.steps"),
        (["generate", "a", "--model", "MODEL", "--speculate", "99999999999"], "speculate must be"),
        (["eval", "MODEL", "--tasks", "reverse", "--items", "99999999999"], "items must be 1 to 100,000"),
        (["eval", "MODEL", "--tasks", "reverse", "--items", "0"], "items must be 1 to 100,000"),
        (["bench", "decode", "--speculate", "99999999999"], "speculate at least 0 and at most 256"),
        (["bench", "decode", "MODEL"], "a model goes after --model"),
        (["info", "MODEL", "more"], "unexpected 'more': there is no place for it"),
        (["distill", "MODEL", __file__, "--kind", "window", "--steps", "99999999999"], "train.steps"),
        (["convert", "MODEL", "new", __file__, "--rule", "entropy", "--target-bytes", "99999999999"], "target-bytes"),
        (["convert", "MODEL", "new", __file__, "--rule", "entropy", "--target-bytes", "0"], "target-bytes"),
        (["distill", "MODEL", "\udcff"], "train: must be text that UTF-8 can write"),
        (["eval", "MODEL", "--field", "\udcff", __file__], "field: must be text that UTF-8 can write"),
        (["eval", "MODEL", "--device", "cuda:7", __file__], "cannot use device 'cuda:7'"),
        (["patch", "a", "--model"], "--model"),
        (["patch", "a", "--model", "absent"], "no model at absent"),
        (["generate", "a", "--max-bytes", "x"], "--max-bytes"),
        (["generate", "a", "--model", "MODEL", "--temperature", "-1"], "temperature"),
        (["generate", "a", "--model", "MODEL", "--top-p", "0"], "top_p"),
        (["generate", "a", "--model", "MODEL", "--max-bytes", "-1"], "max_bytes"),
        (["patch", "a", "--model", "MODEL", "--device", "abacus"], "device 'abacus'"),
        (["eval", "MODEL"], "needs a file"),
        (["eval", "MODEL", "--tasks", ","], "--tasks names no task"),
        (["eval", "MODEL", __file__, "--context", "9" * 30], "context must be a whole number"),
        (["bench", "decode", "--plot", "/absent/speed.svg"], "there is no folder /absent"),
        (["serve", "--api-key", ""], "--api-key is empty"),
        (["eval", "MODEL", "absent.txt"], "absent.txt"),
        (["info", "absent"], "absent"),
        (["info"], "MODEL"),
        (["train"], "RECIPE"),
        (["train", "absent"], "no recipe named 'absent'"),
        (["train", "absent.toml"], "no recipe at absent.toml"),
        (["train", "demo", "--train.stps", "5"], "--train.stps"),
        (["train", "demo", "--train.steps", "0"], "train.steps: Input should be greater than 0"),
        (["train", "demo", "--train.steps", "many"], "train.steps"),
        (["train", "demo", "--train.steps"], "one value"),
        (["train", "demo", "--train", "5"], "section"),
        (["train", "demo", "--train.steps.x", "5"], "--train.steps.x"),
        (["train", "demo", "--patching.threshold", "1.0"], "nothing left to calibrate"),
        (["train", "demo", "--model.encoder.dim", "100"], "must be an even multiple of heads"),
        (["train", "demo", "stray"], "stray"),
        (["prepare", "demo", "--nope", "1"], "--nope"),
        (["prepare", "demo", "--report.prompt", "\udcff"], "report.prompt: must be text"),
        (["train", "demo", "--gpus", "2"], "--gpus and --gpu are for --dry-run"),
        (["train", "demo", "--plan", "--gpu", "h200"], "--gpus and --gpu are for --dry-run"),
        (["train", "demo", "--plan", "--dry-run"], "give one of them"),
        (["patch", "--report", "MODEL", "--tokens", "default", __file__], "neither --html nor --tokens"),
        (["patch", "--report", "MODEL"], "one FILE at least"),
        (["generate", "a", "--logprobs"], "--json"),
        (["generate", "a", "--top-logprobs", "2"], "--json"),
        (["patch", "a", "--model", "absent"], "letters, tiny"),
        (["eval", "MODEL", __file__, "--items", "5"], "are for --tasks"),
        (["eval", "MODEL", __file__, "--limit", "5"], "are for --tasks"),
        (["convert", "MODEL", "absent", __file__, "--rule", "entropy", "--target-bytes", "0"], "--target-bytes"),
        (["convert", "MODEL", "absent", __file__, "--rule", "entropy", "--target-bytes", "nan"], "--target-bytes"),
        (["train", "book", "--dry-run", "--patching.threshold", "1", "--entropy-train.steps", "1"], "one or the other"),
    ],
)
def test_one_clear_line(complaint, model, arguments, words):
    assert words in complaint(*(model if a == "MODEL" else a for a in arguments))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("[train]", "[training]"), "training"),
        (("rows = 2", "rwos = 2"), "rwos"),
        (("steps = 2", "steps = -2"), "steps"),
        (("slots = 1", "slots = 'one'"), "model.slots"),
        (("steps = 2", "steps = "), "not TOML"),
        (("target_bytes = 3.0", "stride = 4"), "patching"),
        (("target_bytes = 3.0", "target_bytes = 900"), "out of reach"),
        (("rows = 2", "rows = 900"), "smaller than a batch"),
        (("text.jsonl", "absent.jsonl"), "absent.jsonl"),
        (('["', '["hf'), "no file at hf"),
    ],
)
def test_bad_recipes(complaint, tmp_path, change, words):
    (tmp_path / "text.jsonl").write_text("\n".join(json.dumps({"text": f"{n} one two " * 9}) for n in range(8)))
    recipe = tmp_path / "bad.toml"
    recipe.write_text(MICRO.format(text=tmp_path / "text.jsonl").replace(*change))
    assert words in complaint("train", recipe, "--out", tmp_path / "run")


def test_recipes_of_any_encoding_and_depth(complaint, answer, tmp_path):
    (recipe := tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbf" + MICRO.format(text="absent").encode())
    assert answer("info", recipe)["parameters"]["total"]
    recipe.write_bytes(MICRO.format(text="absent").encode("utf-16"))
    assert "UTF-16" in complaint("train", recipe)
    recipe.write_text("a = " + "[" * 2000)
    assert "nested too deeply" in complaint("train", recipe)


def test_empty_files(complaint, model, tmp_path):
    for name in ("a.txt", "a.jsonl"):
        (tmp_path / name).write_bytes(b"")
        assert "is empty" in complaint("eval", model, tmp_path / name)
    (tmp_path / "a.parquet").write_bytes(b"")
    assert "a.parquet" in complaint("eval", model, tmp_path / "a.parquet")


def test_records_that_are_none(complaint, model, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n{"text": \n')
    assert f"{path}:2: not JSON" in complaint("eval", model, path)
    path.write_text('{"body": "fine"}\n')
    assert "no field 'text'" in complaint("eval", model, path)


def test_models_that_are_none(complaint, model, space, tmp_path):
    from pathlib import Path
    from shutil import copytree

    def spoilt(name, file, change):
        folder = tmp_path / name
        copytree(model, folder)
        (folder / file).write_bytes(change((folder / file).read_bytes()))
        return folder

    (tmp_path / "other").mkdir()
    assert "not a model directory" in complaint("patch", "a", "--model", tmp_path / "other")
    for name, file, change, words in (
        ("cut", "model.safetensors", lambda data: data[:-100], "damaged"),
        ("empty", "model.safetensors", lambda data: b"", "damaged"),
        ("foreign", "config.json", lambda data: b'{"architectures": []}', "not a bytequilt model"),
        ("newer", "config.json", lambda data: data.replace(b'"format": 1', b'"format": 99'), "format 99"),
        ("list", "config.json", lambda data: b"[]", "must hold a JSON object"),
        ("junk", "config.json", lambda data: data[:40], "is not JSON"),
        ("wide", "config.json", lambda data: data.replace(b'"slots": 2', b'"slots": 4'), "has shape"),
    ):
        assert words in complaint("eval", spoilt(name, file, change), __file__)
    (spoilt("gone", "config.json", bytes) / "model.safetensors").unlink()
    assert "damaged" in complaint("patch", "a", "--model", tmp_path / "gone")
    assert (Path(model) / "config.json").is_file()


def test_a_directory_that_is_no_run(complaint, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    assert "neither empty nor a run directory" in complaint("train", "demo", "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_figure_that_cannot_be_written(complaint, model, tmp_path):
    target = tmp_path / "absent" / "a.html"
    assert f"cannot write {target}" in complaint("patch", "a", "--model", model, "--html", target)


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(complaint, model, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "denied" in complaint("patch", "a", "--model", model, "--html", tmp_path / "closed" / "a.html")
    assert "denied" in complaint("train", "demo", "--out", tmp_path / "closed" / "run")


def test_a_folder_where_a_file_stands(complaint, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file" in complaint("train", "demo", "--out", tmp_path / "file" / "run")


# --------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_examples(verb, capfd):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    out, err = capfd.readouterr()
    assert (stop.value.code, err) == (0, "")
    assert f"\nexamples:\n  bytequilt {verb} " in out
    assert "--out" in out or "--json" in out or verb == "serve"  # which answers by HTTP


def test_the_overview_says_what_the_verbs_say():
    from bytequilt.verbs import FUNCTIONS

    assert {name: verb.__doc__.splitlines()[0] for name, verb in FUNCTIONS.items()} == VERBS


def test_help_of_a_recipe_lists_its_fields(capfd):
    with pytest.raises(SystemExit):
        main(["train", "demo", "--help"])
    out = capfd.readouterr().out
    assert f"--train.steps {load_recipe('demo').train.steps}" in out
    assert "--data.where" in out


def test_help_is_quick_and_knows_no_torch():
    code = "import sys, bytequilt, bytequilt.cli; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
    for arguments in (["--help"], ["train", "demo", "--help"]):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "bytequilt", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0
        assert done.stdout.startswith("usage: bytequilt")
        assert not [line for line in done.stderr.splitlines() if line.endswith((" torch", " numpy"))]


def test_a_reader_that_leaves_is_no_error(model):
    command = [sys.executable, "-m", "bytequilt", "generate", "a", "--model", model, "--max-bytes", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(5)
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(timeout=60) == 141
    assert said == b""


@pytest.mark.parametrize("arguments", [["info", "demo"], ["info", "demo", "--json"], ["--help"]])
def test_a_reader_that_is_gone_before_the_answer_is_no_error(arguments):
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "bytequilt", *arguments]
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, timeout=120, check=False)
    os.close(writes)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_closed_standard_input_is_one_line():
    command = f"{sys.executable} -m bytequilt patch - <&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "standard input is closed" in done.stderr


def test_version_and_no_arguments(capfd):
    main(["--version"])
    assert capfd.readouterr().out == "0.1.0\n"
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    commands = [line.split("  ")[1] for line in capfd.readouterr().out.splitlines() if line.startswith("  ")]
    assert [command.split()[1] for command in commands] == ["patch", "generate", "train"]


def test_eval_puts_noise_on_files(answer, model, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"Once upon a time. " * 4)
    found = answer("eval", model, tmp_path / "a.txt", "--noise")
    assert set(found["noise"]) == {"clean", "AntSpeak", "Drop", "RandomCase", "Repeat", "UpperCase"}
    assert found["noise"]["clean"]["bpb"] == pytest.approx(found["bpb"])


def test_eval_asks_tasks(answer, model):
    found = answer("eval", model, "--tasks", "count_char", "contains_char", "--items", "3")["answers"]
    assert set(found["tasks"]) == {"count_char", "contains_char"}
    assert found["tasks"]["contains_char"]["likelihood"] is not None


def test_eval_shows_noise_and_answers(model, tmp_path, capfd):
    (tmp_path / "a.txt").write_bytes(b"Once upon a time. ")
    main(["eval", str(model), str(tmp_path / "a.txt"), "--noise", "--tasks", "reverse", "--items", "2"])
    out = capfd.readouterr().out
    assert all(word in out for word in ("AntSpeak", "per clean byte", "reverse", "mean of char"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tasks", "chess"], "no task named chess"),
        (["--noise"], "eval needs a file"),
        ([], "eval needs a file"),
    ],
)
def test_what_eval_cannot_do_is_said(complaint, model, arguments, words):
    assert words in complaint("eval", model, *arguments)
