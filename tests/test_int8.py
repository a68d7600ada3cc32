"""Weights stored in eight bits: written, read everywhere, turned back, and refused where they are damaged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import blt, ids_of, noise, patcher
from safetensors.torch import load_file, save_file

from bytequilt import LM, UserError, convert, load
from bytequilt.cli import main
from bytequilt.config import HashConfig
from bytequilt.interop.directory import load_entropy, write_model
from bytequilt.interop.native import FORMAT, EightBits, ModelConfig
from bytequilt.model.int8 import Int8, joined, quantise, split

IDS = ids_of(noise(40), noise(9))
TABLE = "blt.encoder.hash"
ROWS = "blt.latent.stack.blocks.0.attention.qkv"
TEXT = (b"The ship was old, and the sea was grey. Nobody on board had seen the land for forty days, and the men "
        b"talked of nothing but water, bread and the wind that would not come. ")  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A model of fp32, and the same in eight bits, its entropy model apart and with it."""
    LM(blt(), patcher("entropy"), patch_bytes=4.5).save(tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "eight", dtype="int8")
    convert(tmp_path / "model", tmp_path / "both", dtype="int8", entropy_dtype="int8")
    return tmp_path


def stored(folder):
    return load_file(folder / "model.safetensors")


def said(folder):
    return json.loads((folder / "config.json").read_text()).get("int8")


def weights(lm):
    scorer = {} if lm.patcher.model is None else lm.patcher.model.state_dict()
    return {f"blt.{n}": w for n, w in lm.model.state_dict().items()} | {f"entropy.{n}": w for n, w in scorer.items()}


def assert_equal(some, others):
    assert {name: weight.dtype for name, weight in some.items()} == {n: w.dtype for n, w in others.items()}
    assert all(torch.equal(weight, others[name]) for name, weight in some.items())


def whole(tensors):
    """The twin: each number times the scale of its row, in fp64."""
    plain = {name: weight for name, weight in tensors.items() if not name.endswith(".scale")}
    for name, weight in plain.items():
        if weight.dtype is torch.int8:
            scales = tensors[name.replace(".weight", ".scale")]
            plain[name] = torch.stack([w.double() * s.double() for w, s in zip(weight, scales, strict=True)]).float()
    return plain


def test_matrices_are_whole_numbers_with_a_scale_for_each_row(folder):
    plain, eight, both = (stored(folder / name) for name in ("model", "eight", "both"))
    for tensors, networks in ((eight, ["blt"]), (both, ["blt", "entropy"])):
        for name, weight in plain.items():
            if weight.dim() == 1 or name.split(".")[0] not in networks:
                assert torch.equal(tensors[name], weight)
                continue
            scale = tensors[name.replace(".weight", ".scale")]
            assert (tensors[name].dtype, scale.dtype, scale.shape) == (torch.int8, torch.float32, weight.shape[:1])
            assert ((tensors[name] * scale[:, None] - weight).abs() <= scale[:, None] * 0.5001).all()
            assert (tensors[name].abs().amax(1) == 127).all()
    assert said(folder / "model") is None
    assert said(folder / "eight") == {"version": 1, "networks": ["blt"]}
    assert said(folder / "both") == {"version": 1, "networks": ["blt", "entropy"]}
    assert eight[f"{TABLE}.weight"].dtype is eight["blt.encoder.embed.weight"].dtype is torch.int8


def test_it_is_loaded_whole_or_as_it_is(folder):
    for name in ("eight", "both"):
        there = stored(folder / name)
        lm = load(folder / name)
        assert_equal(weights(lm), whole(there))
        assert all(weight.requires_grad for weight in lm.model.parameters())
        half = load(folder / name, dtype="bfloat16")
        assert {weight.dtype for weight in half.model.parameters()} == {torch.bfloat16}
        assert {weight.dtype for weight in half.patcher.model.parameters()} == {torch.float32}
        eight = load(folder / name, dtype="int8", entropy_dtype="int8", native=False)
        for key, weight in there.items():
            if name == "both" or key.startswith("blt."):
                assert torch.equal(weights(eight)[key], weight)
        with torch.no_grad():
            want, reached = (
                x.model(IDS, x.patcher(IDS)) for x in (lm, load(folder / name, dtype="int8", native=False))
            )
        torch.testing.assert_close(reached, want, atol=1e-4, rtol=1e-4)


