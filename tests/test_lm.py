import inspect
import json
import math
import os
import subprocess
import sys
from dataclasses import fields

import pytest
import torch
from conftest import CROSS, RULES, blt, entropy_model, ids_of, noise, patcher
from safetensors.torch import load_file

import bytequilt
from bytequilt.codec import BOS, VOCAB_SIZE
from bytequilt.config import EntropyConfig, HashConfig, UserError
from bytequilt.infer.sampling import Sampling
from bytequilt.interop.directory import load_entropy, write_model
from bytequilt.interop.native import FORMAT, ModelConfig
from bytequilt.lm import LM, SamplingOptions, load

IDS = ids_of(noise(40), noise(9))
VARIANTS = [({"encoder_cross": e, "decoder_cross": d}, "entropy") for e, d in CROSS]
VARIANTS += [({"hash": HashConfig(sizes=())}, "space"), ({}, "combined"), ({}, "fixed"), ({}, "entropy-max")]


def logits(lm):
    with torch.no_grad():
        return lm.model(IDS, lm.patcher(IDS))


@pytest.fixture
def saved(tmp_path):
    LM(blt(), patcher("entropy"), patch_bytes=4.5).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(("change", "kind"), VARIANTS)
def test_a_saved_model_gives_the_same_logits(tmp_path, change, kind):
    lm = LM(blt(**change), patcher(kind))
    lm.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert torch.equal(logits(again), logits(lm))
    assert (again.patcher.rule, again.patcher.fingerprint) == (lm.patcher.rule, lm.patcher.fingerprint)
    assert again.generate("Once", max_bytes=20, seed=0).data == lm.generate("Once", max_bytes=20, seed=0).data


def test_a_model_directory_is_a_configuration_and_weights(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]
    config = ModelConfig.model_validate_json((saved / "config.json").read_text())
    assert (config.format, config.patch_bytes, config.patching) == (FORMAT, 4.5, RULES["entropy"])
    assert [path.name for path in saved.parent.iterdir()] == ["model"]
    assert len({path.stat().st_mode for path in saved.iterdir()}) == 1


def test_saving_again_replaces_the_model(saved):
    LM(blt(1), patcher("space")).save(saved)
    assert load(saved).patcher.rule.kind == "space"
    assert load_entropy(saved) is None


def test_a_run_directory_is_its_model(saved):
    assert torch.equal(logits(load(saved.parent)), logits(load(saved)))
    assert torch.equal(logits(load(str(saved))), logits(load(saved)))


def test_weights_can_be_loaded_again_in_training(saved):
    assert all(weight.requires_grad for weight in load(saved).model.parameters())


def test_half_precision_is_for_the_blt_alone(saved):
    lm, half = load(saved), load(saved, dtype="bfloat16")
    assert {weight.dtype for weight in half.model.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in half.patcher.model.parameters()} == {torch.float32}
    assert torch.equal(half.patcher(IDS).closes_BN, lm.patcher(IDS).closes_BN)
    torch.testing.assert_close(logits(half), logits(lm), atol=0.5, rtol=0.1)
    assert not torch.equal(logits(half), logits(lm))
    assert half.generate("Once", max_bytes=1, seed=0).stats.bytes == 1


def test_weights_can_be_stored_in_half_precision(saved):
    lm = load(saved)
    lm.save(saved.parent / "half", dtype=torch.bfloat16)
    stored = load_file(saved.parent / "half" / "model.safetensors")
    assert {(name.split(".")[0], weight.dtype) for name, weight in stored.items()} == {
        ("blt", torch.bfloat16),
        ("entropy", torch.float32),
    }
    assert torch.equal(logits(load(saved.parent / "half", dtype="bfloat16")), logits(load(saved, dtype="bfloat16")))


# ---------------------------------------------------------------------------------------------- what cannot be loaded


def config_with(**change):
    def damage(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return damage


def without(name):
    def damage(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != name}))

    return damage


def cut(name, length):
    def damage(folder):
        (folder / name).write_bytes((folder / name).read_bytes()[:length])

    return damage


