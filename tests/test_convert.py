"""Meta's layouts, the released shapes, files that are damaged, and what a conversion costs and leaves behind."""

import json
import shutil
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest
import torch
from conftest import blt, noise, patcher
from safetensors.torch import load_file, save_file
from test_interop import SHAPES, TEXTS, assert_parity, change, hugging_face, ours

from bytequilt import LM, convert, load
from bytequilt.cli import main
from bytequilt.config import RuleConfig, StackConfig, UserError
from bytequilt.interop import Directory, names
from bytequilt.interop.stored import mapped

transformers = pytest.importorskip("transformers")


# ------------------------------------------------------------------------------------------------------- Meta's layouts

RENAMED = [
    ("model.local_", "local_"),
    ("model.global_", "global_"),
    ("lm_head.", "local_decoder.output."),
    ("embed_tokens", "tok_embeddings"),
    ("self_attn.", "attention."),
    ("mlp.gate_proj", "feed_forward.w1"),
    ("mlp.up_proj", "feed_forward.w3"),
    ("mlp.down_proj", "feed_forward.w2"),
    ("input_layernorm", "attention_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("q_norm", "cross_attn_norm_q"),
    ("k_norm", "cross_attn_norm_kv"),
    *((f"{part}_proj", f"w{part}") for part in "qkvo"),
]
"""The slow twin of the table: theirs to Meta's, word by word."""


def metas(theirs):
    """Their weights under Meta's names: the BLT's and the entropy model's."""
    model, entropy = {}, {}
    for name, weight in theirs.state_dict().items():
        if name == "model.encoder_hash_tok_embedding.weight":
            tables = weight.chunk(len(weight) // theirs.config.encoder_hash_byte_group_vocab)
            model |= {f"encoder_hash_tok_embedding.{i}.weight": table.clone() for i, table in enumerate(tables)}
            continue
        inside = name.startswith("model.patcher.")
        for before, after in RENAMED:
            name = name.replace("model.patcher.lm_head", "output").replace("model.patcher.", "").replace(before, after)
        (entropy if inside else model)[name] = weight.clone()
    return model, entropy


def arguments(theirs, **more):
    c = theirs.config
    return {
        "seed": 42,
        "vocab_size": 260,
        "dim": 512,
        "dim_global": c.global_config.hidden_size,
        "n_layers_global": c.global_config.num_hidden_layers,
        "n_heads_global": c.global_config.num_attention_heads,
        "n_kv_heads_global": c.global_config.num_key_value_heads,
        "dim_local_encoder": c.encoder_config.hidden_size,
        "n_layers_local_encoder": c.encoder_config.num_hidden_layers,
        "n_heads_local_encoder": c.encoder_config.num_attention_heads,
        "dim_local_decoder": c.decoder_config.hidden_size,
        "n_layers_local_decoder": c.decoder_config.num_hidden_layers,
        "n_heads_local_decoder": c.decoder_config.num_attention_heads,
        "cross_attn_encoder": True,
        "cross_attn_decoder": True,
        "cross_attn_k": c.cross_attn_k,
        "cross_attn_nheads": c.encoder_config.num_attention_heads,
        "cross_attn_all_layers_encoder": False,
        "cross_attn_all_layers_decoder": True,
        "cross_attn_init_by_pooling": True,
        "cross_attn_window_encoder": None,
        "downsampling_by_pooling": "max",
        "encoder_hash_byte_group_size": "3,4,5,6,7,8",
        "encoder_hash_byte_group_vocab": c.encoder_hash_byte_group_vocab,
        "encoder_hash_byte_group_nb_functions": c.encoder_hash_byte_group_nb_functions,
        "local_attention_window_len": c.local_attention_window_len,
        "multiple_of": 8,
        "rope_theta": 500000.0,
        "patching_mode": "entropy",
        "patching_threshold": c.patching_threshold,
        "max_seqlen": 4096,
        "log_patch_lengths": True,
    } | more


def parameters(theirs):
    c = theirs.config.patcher_config
    return {
        "entropy_model": {
            "dim": c.hidden_size,
            "n_layers": c.num_hidden_layers,
            "n_heads": c.num_attention_heads,
            "max_seqlen": 8192,
            "vocab_size": 260,
            "ffn_dim_multiplier": 1.0,
            "multiple_of": 8,
            "sliding_window": c.sliding_window,
        }
    }


@pytest.fixture(scope="module")
def theirs():
    """Of widths that Meta's formula gives: 8/3 of the width, rounded up to a multiple of 8."""
    eights = [{"intermediate_size": size} for size in (88, 176, 88, 48)]
    return hugging_face(change(*eights, encoder_hash_byte_group_nb_functions=2))


def metas_widths(rule, **fields):
    """A model of ours in those widths."""
    stack = StackConfig(dim=32, layers=1, heads=4, ffn_dim=88, window=12)
    wide = StackConfig(dim=64, layers=2, heads=4, kv_heads=2, ffn_dim=176)
    shape = {"encoder": stack, "decoder": stack, "latent": wide}
    return ours(rule, **({"entropy": {"ffn_dim": 48}} | shape | fields))


def as_hub(theirs, folder, **more):
    model, entropy = metas(theirs)
    (folder / "entropy_model").mkdir(parents=True)
    save_file(model, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"args": arguments(theirs, **more)}))
    (folder / "entropy_model" / "params.json").write_text(json.dumps(parameters(theirs)))
    torch.save({"model": entropy}, folder / "entropy_model" / "consolidated.pth")
    return folder