def test_what_is_stored_is_not_split_anew(folder):
    """Numbers of another maker, whose rows do not reach 127, stay what they are."""
    tensors = stored(folder / "eight")
    tensors[f"{ROWS}.weight"] //= 2
    save_file(tensors, folder / "eight" / "model.safetensors")
    lm = load(folder / "eight", dtype="int8", native=False)
    assert torch.equal(weights(lm)[f"{ROWS}.weight"], tensors[f"{ROWS}.weight"])
    lm.save(folder / "saved")
    lm.save(folder / "again", torch.int8)
    convert(folder / "eight", folder / "copied")
    convert(folder / "eight", folder / "asked", dtype="int8")
    for name in ("saved", "again", "copied", "asked"):
        assert_equal(stored(folder / name), tensors)
        assert said(folder / name) == said(folder / "eight")


def test_there_and_back_is_exact(folder):
    """What eight bits hold is held exactly: whole and split again, the same numbers."""
    convert(folder / "both", folder / "whole", dtype="float32", entropy_dtype="float32")
    assert_equal(stored(folder / "whole"), whole(stored(folder / "both")))
    assert said(folder / "whole") is None
    convert(folder / "whole", folder / "again", dtype="int8", entropy_dtype="int8")
    first, again = stored(folder / "both"), stored(folder / "again")
    for name, weight in first.items():
        if weight.dtype is torch.int8:
            assert torch.equal(again[name], weight)
        torch.testing.assert_close(again[name], weight, atol=0, rtol=2e-7)
    convert(folder / "both", folder / "half", dtype="bfloat16")
    half = stored(folder / "half")
    assert torch.equal(half[f"{TABLE}.weight"], whole(first)[f"{TABLE}.weight"].bfloat16())
    assert said(folder / "half") == {"version": 1, "networks": ["entropy"]}


def test_a_model_saves_itself_in_eight_bits_and_whole_again(folder):
    lm = load(folder / "model")
    lm.save(folder / "saved", torch.int8)
    assert_equal(stored(folder / "saved"), stored(folder / "eight"))
    eight = load(folder / "both", dtype="int8", entropy_dtype="int8", native=False)
    eight.save(folder / "same")
    assert_equal(stored(folder / "same"), stored(folder / "both"))
    assert (folder / "same" / "config.json").read_bytes() == (folder / "both" / "config.json").read_bytes()
    eight.save(folder / "half", torch.bfloat16)
    assert {w.dtype for n, w in stored(folder / "half").items() if n.startswith("blt.")} == {torch.bfloat16}
    assert load(folder / "half").bits_per_byte(TEXT) == pytest.approx(lm.bits_per_byte(TEXT), rel=0.01)


@pytest.mark.parametrize("change", [{"hash": HashConfig(sizes=())}, {"encoder_cross": "none", "decoder_cross": "none"}])
def test_networks_that_lack_a_table_or_a_projection(tmp_path, change):
    LM(blt(**change), patcher("space")).save(tmp_path / "model", torch.int8)
    assert_equal(weights(load(tmp_path / "model")), whole(stored(tmp_path / "model")))
    assert load(tmp_path / "model", dtype="int8", native=False).generate("Once", max_bytes=3, seed=0).data


def test_an_entropy_model_alone(tmp_path):
    scorer = patcher("entropy").model
    quantise(scorer)
    write_model(tmp_path / "entropy", ModelConfig(format=FORMAT, entropy=scorer.config), None, scorer)
    assert said(tmp_path / "entropy") == {"version": 1, "networks": ["entropy"]}
    assert torch.equal(load_entropy(tmp_path / "entropy").embed.weight, joined(scorer.embed.weight, scorer.embed.scale))
    convert(tmp_path / "entropy", tmp_path / "whole", entropy_dtype="float32")
    assert load_entropy(tmp_path / "whole").embed.weight.dtype is torch.float32
    with pytest.raises(UserError, match="--entropy-dtype"):
        convert(tmp_path / "entropy", tmp_path / "other", dtype="float32")


def test_rows_that_are_zero_tiny_or_huge():
    rows = torch.tensor([[0.0, 0.0], [1e-38, -3e-39], [3e38, -1e38], [1.0, -1.0]])
    eight, scale = split(rows)
    assert scale.isfinite().all()
    assert (scale > 0).all()
    assert ((joined(eight, scale) - rows).abs() <= scale[:, None] * 0.5001).all()
    with pytest.raises(UserError, match="not finite"):
        split(torch.tensor([[1.0, float("nan")]]))


# ------------------------------------------------------------------------------------------------- what reads models