DAMAGE = {
    "entropy model alone": (without("blt"), "holds an entropy model alone"),
    "no rule": (without("patching"), "a BLT is needed"),
    "no format": (without("format"), "neither `format`"),
    "another program's": (
        lambda f: (f / "config.json").write_text('{"model_type": "bert"}'),
        "is not a bytequilt model",
    ),
    "a list": (lambda f: (f / "config.json").write_text('["BertModel"]'), "must hold a JSON object"),
    "future format": (config_with(format=FORMAT + 1), f"format {FORMAT + 1}; this version reads format {FORMAT}"),
    "unknown field": (config_with(colour="red"), "colour"),
    "not JSON": (cut("config.json", 40), "is not JSON"),
    "not text": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "is not UTF-8"),
    "no configuration": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "damaged or cut short"),
    "empty weights": (cut("model.safetensors", 0), "damaged or cut short"),
    "half of the header": (cut("model.safetensors", 100), "damaged or cut short"),
    "half of the weights": (cut("model.safetensors", 40_000), "damaged or cut short"),
    "weights of another shape": (lambda f: LM(blt(slots=1), patcher("entropy")).save(f.parent / "other"), None),
    "entropy model missing": (without("entropy"), "'entropy' needs an entropy model"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_cannot_be_loaded_is_one_line(saved, name):
    damage, message = DAMAGE[name]
    damage(saved)
    if message is None:
        (saved.parent / "other" / "model.safetensors").replace(saved / "model.safetensors")
        message = r"has shape \[.*\], and the configuration says \[.*\]"
    with pytest.raises(UserError, match=message) as caught:
        load(saved)
    assert "\n" not in str(caught.value)
    assert "model" in str(caught.value)


@pytest.mark.parametrize("name", ["nobody-knows-this", "./nowhere/at-all", "/nowhere/at-all/model"])
def test_a_name_that_is_no_model_is_named(name):
    with pytest.raises(UserError, match=f"no model at {name}"):
        load(name)


def test_a_precision_that_does_not_exist_is_named(saved):
    with pytest.raises(UserError, match="float7"):
        load(saved, dtype="float7")


def test_float16_is_refused_for_its_range(saved):
    with pytest.raises(UserError, match="float16 is too narrow"):
        load(saved, dtype="float16")


def test_an_entropy_model_alone_is_a_model_directory(tmp_path):
    model = entropy_model()
    write_model(
        tmp_path / "entropy",
        ModelConfig(format=FORMAT, entropy=EntropyConfig(**model.config.model_dump())),
        None,
        model,
    )
    again = load_entropy(tmp_path / "entropy")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    with pytest.raises(UserError, match="holds an entropy model alone"):
        load(tmp_path / "entropy")


# ------------------------------------------------------------------------------------------------------------ patches


TEXTS = ["Daenerys Targaryen", "", "é", "日本\n", b"\xff\xfe broken \xe2\x82", noise(200)]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
@pytest.mark.parametrize("kind", RULES)
def test_patches_are_the_text_cut_where_the_model_cuts_it(kind, text):
    lm, data = LM(blt(), patcher(kind)), text.encode() if isinstance(text, str) else text
    found = json.loads(json.dumps(lm.patch(text).json()))
    starts = lm.patcher(ids_of(data, eos=False)).starts[0]
    assert [patch["start"] for patch in found["patches"]] == [start - 1 for start in starts if start]
    assert b"".join(bytes.fromhex(patch["hex"]) for patch in found["patches"]) == data
    assert all(patch["length"] == len(patch["hex"]) // 2 > 0 for patch in found["patches"])
    assert [patch["text"] for patch in found["patches"]] == [
        bytes.fromhex(patch["hex"]).decode("utf-8", "replace") for patch in found["patches"]
    ]


def test_entropies_are_those_that_opened_the_patches_in_bits():
    lm, data = LM(blt(), patcher("entropy")), noise(60)
    bits = lm.patcher.entropy(ids_of(data, eos=False))[0] / math.log(2)
    found = lm.patch(data)
    assert found.threshold_bits == pytest.approx(RULES["entropy"].threshold / math.log(2))
    assert found.patches[0].entropy_bits is None
    for patch in found.patches[1:]:
        assert patch.entropy_bits == pytest.approx(float(bits[patch.start]), abs=1e-4)
        assert patch.entropy_bits > found.threshold_bits
    assert found.entropy_bits == pytest.approx(bits[:-1].tolist(), abs=1e-4)


def test_a_patch_that_was_merely_cut_has_no_entropy():
    lm, data = LM(blt(), patcher("entropy-max")), noise(60)
    natural = {
        patch.start
        for patch in LM(blt(), patcher(RULES["entropy-max"].model_copy(update={"max_length": None}))).patch(data)
    }
    found = lm.patch(data)
    assert len(found) > len(natural)
    for patch in found.patches[1:]:
        assert (patch.entropy_bits is not None) == (patch.start in natural)


@pytest.mark.parametrize("kind", ["space", "fixed", "byte"])
def test_rules_without_entropies_have_none_to_show(kind):
    found = json.loads(json.dumps(LM(blt(), patcher(kind)).patch("some text").json()))
    assert found["threshold_bits"] is None
    assert {patch["entropy_bits"] for patch in found["patches"]} == {None}


def test_loading_draws_no_random_number_and_imports_no_compiler():
    code = """
import sys, torch
before = torch.random.get_rng_state()
from bytequilt import load
load("tiny").patch("hi")
assert torch.equal(before, torch.random.get_rng_state())
print([name for name in ("torch._dynamo", "sympy", "torch._inductor", "jinja2") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "nonsense", "meta", "xpu", "cuda:-1", ""])
def test_a_device_that_is_not_there_is_one_line(device):
    if (device == "cuda" and torch.cuda.is_available()) or (device == "mps" and torch.backends.mps.is_available()):
        pytest.skip("it is there")
    with pytest.raises(UserError, match="cannot use device"):
        load("tiny", device=device)
    with pytest.raises(UserError, match="cannot use device"):
        load("tiny").to(device)


def test_devices_and_types_go_by_name_or_by_themselves():
    lm = load("tiny", device=torch.device("cpu"), dtype=torch.bfloat16)
    assert next(lm.model.parameters()).dtype is torch.bfloat16
    assert next(load("tiny", dtype="bfloat16").model.parameters()).dtype is torch.bfloat16
    assert load("tiny", device="auto").to("auto").to("cpu").model.decoder.head.weight.device.type == "cpu"
    with pytest.raises(UserError, match="dtype must be one of float32"):
        load("tiny", dtype=torch.int64)


def test_signatures_show_the_options_of_sampling():
    """In notebooks and `help` by the signature, in editors by the TypedDict: both name the fields of Sampling."""
    names = {field.name for field in fields(Sampling)}
    assert set(SamplingOptions.__annotations__) == names
    for method in (LM.generate, LM.stream, load("tiny").generate):
        parameters = inspect.signature(method).parameters
        assert names <= set(parameters)
        assert parameters["temperature"].default == Sampling().temperature
        assert not [p for p in parameters.values() if p.kind is p.VAR_KEYWORD]


def test_an_lm_says_what_it_is():
    lm = load("tiny")
    kind = f"kind={lm.patcher.rule.kind}"
    assert all(word in repr(lm) for word in ("latent transformer", "parameters", kind, "float32 on cpu"))
    assert "languages en, ru, multilingual" in repr(lm)
    assert {"load", "LM", "Patcher", "convert"} <= set(dir(bytequilt))


@pytest.mark.parametrize(
    "head", ["", "---\nlanguage: [\n---\n", "---\nlicense: mit\n---\n", "---\nlanguage: ru\n---\n"]
)
def test_languages_are_those_of_a_card_that_can_be_read(saved, head):
    (saved / "README.md").write_text(head + "# A model", encoding="utf-8")
    assert ("languages ru;" in repr(load(saved))) == ("language: ru" in head)
    (saved / "README.md").unlink()
    assert "languages" not in repr(load(saved))


def test_a_layer_count_beyond_the_file_is_refused_before_anything_is_built(saved):
    config = json.loads((saved / "config.json").read_text())
    config["blt"]["latent"]["layers"] = 4000
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="4006 layers, and there are"):
        load(saved)
    config["blt"]["latent"]["layers"] = 10**9
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"blt\.latent\.layers"):
        load(saved)


def test_a_model_is_saved_beside_what_a_folder_holds_and_over_no_file(tmp_path):
    (note := tmp_path / "models" / "note.txt").parent.mkdir()
    note.write_text("mine", encoding="utf-8")
    lm = LM(blt(), patcher("space"))
    lm.save(note.parent)
    lm.save(note.parent)
    assert sorted(os.listdir(note.parent)) == ["config.json", "model.safetensors", "note.txt"]
    assert note.read_text(encoding="utf-8") == "mine"
    assert load(note.parent, native=False).patcher.rule == lm.patcher.rule
    with pytest.raises(UserError, match="it is a file"):
        lm.save(note)
    assert note.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("ids", [[VOCAB_SIZE], [-1], [BOS, 2**40], [BOS, -1, 70]])
def test_ids_out_of_the_vocabulary_are_refused(ids):
    lm = LM(blt(), patcher("entropy"))
    for read in (lambda ids_N: lm.patcher(ids_N[None]), lm.session().feed):
        with pytest.raises(UserError, match="ids must be 0 to 259"):
            read(torch.tensor(ids))