def as_consolidated(theirs, folder):
    """Folders side by side, as in facebook/blt; rotary tables and optimizer steps come along."""
    model, entropy = metas(theirs)
    for place, weights, params in (
        (folder / "blt_1b", model, {"name": "blt", "model": arguments(theirs)}),
        (folder / "entropy_model", entropy, parameters(theirs)),
    ):
        place.mkdir(parents=True)
        (place / "params.json").write_text(json.dumps(params))
        rotary = {"rope_embeddings.freqs_cis": torch.zeros(4, 2, dtype=torch.complex64)}
        torch.save(weights | rotary, place / "consolidated.pth")
        torch.save({}, place / "another.pth")
    return folder / "blt_1b"


@pytest.mark.parametrize("layout", [as_hub, as_consolidated])
def test_metas_model_is_the_same_here(tmp_path, theirs, layout):
    folder = layout(theirs, tmp_path / "meta")
    assert_parity(load(folder), theirs, TEXTS[1:3])
    assert convert(folder, tmp_path / "ours")["from"] == "meta"
    assert_parity(load(tmp_path / "ours"), theirs, TEXTS[1:2])


def test_a_model_leaves_for_metas_layout_and_comes_back(tmp_path, theirs):
    theirs.save_pretrained(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "meta", "meta")
    model, entropy = metas(theirs)
    written = load_file(tmp_path / "meta" / "model.safetensors")
    assert {name: w.tolist() for name, w in written.items()} == {name: w.tolist() for name, w in model.items()}
    pickled = torch.load(tmp_path / "meta" / "entropy_model" / "consolidated.pth", weights_only=True)["model"]
    assert {name: w.tolist() for name, w in pickled.items()} == {name: w.tolist() for name, w in entropy.items()}
    assert_parity(load(tmp_path / "meta"), theirs, TEXTS[1:2])


RULES = {
    "entropy": RuleConfig(threshold=1.0, max_length=9),
    "monotonic": RuleConfig(kind="monotonic", rise=0.5),
    "combined": RuleConfig(kind="combined", threshold=1.0, rise=0.5),
    "space": RuleConfig(kind="space"),
    "fixed": RuleConfig(kind="fixed", stride=6),
    "byte": RuleConfig(kind="byte"),
}


@pytest.mark.parametrize("kind", RULES)
def test_every_way_of_patching_goes_to_meta_and_back(tmp_path, kind):
    lm = metas_widths(RULES[kind])
    lm.save(tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "meta", "meta")
    found = Directory.open(tmp_path / "meta").config
    assert (found.patching, found.blt, found.entropy) == (lm.patcher.rule, lm.model.config, lm.patcher.model.config)