def test_the_shipped_model_loses_less_than_a_thousandth(tmp_path, capfd):
    main(["convert", "tiny", str(tmp_path / "eight"), "--dtype", "int8"])
    assert "MB, from bytequilt to bytequilt" in capfd.readouterr().out
    want = load("tiny").bits_per_byte(TEXT)
    for options in ({}, {"dtype": "int8", "native": False}):
        assert load(tmp_path / "eight", **options).bits_per_byte(TEXT) == pytest.approx(want, rel=1e-3)


def test_other_layouts_get_it_whole_and_say_so(folder, capfd):
    from test_interop import ours

    ours(patcher("entropy").rule).save(folder / "like-theirs", torch.int8)
    main(["convert", str(folder / "like-theirs"), str(folder / "hf"), "--to", "hf"])
    assert "note: weights of eight bits became float32 there: blt" in capfd.readouterr().err
    assert_equal(weights(load(folder / "hf")), weights(load(folder / "like-theirs")))
    for name, dtypes in (("model", {"dtype": "int8"}), ("like-theirs", {"entropy_dtype": "int8"})):
        with pytest.raises(UserError, match="own layout alone, not in hf"):
            convert(folder / name, folder / "other", "hf", **dtypes)
    convert(folder / "hf", folder / "from-hf", dtype="int8")
    assert_equal(stored(folder / "from-hf"), stored(folder / "like-theirs"))


def test_training_starts_from_it(folder):
    from bytequilt.train.run import start_from

    fresh = blt(5)
    start_from(fresh, load(folder / "eight").model, "eight")
    assert_equal(fresh.state_dict(), load(folder / "eight").model.state_dict())


def test_verbs_take_it(folder, capfd):
    model = str(folder / "both")
    (folder / "text").write_bytes(noise(60))
    main(["info", model])
    out = capfd.readouterr().out
    assert "those of the BLT and the entropy model are stored in eight bits" in " ".join(out.split())
    main(["info", model, "--json"])
    told = json.loads(capfd.readouterr().out)
    assert told["weight_bytes"] == (folder / "both" / "model.safetensors").stat().st_size
    assert told["config"]["int8"]["networks"] == ["blt", "entropy"]
    main(["eval", model, str(folder / "text"), "--json"])
    assert json.loads(capfd.readouterr().out)
    main(["patch", "Once upon a time", "--model", model])
    assert "patches, mean" in capfd.readouterr().out
    assert len(load(model, native=False).generate("Once", max_bytes=4, seed=0).data) == 4


def test_a_model_of_another_layout_is_loaded_in_eight_bits(folder):
    from test_interop import ours

    lm = ours(patcher("entropy").rule)
    lm.save(folder / "plain")
    convert(folder / "plain", folder / "hf", "hf")
    eight = load(folder / "hf", dtype="int8", native=False)
    assert sum(isinstance(module, Int8) for module in eight.model.modules())
    quantise(lm.model)
    assert_equal(eight.model.state_dict(), lm.model.state_dict())


def test_shards(folder):
    """Scales may lie in another file than their weights."""
    tensors, index = stored(folder / "eight"), {}
    for file, part in (
        ("1.safetensors", {n: w for n, w in tensors.items() if n.endswith("scale")}),
        ("2.safetensors", {n: w for n, w in tensors.items() if not n.endswith("scale")}),
    ):
        save_file(part, folder / "eight" / file)
        index |= dict.fromkeys(part, file)
    (folder / "eight" / "model.safetensors").unlink()
    (folder / "eight" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert_equal(weights(load(folder / "eight")), whole(tensors))
    convert(folder / "eight", folder / "one")
    assert_equal(stored(folder / "one"), tensors)


# ---------------------------------------------------------------------------------------------------- what is refused


def changed(folder, name, value):
    tensors = stored(folder)
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value(tensors.get(name))
    save_file(tensors, folder / "model.safetensors")


def configured(folder, value):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"int8": value}))


