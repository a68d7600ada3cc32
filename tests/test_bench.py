"""The decoding benchmark: what it counts is right, whatever the machine. No test asserts a time."""

import json

import pytest
import torch
from conftest import blt, entropy_model, noise, patcher

from bytequilt import LM, Patcher, load
from bytequilt.baselines.networks import baseline_flops
from bytequilt.cli import main
from bytequilt.codec import encode
from bytequilt.config import BaselineConfig, RuleConfig, UserError
from bytequilt.evals import peers
from bytequilt.evals.decode import WARMUP, measure, speculation, sweep, weight_bytes
from bytequilt.view import figures

FIELDS = {
    "prompt", "output", "rows", "bytes_per_s", "ms_per_byte", "ms_per_byte_p50", "ms_per_byte_p95",
    "prefill_bytes_per_s", "latent_calls_per_byte", "mean_patch_bytes", "peak_mib", "floor_ms_per_byte", "times_floor",
}  # fmt: skip


@pytest.fixture(scope="module")
def lm():
    """A random model whose patches an entropy opens, three bytes long in the mean."""
    patches = Patcher(RuleConfig(threshold=0.0), entropy_model())
    patches.calibrate([noise(3000)], 3.0)
    return LM(blt(cross_heads=2), patches, patch_bytes=3.0)