NOT_METAS = {
    "theta": ({"latent": StackConfig(dim=64, layers=1, heads=2, ffn_dim=40, rope_theta=7.0)}, "one rope_theta"),
    "width": ({"latent": StackConfig(dim=64, layers=1, heads=2, ffn_dim=500)}, "does not give"),
    "window": ({"latent": StackConfig(dim=64, layers=1, heads=2, ffn_dim=40, window=7)}, "one window"),
    "key heads": ({"cross_kv_heads": 2}, "shares key heads"),
    "no projection": ({"slots": 1, "latent": StackConfig(dim=32, layers=1, heads=2, ffn_dim=40)}, "no decoder proj"),
}


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (RuleConfig(kind="budget", threshold=9), "kind 'budget'"),
        (RuleConfig(kind="words"), "kind 'words'"),
        (RuleConfig(kind="space", after="=", digits="each"), "`after`, `digits`"),
    ],
)
def test_rules_that_metas_code_does_not_know_are_refused(tmp_path, rule, said):
    metas_widths(rule).save(tmp_path / "ours")
    with pytest.raises(UserError, match=f"no place for patching of .*{said}"):
        convert(tmp_path / "ours", tmp_path / "meta", "meta", lossy=True)


@pytest.mark.parametrize("name", NOT_METAS)
def test_what_metas_layout_has_no_place_for_is_refused(tmp_path, name):
    fields, said = NOT_METAS[name]
    metas_widths(RuleConfig(kind="byte"), **fields).save(tmp_path / "ours")
    with pytest.raises(UserError, match=said):
        convert(tmp_path / "ours", tmp_path / "meta", "meta", lossy=True)


ARGUMENTS = {
    "unknown": ({"dim_globul": 3}, "dim_globul is none of the arguments"),
    "window": ({"cross_attn_window_encoder": 512}, "cross_attn_window_encoder must be None or 1, not 512"),
    "pooling": ({"downsampling_by_pooling": "mean"}, "downsampling_by_pooling must be max"),
    "mode": ({"patching_mode": "bpe"}, "patching_mode must be entropy, space"),
    "patch size": ({"patching_mode": "static", "patch_size": 4.5}, "static of a whole patch_size"),
    "projection": ({"dim_token": 7}, "dim_token must be"),
    "nothing": ({"dim_global": None}, "no arguments of a BLT"),
    "width": ({"dim_global": "wide"}, "configuration cannot be read"),
    "rounding": ({"multiple_of": "x"}, "configuration cannot be read"),
    "lengths": ({"encoder_hash_byte_group_size": "3,x"}, "configuration cannot be read"),
    "lengths fall": ({"encoder_hash_byte_group_size": [5, 3]}, "must ascend"),
    "threshold": ({"patching_threshold": "high"}, "threshold"),
    "no stride": ({"patching_mode": "static", "patch_size": None}, "static of a whole patch_size"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_what_metas_arguments_say_and_nothing_here_can_do_is_refused(tmp_path, theirs, name):
    fields, said = ARGUMENTS[name]
    with pytest.raises(UserError, match=said):
        load(as_hub(theirs, tmp_path / "meta", **fields))


@pytest.mark.parametrize("args", [3, [1, 2], "blt"])
def test_arguments_that_are_none_are_one_line(tmp_path, theirs, args):
    folder = as_hub(theirs, tmp_path / "meta")
    (folder / "config.json").write_text(json.dumps({"args": args}))
    with pytest.raises(UserError):
        load(folder)


def patched(folder, **patcher_args):
    """With arguments of the patcher beside those of the entropy model."""
    path = folder / "entropy_model" / "params.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data": {"patcher_args": patcher_args}}))


