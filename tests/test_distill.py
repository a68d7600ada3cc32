import json

import pytest
import torch
from conftest import blt, entropy_model, noise

from bytequilt.cli import main
from bytequilt.config import EntropyConfig, RuleConfig, TrainConfig, UserError
from bytequilt.lm import LM, load
from bytequilt.model.entropy import EntropyModel
from bytequilt.model.ngram import NgramEntropy
from bytequilt.patching.patcher import Patcher
from bytequilt.train.distill import Lean, distill

WORDS = [b"one ", b"two ", b"three, ", b"four\n"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    texts = [b"".join(WORDS[byte % 4] for byte in noise(300, seed)) for seed in range(60)]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text.decode()}) + "\n" for text in texts))
    patcher = Patcher(RuleConfig(threshold=0.0), entropy_model())
    patcher.calibrate(texts[:10], 4.0)
    LM(blt(), patcher, 4.0).save(folder / "model")
    return folder


WINDOW = EntropyConfig(dim=16, layers=1, heads=2, ffn_dim=24, window=4)
TRAIN = TrainConfig(steps=30, rows=4, row_bytes=128, lr=1e-2, warmup=2, eval_every=15, eval_bytes=300)


@pytest.mark.parametrize(
    ("lean", "kind"),
    [(Lean(), NgramEntropy), (Lean(kind="window", window=WINDOW, train=TRAIN), EntropyModel)],
    ids=["ngram", "window"],
)
def test_a_lean_patcher_takes_the_place_of_the_entropy_model(model, tmp_path, lean, kind):
    lean = lean.model_copy(update={"test_bytes": 2000})
    found = distill(str(model / "model"), (str(model / "text.jsonl"),), lean, tmp_path)
    lm, before = load(tmp_path), load(model / "model")
    assert isinstance(lm.patcher.model, kind)
    assert torch.equal(lm.model.decoder.head.weight, before.model.decoder.head.weight)
    assert json.loads((tmp_path / "report.json").read_text()) == found
    assert found["same_decisions"] > 0.6
    assert 0 < found["boundaries_found"] <= 1
    assert 0 < found["boundaries_right"] <= 1
    for side in ("full", "lean"):
        assert found[side]["mean_patch_bytes"] == pytest.approx(4.0, rel=0.25)
        assert found[side]["microseconds_per_byte"] > 0
        assert 7 < found[side]["bpb"] < 12


def test_the_entropy_model_agrees_with_itself(model):
    from bytequilt.train.distill import compare

    lm = load(model / "model")
    found = compare(lm, lm, [noise(500)])
    assert found["same_decisions"] == found["boundaries_found"] == found["boundaries_right"] == 1
    assert found["full"]["bpb"] == found["lean"]["bpb"] == lm.bits_per_byte(noise(500))


def test_a_model_without_an_entropy_model_has_nothing_to_distill(tmp_path):
    LM(blt(), Patcher(RuleConfig(kind="space"))).save(tmp_path / "model")
    with pytest.raises(UserError, match="has no entropy model"):
        distill(str(tmp_path / "model"), (str(tmp_path),), Lean(), tmp_path / "out")


def test_a_folder_of_something_else_is_left_alone(model, tmp_path):
    """Of another model, of other settings, or of a training run."""
    source, text = str(model / "model"), (str(model / "text.jsonl"),)
    distill(source, text, Lean(), tmp_path / "a")
    for other, folder in ((Lean(sample_bytes=999), tmp_path / "a"), (Lean(), model)):
        with pytest.raises(UserError, match="holds something else"):
            distill(source, text, other, folder)
    assert isinstance(load(model / "model").patcher.model, EntropyModel)


@pytest.mark.parametrize("option", [["--steps", "0"], ["--sample-bytes", "0"], ["--val-every", "1"]])
def test_bad_options_are_told(model, tmp_path, option, capfd):
    with pytest.raises(SystemExit, match="2"):
        main(["distill", str(model / "model"), str(model / "text.jsonl"), "--out", str(tmp_path / "a"), *option])
    assert "greater than" in capfd.readouterr().err
    assert not (tmp_path / "a").exists()


def test_the_verb_reports(model, tmp_path, capfd):
    text = str(model / "text.jsonl")
    main(["distill", str(model / "model"), text, "--out", str(tmp_path / "a"), "--json"])
    out = json.loads(capfd.readouterr().out)
    assert out["kind"] == "ngram"
    main(["distill", str(model / "model"), text, "--out", str(tmp_path / "a")])  # again, for people
    assert "decisions agree" in capfd.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["distill", str(model / "model")])
    assert "distill needs text" in capfd.readouterr().err