@pytest.fixture(scope="module")
def model(lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    lm.save(folder)
    return str(folder)


# ------------------------------------------------------------------------------------------------------------ counting


@pytest.mark.parametrize("rows", [1, 3])
def test_patches_are_those_of_the_patcher(lm, rows):
    prompt, output = 20, 50
    length = prompt + WARMUP + output
    text = noise(rows * length, seed=5)
    found = measure(lm, prompt, output, rows, text)
    pieces = [torch.from_numpy(encode(text[at : at + length]))[None] for at in range(0, len(text), length)]
    closes = torch.stack([_closes(lm.patcher, ids_BN)[0, -output:] for ids_BN in pieces])
    assert found.mean_patch_bytes == pytest.approx(rows * output / int(closes.sum()))
    assert found.latent_calls_per_byte == pytest.approx(int(closes.any(0).sum()) / (rows * output))


def test_a_short_text_is_read_again(lm):
    assert measure(lm, 4, 6, 2, b"ab").rows == 2
    with pytest.raises(UserError, match="needs text"):
        measure(lm, 4, 6, 2, b"")


def test_a_byte_without_a_patch_is_fine():
    found = measure(LM(blt(), patcher(RuleConfig(kind="fixed", stride=100))), 4, 5, 1, noise(20))
    assert (found.mean_patch_bytes, found.latent_calls_per_byte) == (None, 0)


@pytest.mark.parametrize("cross", ["all", "first", "none"])
def test_every_weight_is_read_for_a_byte_or_for_a_patch(lm, cross):
    model = LM(blt(decoder_cross=cross), lm.patcher)
    byte, patch, row = weight_bytes(model)
    scorer = model.patcher.model
    tables = [model.model.encoder.embed.weight, model.model.encoder.hash.weight, scorer.embed.weight]
    weights = sum(w.nbytes for network in (model.model, scorer) for w in network.parameters())
    assert byte + patch == weights - sum(table.nbytes for table in tables)
    assert row == 4 * (32 + 4 * 32 + 16)


def test_speculation_guesses(lm):
    found = speculation(lm, [b"The ", b"And "], 20, 3)
    assert found["speculate"] == 3
    assert 0 <= found["acceptance"] <= 1
    assert found["decoder_calls_per_byte"] > found["latent_calls_per_byte"] > 0
    assert found["gain"] == pytest.approx(found["bytes_per_s"] / found["plain_bytes_per_s"])


# ---------------------------------------------------------------------------------------------------------- the verb


def test_json_keeps_its_promises(model, capfd):
    options = ["--prompt", "8", "16", "--output", "12", "--rows", "1", "2", "--speculate", "2"]
    main(["bench", "decode", "--model", model, *options, "--json"])
    found = json.loads(capfd.readouterr().out)
    assert set(found) == {"model", "machine", "threads", "read_gb_per_s", "settings", "speculation"}
    assert found["threads"] == 1
    assert [(one["prompt"], one["output"], one["rows"]) for one in found["settings"]] == [
        (8, 12, 1), (8, 12, 2), (16, 12, 1), (16, 12, 2),
    ]  # fmt: skip
    for one in found["settings"]:
        assert set(one) == FIELDS
        assert all(value > 0 for value in one.values() if value is not None)
        assert one["ms_per_byte_p50"] <= one["ms_per_byte_p95"]
        assert one["bytes_per_s"] == pytest.approx(1e3 * one["rows"] / one["ms_per_byte"])
        assert one["times_floor"] == pytest.approx(one["ms_per_byte"] / one["floor_ms_per_byte"])
        assert one["latent_calls_per_byte"] <= 1


def test_people_get_a_table(model, capfd):
    main(["bench", "decode", "--model", model, "--prompt", "4", "--output", "6", "--rows", "2", "--speculate", "2"])
    out = " ".join(capfd.readouterr().out.split())
    assert "prompt output rows B/s" in out
    assert "thread(s)" in out
    assert "speculate 2:" in out


@pytest.mark.parametrize(("name", "begins"), [("a.svg", b"<?xml"), ("a.PNG", b"\x89PNG")])
def test_a_plot(tmp_path, name, begins):
    pytest.importorskip("matplotlib")
    figures.decode_speed([("ours", 900.0, 2000.0), ("theirs", 13.5, None)], tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "decode"),
        (["draw"], "bench measures decode, train or score, not 'draw'"),
        (["train", "--prompt", "8"], "bench train takes no --prompt; it takes --rows, --row-bytes"),
        (["score", "--context", "1"], "--context must be at least 2 and at most 8190"),
        (["decode", "--dtype", "bf16"], "--dtype is float32 or int8, not 'bf16'"),
        (["train", "--dtype", "int8"], "--dtype int8 is for bench decode, alone or beside a Llama"),
        (
            ["decode", "--dtype", "int8", "--peer", "blt-hf"],
            "--dtype int8 is for bench decode, alone or beside a Llama",
        ),
        (["score", "--speculate", "2"], "--speculate and --plot are for bench decode"),
        (["decode", "--peer", "gpt"], "no peer 'gpt'; there are llama-32k, llama-128k, blt-hf"),
        (["decode", "--repeats", "0"], "repeats must be 1 to 1000"),
        (["decode", "--rows", "0"], "at least 1"),
        (["decode", "--output", "4", "-1"], "at least 1"),
        (["decode", "--threads", "0"], "threads must be 1 to 1024"),
        (["decode", "--speculate", "-1"], "speculate at least 0"),
        (["decode", "--plot", "a.pdf"], ".png or .svg file, unlike a.pdf"),
        (["decode", "--model", "absent"], "no model at absent"),
    ],
)
def test_one_clear_line(arguments, words, capfd):
    with pytest.raises(SystemExit, match="2"):
        main(["bench", *arguments])
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert words in err


SETTINGS = {
    "decode": ["--prompt", "4", "--output", "6", "--rows", "1", "2"],
    "train": ["--row-bytes", "24"],
    "score": ["--size", "200", "--context", "64"],
}


@pytest.mark.parametrize("measure", SETTINGS)
@pytest.mark.parametrize("peer", ["llama-32k", "blt-hf"])
def test_sides_take_turns(model, capfd, monkeypatch, measure, peer):
    pytest.importorskip("transformers")
    monkeypatch.setitem(peers.LLAMAS, "llama-32k", 300)
    main(["bench", measure, "--model", model, "--peer", peer, *SETTINGS[measure], "--repeats", "2", "--json"])
    found = json.loads(capfd.readouterr().out)
    assert (found["measure"], found["peer"], found["repeats"]) == (measure, peer, 2)
    assert len(found["settings"]) == (2 if measure == "decode" else 1)
    for part in (found, *found["settings"]):
        for clock in ("processor", "seconds"):
            assert 0 < part["ratio"][clock]["min"] <= part["ratio"][clock]["median"] <= part["ratio"][clock]["max"]
    for row in found["settings"]:
        assert [side["side"] for side in row["sides"]] == [model, peer]
        assert all(0 < side["min"] <= side["bytes_per_s"] <= side["max"] for side in row["sides"])