def test_the_patcher_of_meta_is_that_of_its_entropy_model(tmp_path, theirs):
    """Arguments that are null, or a BLT's own of another value, give way to those of the patcher."""
    folder = as_hub(theirs, tmp_path / "meta", patching_mode=None, patching_threshold=0.5)
    patched(folder, threshold=1.75, threshold_add=None, patching_mode="entropy", max_patch_length=9, device="cuda")
    directory = Directory.open(folder)
    assert directory.config.patching == RuleConfig(threshold=1.75, max_length=9)
    assert directory.notes == ()


def test_a_threshold_that_nobody_names_is_metas_and_said(tmp_path, theirs):
    directory = Directory.open(as_hub(theirs, tmp_path / "meta", patching_threshold=None))
    assert directory.config.patching == RuleConfig(threshold=1.335442066192627)
    assert "no threshold is given" in directory.notes[0]


def test_a_neighbour_is_not_taken_for_the_model_itself(tmp_path, theirs):
    from bytequilt.interop.directory import load_entropy

    as_consolidated(theirs, tmp_path / "models")
    shutil.copytree(tmp_path / "models" / "entropy_model", tmp_path / "models" / "other")
    other = torch.load(tmp_path / "models" / "other" / "consolidated.pth")
    torch.save(other | {"norm.weight": other["norm.weight"] + 1}, tmp_path / "models" / "other" / "consolidated.pth")
    own, neighbour = (load_entropy(tmp_path / "models" / name) for name in ("other", "entropy_model"))
    assert torch.equal(own.norm.weight, neighbour.norm.weight + 1)


def test_metas_entropy_model_must_be_there(tmp_path, theirs):
    shutil.rmtree(as_hub(theirs, tmp_path / "meta") / "entropy_model")
    with pytest.raises(UserError, match=r"has no entropy_model/params\.json inside or beside it"):
        load(tmp_path / "meta")


def test_metas_entropy_model_alone_patches(tmp_path, theirs):
    from bytequilt.interop.directory import load_entropy

    as_consolidated(theirs, tmp_path / "meta")
    found = load_entropy(tmp_path / "meta" / "entropy_model")
    assert torch.equal(found.embed.weight, theirs.model.patcher.embed_tokens.weight)
    with pytest.raises(UserError, match="entropy model alone"):
        load(tmp_path / "meta" / "entropy_model")


# ------------------------------------------------------------------------------------------------- the released shapes


def released(local, wide, k):
    """1B and 7B, on the meta device."""
    side = {"num_attention_heads": local[2], "hidden_size": local[0], "intermediate_size": local[1], "cross_attn_k": k}
    config = transformers.BltConfig(
        encoder_config=side | {"num_hidden_layers": 1, "hidden_size_global": wide[0]},
        decoder_config=side | {"num_hidden_layers": local[3], "hidden_size_global": wide[0]},
        global_config=dict(
            zip(("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"), wide, strict=True)
        ),
        cross_attn_k=k,
    )
    with torch.device("meta"):
        return transformers.BltForCausalLM(config)


@pytest.mark.parametrize(
    ("local", "wide", "k", "total"),
    [
        ((1024, 2816, 16, 9), (2048, 5632, 16, 25), 2, 4533.88),
        ((1280, 3584, 20, 6), (4096, 11008, 32, 32), 4, 10553.57),
    ],
    ids=["1B", "7B"],
)
def test_released_shapes_have_a_name_for_every_tensor(tmp_path, local, wide, k, total):
    theirs = released(local, wide, k)
    (tmp_path / "config.json").write_text(theirs.config.to_json_string())
    config = Directory.open(tmp_path).config
    there = {name: tuple(weight.shape) for name, weight in theirs.state_dict().items()}
    found, metas_names = {}, set()
    for ours_, shape in names.shapes(config):
        parts = names.spelled(ours_, names.HUGGING_FACE, 6)
        found |= dict.fromkeys(parts)
        metas_names |= set(names.spelled(ours_, names.META, 6))
        assert sum(prod(there[name]) for name in parts) == prod(shape)
    assert set(found) == set(there)
    assert {f"encoder_hash_tok_embedding.{i}.weight" for i in range(6)} < metas_names
    counted = sum(prod(shape) for name, shape in names.shapes(config) if name.startswith("blt."))
    assert counted / 1e6 == pytest.approx(total, abs=0.01)