SCALE, WEIGHT = f"{ROWS}.scale", f"{ROWS}.weight"
DAMAGE = {
    "no scale": (lambda f: changed(f, SCALE, None), f"{ROWS}.weight is torch.int8, and has no {ROWS}.scale"),
    "half a scale": (lambda f: changed(f, SCALE, lambda s: s[:-1].clone()), "with an F32 for each row"),
    "a scale of halves": (lambda f: changed(f, SCALE, lambda s: s.half()), "with an F32 for each row"),
    "a scale of one number": (lambda f: changed(f, SCALE, lambda s: s[0].clone()), "with an F32 for each row"),
    "no rows": (
        lambda f: (changed(f, SCALE, lambda s: s[:0]), changed(f, WEIGHT, lambda w: w[:0])),
        "with an F32 for each row",
    ),
    "zero": (lambda f: changed(f, SCALE, lambda s: s.index_fill(0, torch.tensor(3), 0)), "must be above 0"),
    "below zero": (lambda f: changed(f, SCALE, lambda s: -s), "must be above 0"),
    "no number": (lambda f: changed(f, SCALE, lambda s: s.index_fill(0, torch.tensor(3), torch.nan)), "and finite"),
    "infinite": (lambda f: changed(f, SCALE, lambda s: s.index_fill(0, torch.tensor(0), torch.inf)), "and finite"),
    "a scale of nothing": (lambda f: changed(f, "blt.decoder.norm.scale", lambda _: torch.ones(32)), "unexpected"),
    "a norm of eight bits": (
        lambda f: changed(f, "blt.decoder.norm.weight", lambda w: w.to(torch.int8)),
        "norm.weight is torch.int8",
    ),
    "one matrix whole": (
        lambda f: (changed(f, SCALE, None), changed(f, WEIGHT, lambda w: w.float())),
        f"{WEIGHT} is torch.float32, which is not what its configuration says",
    ),
    "transposed": (lambda f: changed(f, WEIGHT, lambda w: w.t().contiguous()), "with an F32 for each row"),
    "unsaid": (lambda f: configured(f, None), "is torch.int8, which is not what its configuration says"),
    "of the other network": (lambda f: configured(f, {"networks": ["entropy"]}), "not what its configuration says"),
    "of no network": (lambda f: configured(f, {"networks": ["patcher"]}), "int8"),
    "of a later version": (lambda f: configured(f, {"version": 2, "networks": ["blt"]}), r"int8\.version"),
    "no networks": (lambda f: configured(f, {"networks": []}), "int8"),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_what_does_not_fit_is_one_line(folder, name, dtype):
    damage, message = DAMAGE[name]
    damage(folder / "eight")
    for use in (lambda f: load(f, dtype=dtype, native=False), lambda f: convert(f, folder / "new", dtype=dtype)):
        with pytest.raises(UserError, match=message) as caught:
            use(folder / "eight")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) <= 300 + len(str(folder))
    assert not (folder / "new").exists()


def test_a_network_that_is_not_there_has_no_eight_bits():
    with pytest.raises(ValueError, match="a network that is not there: entropy"):
        ModelConfig(format=FORMAT, blt=blt().config, int8=EightBits(networks=("entropy",)))


def test_weights_that_are_not_finite_do_not_fit(folder):
    lm = load(folder / "model")
    lm.model.latent.stack.blocks[0].attention.qkv.weight.data[0, 0] = torch.inf
    with pytest.raises(UserError, match="not finite"):
        lm.save(folder / "new", torch.int8)
    lm.save(folder / "infinite")
    for use in (lambda f: load(f, dtype="int8", native=False), lambda f: convert(f, folder / "new", dtype="int8")):
        with pytest.raises(UserError, match=r"latent.*not finite, which eight bits cannot hold"):
            use(folder / "infinite")
    assert not (folder / "new").exists()


def test_types_that_there_are_not(tmp_path):
    for options in ({"dtype": "float16"}, {"dtype": "int4"}, {"entropy_dtype": "bfloat16"}):
        with pytest.raises(UserError):
            convert("tiny", tmp_path / "new", **options)
    with pytest.raises(UserError, match="patches without one"):
        convert("letters", tmp_path / "new", entropy_dtype="int8")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak of a process itself")
def test_a_conversion_holds_a_piece_at_a_time(tmp_path):
    """The table is 96 MB whole."""
    model, hashed = blt(), HashConfig(sizes=(3, 4), rows=375_000)
    model.encoder.hash.weight = torch.nn.Parameter(torch.rand(2 * 375_000, 32))  # drawing normals would take seconds
    model.config = model.config.model_copy(update={"hash": hashed})
    LM(model, patcher("space")).save(tmp_path / "model")
    table = 2 * 375_000 * 32 * 4
    code = """
import torch, bytequilt.lm
from pathlib import Path
from bytequilt import convert
peak = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
before = peak()
convert("model", "eight", dtype="int8")
convert("eight", "whole", dtype="float32")
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 0.5 * table