def test_both_sides_in_eight_bits(model, capfd, monkeypatch):
    pytest.importorskip("transformers")
    pytest.importorskip("numba", reason="compiled steps need the extra `fast`")
    monkeypatch.setitem(peers.LLAMAS, "llama-32k", 300)
    networks, quantised = [], peers.eight_bits
    monkeypatch.setattr(
        peers, "eight_bits", lambda network: networks.append((network, quantised(network))) or networks[-1][1]
    )
    options = ["--dtype", "int8", "--rows", "2", "--prompt", "4", "--output", "6", "--repeats", "1", "--json"]
    main(["bench", "decode", "--model", model, "--peer", "llama-32k", *options])
    found = json.loads(capfd.readouterr().out)
    assert found["ratio"]["processor"]["min"] > 0
    ((whole, eight),) = networks
    assert found["settings"][0]["sides"][1]["parameters"] == sum(weight.numel() for weight in whole.parameters())
    ids = torch.arange(20)[None]
    logits, rounded = (network(ids).logits for network in (whole, eight))
    assert 0 < (logits - rounded).abs().max() < 0.1 * logits.abs().max()


@pytest.mark.parametrize("measure", ["train", "score"])
def test_a_side_alone_is_measured_without_a_ratio(model, capfd, measure):
    main(["bench", measure, "--model", model, *SETTINGS[measure], "--repeats", "1"])
    out = " ".join(capfd.readouterr().out.split())
    assert "side setting B/s slowest" in out
    assert "times" not in out


def test_a_llama_does_equal_work(monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setitem(peers.LLAMAS, "llama-32k", 300)
    lm = load("tiny")
    for training in (False, True):
        network, shape = peers.Llama("llama-32k", lm, 4.5)._built(512, training)
        config = BaselineConfig.model_construct(stack=shape, vocabulary=300, token_bytes=4.5)
        ours = lm.flops(4.5, 512)
        wanted = ours["total"] - (ours["entropy"] if training else 0)
        assert baseline_flops(config, 512)["total"] == pytest.approx(wanted, rel=0.02)
        weights = sum(layer.weight.numel() for layer in network.modules() if isinstance(layer, torch.nn.Linear))
        attention = 4 * 512 / 4.5 / 2 * shape.dim * shape.layers
        assert (2 * weights + attention) / 4.5 == pytest.approx(wanted, rel=0.03)


def test_work_that_no_llama_can_equal_is_refused(model, capfd):
    pytest.importorskip("transformers")
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "decode", "--model", model, "--peer", "llama-32k"])
    err = capfd.readouterr().err
    assert "no transformer over 32,000 tokens has" in err
    assert err.count("\n") == 1


def test_peers_name_their_extra(monkeypatch, capfd):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "score", "--peer", "llama-32k"])
    err = capfd.readouterr().err
    assert "bytequilt[hf]" in err
    assert err.count("\n") == 1


def test_plots_name_their_extra(monkeypatch, capfd):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "decode", "--plot", "a.svg"])
    assert "bytequilt[plot]" in capfd.readouterr().err


def test_numbers_below_one_are_refused(lm):
    for lists in (([0], [1], [1]), ([1], [], [1]), ([], [], [])):
        with pytest.raises(UserError, match="at least 1"):
            sweep(lm, *lists)


def _closes(patches: Patcher, ids_BN: torch.Tensor) -> torch.Tensor:
    from bytequilt.patching import rules

    return rules.closes(patches.rule, ids_BN, patches.entropy(ids_BN))