# ------------------------------------------------------------------------------------------------------------ bad files


@pytest.fixture
def folder(tmp_path):
    hugging_face(SHAPES["k = 4, projected"]).save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def rewritten(folder, edit):
    path = folder / "model.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path)


def sharded(folder, drop=None, invent=None):
    """In two shards, with an index."""
    weights = load_file(folder / "model.safetensors")
    half, index = len(weights) // 2, {}
    for number, part in enumerate((list(weights)[:half], list(weights)[half:])):
        file = f"model-{number}.safetensors"
        save_file({name: weights[name] for name in part}, folder / file)
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index | (invent or {})}))
    if drop:
        (folder / drop).unlink()


HEAD = "model.local_decoder.norm.weight"
DAMAGE = {
    "missing": (lambda f: rewritten(f, lambda w: w.pop(HEAD)), f"missing tensor {HEAD}; the closest there is"),
    "unexpected": (
        lambda f: rewritten(f, lambda w: w.update({"model.local_decoder.nrom.weight": torch.zeros(1)})),
        f"unexpected tensor model.local_decoder.nrom.weight; the closest known is {HEAD}",
    ),
    "misspelt": (
        lambda f: rewritten(f, lambda w: w.update({HEAD.replace("norm", "nrom"): w.pop(HEAD)})),
        f"missing tensor {HEAD}; the closest there is model.local_decoder.nrom.weight",
    ),
    "shape": (
        lambda f: rewritten(f, lambda w: w.update({HEAD: torch.zeros(5)})),
        rf"{HEAD} has shape \[5\], and the configuration says \[32\]",
    ),
    "mixed types": (
        lambda f: rewritten(
            f, lambda w: w.update({n: t.half() for n, t in w.items() if n.endswith("0.self_attn.k_proj.weight")})
        ),
        "must be of one type, not F32, F16, F32",
    ),
    "no float": (
        lambda f: rewritten(f, lambda w: w.update({HEAD: torch.zeros(32, dtype=torch.int8)})),
        "norm.weight is torch.int8",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "is missing, damaged or cut short"),
    "cut short": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-5]),
        "is missing, damaged or cut short",
    ),
    "shard missing": (
        lambda f: sharded(f, drop="model-1.safetensors"),
        "names model-1.safetensors, which is not there",
    ),
    "index of nothing": (lambda f: sharded(f, invent={"x": "model-0.safetensors"}), "names x in model-0.safetensors"),
    "index of numbers": (lambda f: sharded(f, invent={"x": 3}), "is not an index"),
    "index leads away": (lambda f: sharded(f, invent={"x": "../theirs/model-0.safetensors"}), "which is not there"),
    "index is a list": (
        lambda f: ((f / "model.safetensors.index.json").write_text("[]"), (f / "model.safetensors").unlink()),
        "is not an index",
    ),
    "other model": (lambda f: (f / "config.json").write_text('{"model_type": "llama"}'), "is not a bytequilt model"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_bad_directory_is_one_line_and_nothing_is_written(tmp_path, folder, name, capfd):
    damage, said = DAMAGE[name]
    damage(folder)
    with pytest.raises(UserError, match=said):
        load(folder)
    with pytest.raises(SystemExit) as stop:
        main(["convert", str(folder), str(tmp_path / "new")])
    error = capfd.readouterr().err
    assert (stop.value.code, error.count("\n")) == (2, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_shards_are_one_model(folder, tmp_path):
    whole = load(folder).model.state_dict()
    sharded(folder)
    assert all(torch.equal(weight, whole[name]) for name, weight in load(folder).model.state_dict().items())
    convert(folder, tmp_path / "ours")
    assert all(torch.equal(w, whole[name]) for name, w in load(tmp_path / "ours").model.state_dict().items())


class Harm:
    def __reduce__(self):
        return (print, ("harm",))


PICKLES = {
    "code": (lambda p: torch.save({"model": Harm()}, p), "pickled code is not run"),
    "no weights": (lambda p: torch.save({"step": 3}, p), "no state dict of weights"),
    "cut short": (lambda p: p.write_bytes(p.read_bytes()[:-100]), "cut short"),
    "gone": (lambda p: p.unlink(), r"no consolidated\.pth"),
    "empty": (lambda p: p.write_bytes(b""), "is cut short, or no file of weights"),
    "a pointer": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1"), "no file of weights"),
    "other shapes": (
        lambda p: torch.save({n: w.t() for n, w in torch.load(p)["model"].items()}, p),
        "has shape",
    ),
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_bad_pickle_is_one_line(tmp_path, theirs, name, capfd):
    damage, said = PICKLES[name]
    damage(as_hub(theirs, tmp_path / "meta") / "entropy_model" / "consolidated.pth")
    with pytest.raises(UserError, match=said) as caught:
        load(tmp_path / "meta")
    assert "\n" not in str(caught.value)
    assert "harm" not in capfd.readouterr().out


def test_a_directory_that_is_there_is_not_touched(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "poem.txt").write_text("roses")
    with pytest.raises(UserError, match="exists already"):
        convert("tiny", tmp_path / "mine")
    assert (tmp_path / "mine" / "poem.txt").read_text() == "roses"
    (tmp_path / "nowhere").symlink_to(tmp_path / "else")
    with pytest.raises(UserError, match="exists already"):
        convert("tiny", tmp_path / "nowhere")
    with pytest.raises(UserError, match="there are the layouts bytequilt, hf, meta, not onnx"):
        convert("tiny", tmp_path / "new", "onnx")


def test_what_appears_in_the_meantime_is_not_replaced(tmp_path):
    def appear(*_):
        (tmp_path / "new").mkdir(exist_ok=True)
        (tmp_path / "new" / "poem.txt").write_text("roses")

    with pytest.raises(UserError, match=r"cannot write .*new"):
        convert("tiny", tmp_path / "new", advance=appear)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["new", "new/poem.txt"]


@pytest.mark.parametrize("window", [None, 7])
def test_an_entropy_model_without_a_window_stays_so(tmp_path, window):
    lm = ours(RuleConfig(threshold=1.0), entropy={"window": window})
    lm.save(tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "hf", "hf")
    convert(tmp_path / "hf", tmp_path / "again")
    for name in ("ours", "hf", "again"):
        assert load(tmp_path / name).patcher.model.config.window == window


# --------------------------------------------------------------------------------------------- what a conversion costs


def run(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.parametrize(("to", "limit"), [("hf", 5_000_000), ("meta", 800_000)])
def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path, to, limit):
    """A limit on the size of files stands for the disk: the error comes amid the weights, and amid the .pth."""
    entropy = {"dim": 192, "ffn_dim": 512, "window": 10}
    lm = metas_widths(RuleConfig(threshold=1.0), entropy=entropy) if to == "meta" else load("tiny")
    lm.patcher.rule = RuleConfig(threshold=1.0)  # which every layout can express
    lm.save(tmp_path / "source" / "model")
    code = """
import resource, signal, sys
from bytequilt.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
main(["convert", sys.argv[1], sys.argv[2], "--to", sys.argv[3]])
"""
    done = run(code, tmp_path / "source", tmp_path / "new", to, limit)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("bytequilt: ")
    assert "Traceback" not in done.stderr
    assert ("consolidated.pth" in done.stderr) == (to == "meta")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak of a process itself")
def test_memory_does_not_grow_with_the_model(tmp_path):
    """A conversion holds a chunk at a time; the largest table here is 96 MB of 99."""
    lm = metas_widths(RuleConfig(threshold=1.0))
    lm.model.encoder.hash.weight = torch.nn.Parameter(torch.zeros(4 * 187_500, 32))
    hash = lm.model.config.hash.model_copy(update={"rows": 187_500})
    lm.model.config = lm.model.config.model_copy(update={"hash": hash})
    lm.save(tmp_path / "ours")
    table = 4 * 187_500 * 32 * 4
    code = """
import sys
from pathlib import Path
import torch, bytequilt.lm
from bytequilt import convert
peak = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
before = peak()
convert(*sys.argv[1:])
print(peak() - before)
"""
    for source, to in (("ours", "hf"), ("hf", "meta"), ("meta", "bytequilt")):
        done = run(code, tmp_path / source, tmp_path / to, to)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) < 0.5 * table


def test_tensors_keep_their_type_and_lie_aligned(tmp_path):
    LM(blt(), patcher("entropy")).save(tmp_path / "ours", torch.bfloat16)
    convert(tmp_path / "ours", tmp_path / "again")
    first, again = (mapped(tmp_path / name / "model.safetensors") for name in ("ours", "again"))
    assert {name: (w.dtype, w.shape) for name, w in first.items()} == {n: (w.dtype, w.shape) for n, w in again.items()}
    assert {weight.dtype for weight in again.values()} == {torch.bfloat16, torch.float32}
    assert all(weight.data_ptr() % weight.itemsize == 0 for weight in again.values())
    assert all(torch.equal(weight, first[name]) for name, weight in again.items())


def test_weights_that_are_mapped_do_not_write_to_their_file(tmp_path):
    LM(blt(), patcher("byte")).save(tmp_path / "ours")
    before = (tmp_path / "ours" / "model.safetensors").read_bytes()
    with torch.no_grad():
        for weight in load(tmp_path / "ours").model.parameters():
            weight.zero_()
    assert (tmp_path / "ours" / "model.safetensors").read_bytes() == before


def test_a_table_in_half_precision_stays_so(tmp_path):
    LM(blt(), patcher("byte")).save(tmp_path / "half", torch.bfloat16)
    model = load(tmp_path / "half").model
    assert model.encoder.hash.weight.dtype is torch.bfloat16
    assert {weight.dtype for name, weight in model.named_parameters() if "hash" not in name} == {torch.float32}


def test_the_verb_says_what_it_wrote_and_what_changed(tmp_path, capfd):
    ours(RuleConfig(kind="space")).save(tmp_path / "ours")
    main(["convert", str(tmp_path / "ours"), str(tmp_path / "theirs"), "--to", "hf", "--lossy", "--json"])
    out, err = capfd.readouterr()
    assert json.loads(out)["to"] == "hf"
    assert "note: there is one patch per byte there, not patching by space" in err
    main(["convert", str(tmp_path / "theirs"), str(tmp_path / "back")])
    assert "from hf to bytequilt" in capfd.readouterr().out


def test_a_rule_that_is_not_theirs_leaves_as_one_that_is(tmp_path, capfd):
    ours(RuleConfig(kind="budget", threshold=9.0)).save(tmp_path / "ours")
    (tmp_path / "text").write_bytes(noise(600))
    source, theirs, text = (str(tmp_path / name) for name in ("ours", "theirs", "text"))
    with pytest.raises(SystemExit):
        main(["convert", source, theirs, "--to", "hf"])
    assert "not patching by budget" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        main(["convert", source, theirs, "--to", "hf", "--rule", "entropy"])
    assert "go together" in capfd.readouterr().err
    main(["convert", source, theirs, text, "--to", "hf", "--rule", "entropy", "--target-bytes", "3"])
    assert "patches differ" in capfd.readouterr().err
    patched = load(theirs).patch(noise(600))
    assert load(theirs).patcher.rule.kind == "entropy"
    assert 600 / len(patched.patches) == pytest.approx(3, rel=0.05)


def test_an_ngram_patcher_has_no_other_layout(tmp_path):
    from bytequilt.config import NgramConfig
    from bytequilt.model.ngram import NgramEntropy
    from bytequilt.patching.patcher import Patcher

    lean = NgramEntropy(NgramConfig(sizes=(2, 3), rows=50))
    LM(blt(cross_heads=2), Patcher(RuleConfig(threshold=1.0), lean)).save(tmp_path / "ours")
    for to in ("hf", "meta"):
        with pytest.raises(UserError, match="n-gram table"):
            convert(tmp_path / "ours", tmp_path / to, to, lossy=True)
