"""The same weights give the same patches and the same logits here and in Transformers, in both directions."""

import json

import numpy as np
import pytest
import torch
from conftest import blt_config, entropy_model, noise

from bytequilt import BLT, LM, convert, load
from bytequilt.codec import encode
from bytequilt.config import EntropyConfig, HashConfig, RuleConfig, StackConfig, UserError
from bytequilt.interop import Directory
from bytequilt.patching.patcher import Patcher

transformers = pytest.importorskip("transformers")

LOCAL = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 40}
WIDE = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 56}
PATCHER = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 24}
TEXTS = [
    b"a",
    "Zażółć gęślą jaźń. Тихо. 日本語のテキスト。 हिन्दी में. עברית.".encode(),
    b"def patches(self):\n    return [p for p in self]\n" * 8,
    noise(700, 1),
]


def change(encoder=None, wide=None, decoder=None, patcher=None, **top):
    return {
        "encoder": encoder or {},
        "wide": wide or {},
        "decoder": decoder or {},
        "patcher": patcher or {},
        "top": top,
    }


SHAPES = {
    "released in small": change(),
    "two encoder layers": change(encoder={"num_hidden_layers": 2}),
    "three encoder layers, window 9": change(encoder={"num_hidden_layers": 3}, local_attention_window_len=9),
    "one encoder layer read in all": change(encoder={"cross_attn_all_layers": True}),
    "decoder reads once": change(decoder={"cross_attn_all_layers": False, "num_hidden_layers": 3}),
    "k = 1": change(cross_attn_k=1),
    "k = 1, no wider": change(wide={"hidden_size": 32}, cross_attn_k=1),
    "k = 4, projected": change(cross_attn_k=4),
    "k = 4, equal": change(wide={"hidden_size": 128}, cross_attn_k=4),
    "shared key heads": change(
        {"num_key_value_heads": 2}, {"num_key_value_heads": 1}, {"num_key_value_heads": 1}, {"num_key_value_heads": 1}
    ),
    "other heads in the decoder": change(decoder={"num_attention_heads": 8}),
    "three hash functions": change(encoder_hash_byte_group_nb_functions=3, encoder_hash_byte_group_vocab=61),
    "other n-grams": change(encoder_hash_byte_group_size=[2, 5, 9], encoder_hash_byte_group_vocab=1009),
    "no windows": change(patcher={"sliding_window": None}, local_attention_window_len=None),
    "short windows": change(patcher={"sliding_window": 7}, local_attention_window_len=5),
    "other angles and floors": change(
        encoder={"rms_norm_eps": 1e-3, "rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
        decoder={"rms_norm_eps": 1e-2},
    ),
    "bytes, patcher inside": change(patching_mode="byte"),
    "bytes, no patcher": change(patch_in_forward=False),
}


def hugging_face(shape, seed=0):
    """Their model of that shape, random, its threshold where entropies are far from it."""
    k = shape["top"].get("cross_attn_k", 2)
    wide = WIDE | shape["wide"]
    cross = {"cross_attn_k": k, "hidden_size_global": wide["hidden_size"]}
    fields = {"encoder_hash_byte_group_vocab": 101, "local_attention_window_len": 64} | shape["top"]
    config = transformers.BltConfig(
        encoder_config={"num_hidden_layers": 1} | LOCAL | cross | shape["encoder"],
        global_config=wide,
        decoder_config={"num_hidden_layers": 2} | LOCAL | cross | shape["decoder"],
        patcher_config={"sliding_window": 64} | PATCHER | shape["patcher"],
        use_cache=False,
        **fields,
    )
    torch.manual_seed(seed)
    theirs = transformers.BltForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if weight.dim() == 2:
                weight.normal_(0, 0.3 if "embed" in name else weight.shape[1] ** -0.5)
        if theirs.model.patcher is not None:
            theirs.model.patcher.lm_head.weight.mul_(2)
            config.patching_threshold = threshold(theirs, [rows(text) for text in TEXTS])
    return theirs


def threshold(theirs, texts):
    """In the widest gap near the median of their entropies."""
    with torch.no_grad():
        found = torch.cat([theirs.model.patcher(ids, patch_size=4, threshold=1.0)[0].flatten() for ids in texts])
    middle = found.sort().values[len(found) * 3 // 8 : len(found) * 5 // 8]
    place = int(middle.diff().argmax())
    return float((middle[place] + middle[place + 1]) / 2)


def rows(text):
    return torch.from_numpy(encode(text))[None]


def their_starts(theirs, ids_BN):
    """Where their patches start, from their lengths; what they mark behind the row is filler."""
    config, size = theirs.config, ids_BN.shape[1]
    if theirs.model.patcher is None or config.patching_mode != "entropy":
        return [list(range(size))] * len(ids_BN)
    with torch.no_grad():
        _, lengths, _ = theirs.model.patcher(
            ids_BN, patch_size=4, threshold=config.patching_threshold, max_patch_length=config.max_patch_length
        )
    begins = torch.cat([torch.zeros_like(lengths[:, :1]), lengths.cumsum(1)[:, :-1]], 1)
    return [
        [b for b, n in zip(*row, strict=True) if n > 0 and b < size]
        for row in zip(begins.tolist(), lengths.tolist(), strict=True)
    ]


def assert_parity(lm, theirs, texts=TEXTS):
    for ids_BN in (ids if isinstance(ids, torch.Tensor) else rows(ids) for ids in texts):
        patches = lm.patcher(ids_BN)
        assert [[s for s in row if s < ids_BN.shape[1]] for row in patches.starts] == their_starts(theirs, ids_BN)
        with torch.no_grad():
            ours, other = lm.model(ids_BN, patches), theirs(ids_BN, use_cache=False).logits
        torch.testing.assert_close(ours, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", SHAPES)
def test_their_model_is_the_same_here_and_there_again(tmp_path, name):
    theirs = hugging_face(SHAPES[name])
    theirs.save_pretrained(tmp_path / "theirs")
    lm = load(tmp_path / "theirs")
    assert_parity(lm, theirs)
    assert convert(tmp_path / "theirs", tmp_path / "ours")["notes"] == []
    assert_parity(load(tmp_path / "ours"), theirs, TEXTS[3:])
    convert(tmp_path / "ours", tmp_path / "again", "hf")
    again = transformers.BltForCausalLM.from_pretrained(tmp_path / "again").eval()
    assert {k: v.tolist() for k, v in again.state_dict().items()} == {
        k: v.tolist() for k, v in theirs.state_dict().items()
    }
    assert_parity(lm, again, TEXTS[1:2])


@pytest.mark.parametrize("seed", range(6))
def test_random_shapes(tmp_path, seed):
    """Whatever can be chosen, chosen at random."""
    pick = np.random.default_rng(seed).choice
    heads, k = int(pick([2, 4])), int(pick([1, 2, 4]))
    local = {"hidden_size": 16 * heads, "num_attention_heads": heads, "num_key_value_heads": int(pick([1, heads]))}
    theirs = hugging_face(
        change(
            local | {"num_hidden_layers": int(pick([1, 2, 3]))},
            {"hidden_size": int(pick([16 * heads * k, 48, 96])), "num_hidden_layers": int(pick([1, 3]))},
            local | {"num_hidden_layers": int(pick([1, 3])), "cross_attn_all_layers": bool(pick([0, 1]))},
            {"num_hidden_layers": int(pick([1, 3])), "sliding_window": int(pick([8, 100]))},
            cross_attn_k=k,
            encoder_hash_byte_group_nb_functions=int(pick([1, 2])),
            encoder_hash_byte_group_vocab=int(pick([64, 301])),
            encoder_hash_byte_group_size=sorted(map(int, pick(range(2, 10), 3, replace=False))),
            local_attention_window_len=int(pick([6, 200])),
        ),
        seed,
    )
    theirs.save_pretrained(tmp_path / "theirs")
    assert_parity(load(tmp_path / "theirs"), theirs)


def test_several_thousand_bytes_and_rows_of_equal_length(tmp_path):
    theirs = hugging_face(SHAPES["released in small"])
    batch = torch.cat([rows(noise(90, seed)) for seed in (1, 2, 3)])
    long = rows(noise(3000, 5))
    theirs.config.patching_threshold = threshold(theirs, [batch, long])
    theirs.save_pretrained(tmp_path / "theirs")
    assert_parity(load(tmp_path / "theirs"), theirs, [batch, long])


OURS = {
    "plain": {},
    "k = 1": {"slots": 1, "latent": StackConfig(dim=32, layers=1, heads=2, ffn_dim=40)},
    "k = 3": {"slots": 3},
    "all is one layer": {
        "encoder_cross": "all",
        "encoder": StackConfig(dim=32, layers=1, heads=4, ffn_dim=40, window=12),
    },
    "decoder reads once": {"decoder_cross": "first"},
    "half precision": {},
}


def ours(rule, seed=0, entropy=None, **fields):
    """A model of ours whose cross-attention has the heads of its stacks, as theirs has."""
    stack = {"dim": 32, "layers": 2, "heads": 4, "ffn_dim": 40, "window": 12}
    torch.manual_seed(seed)
    model = BLT(blt_config(**({"encoder": StackConfig(**stack), "decoder": StackConfig(**stack)} | fields)))
    return LM(model, Patcher(rule, entropy_model(**(entropy or {})) if rule.needs_entropy or entropy else None))


def entropy_rule():
    nats = np.sort(Patcher(RuleConfig(threshold=0.0), entropy_model()).entropies(TEXTS)[3])
    middle = nats[len(nats) // 3 : 2 * len(nats) // 3]
    place = int(np.diff(middle).argmax())
    return RuleConfig(threshold=float((middle[place] + middle[place + 1]) / 2))


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("kind", ["entropy", "byte"])
def test_our_model_is_the_same_there(tmp_path, name, kind):
    lm = ours(entropy_rule() if kind == "entropy" else RuleConfig(kind="byte"), **OURS[name])
    lm.save(tmp_path / "ours", torch.bfloat16 if name == "half precision" else None)
    assert convert(tmp_path / "ours", tmp_path / "theirs", "hf")["changed"] == []
    theirs = transformers.BltForCausalLM.from_pretrained(tmp_path / "theirs", dtype=torch.float32).eval()
    assert_parity(load(tmp_path / "ours"), theirs, TEXTS[3:])


def entropy_tiny():
    """The shipped model under a rule that Transformers knows, whatever its own rule is."""
    lm = load("tiny", native=False)
    lm.patcher = Patcher(RuleConfig(kind="entropy", threshold=2.4), lm.patcher.model)
    return lm


def test_the_shipped_model_scores_the_same_bits_per_byte_there(tmp_path):
    ours = entropy_tiny()
    ours.save(tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "tiny", "hf")
    theirs = transformers.BltForCausalLM.from_pretrained(tmp_path / "tiny").eval()
    assert {weight.dtype for weight in theirs.parameters()} == {torch.float32}  # the patcher's type is that of all
    text = ("In the beginning God created the heaven and the earth. " * 3 + "Schön, 日本, 380 < 381.").encode()
    ids_1N = torch.from_numpy(encode(text, eos=True))[None]
    with torch.no_grad():
        logits = theirs(ids_1N[:, :-1]).logits  # without `use_cache`: the configuration says that there is none
    bits = -logits.double().log_softmax(-1).gather(-1, ids_1N[:, 1:, None]).sum() / np.log(2)
    assert float(bits) / len(text) == pytest.approx(ours.bits_per_byte(text), abs=1e-4)
    greedy = theirs.generate(ids_1N[:, :30], max_new_tokens=8, do_sample=False)
    assert bytes((greedy[0, 30:] - 4).tolist()) == ours.generate(text[:29], max_bytes=8, temperature=0).data


# ----------------------------------------------------------------------------------------- where the two must differ


def both(tmp_path, shape):
    theirs = hugging_face(shape)
    theirs.save_pretrained(tmp_path / "theirs")
    lm = load(tmp_path / "theirs")
    ids_1N = rows(TEXTS[3])
    with torch.no_grad():
        return lm, theirs, lm.model(ids_1N, lm.patcher(ids_1N)), theirs(ids_1N, use_cache=False).logits


def test_several_encoder_layers_that_patches_read_refine_each_other_here(tmp_path):
    """As in Meta's own code. Transformers pools anew at each layer and keeps what was read of the last alone."""
    lm, theirs, mine, other = both(tmp_path, change(encoder={"num_hidden_layers": 2, "cross_attn_all_layers": True}))
    assert not torch.allclose(mine, other, atol=1e-2)
    assert "keeps the last alone" in Directory.open(tmp_path / "theirs").notes[0]
    last = lm.model.encoder.cross[1]
    lm.model.encoder.cross = torch.nn.ModuleList([last])
    seen = lm.model.encoder.reading
    lm.model.encoder.reading = seen[-1:]  # their reading, done with ours
    assert_parity(lm, theirs, TEXTS[3:])


def test_the_last_byte_knows_that_it_completes_a_patch_under_a_longest_one_too(tmp_path):
    """Online the decision is made once the byte is there; Transformers drops it, unlike in its own longer text."""
    lm, theirs, mine, other = both(tmp_path, change(max_patch_length=5))
    torch.testing.assert_close(mine[:, :-1], other[:, :-1], atol=1e-4, rtol=0)
    ids_1N = rows(TEXTS[3])
    closing = [n for n in range(3, 60) if bool(lm.patcher(ids_1N[:, :n]).closes_BN[0, -1])]
    with torch.no_grad():
        gaps = [
            (lm.model(part, lm.patcher(part))[:, -1] - theirs(part, use_cache=False).logits[:, -1]).abs().max()
            for part in (ids_1N[:, :n] for n in closing)
        ]
    assert max(gaps) > 1e-2
    assert "forgets it" in Directory.open(tmp_path / "theirs").notes[0]


def test_a_document_does_not_see_the_one_before_it_in_its_row(tmp_path):
    """As Meta trained the released weights. Transformers has no documents: the one before changes the logits there."""
    lm, theirs, *_ = both(tmp_path, change())
    first, second = (torch.from_numpy(encode(text, eos=True)) for text in (noise(40, 1), noise(60, 2)))
    packed = torch.cat([first, second])[None]
    with torch.no_grad():
        alone = lm.model(second[None], lm.patcher(second[None]))
        torch.testing.assert_close(lm.model(packed, lm.patcher(packed))[:, len(first) :], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(theirs(second[None], use_cache=False).logits, alone, atol=1e-4, rtol=0)
        gap = (theirs(packed, use_cache=False).logits[:, len(first) :] - alone).abs().max()
    assert gap > 1e-2


# ------------------------------------------------------------------------------------------ what cannot be expressed


LOSSY = {
    "space": ({"rule": RuleConfig(kind="space")}, "one patch per byte"),
    "fixed": ({"rule": RuleConfig(kind="fixed", stride=4)}, "one patch per byte"),
    "monotonic": ({"rule": RuleConfig(kind="monotonic", rise=0.1)}, "one patch per byte"),
    "combined": ({"rule": RuleConfig(kind="combined", threshold=4.0, rise=0.1)}, "threshold alone"),
    "budget": ({"rule": RuleConfig(kind="budget", threshold=9.0)}, "not patching by budget"),
    "characters": ({"rule": RuleConfig(threshold=4.0, characters=True)}, "no `characters`"),
    "longest": ({"rule": RuleConfig(threshold=4.0, max_length=6)}, "forgets"),
    "newlines": ({"rule": RuleConfig(threshold=4.0), "entropy": {"newline_reset": True}}, "newlines"),
    "residual": ({"rule": RuleConfig(kind="byte"), "cross_residual": 1.0}, "residual"),
    "all layers": ({"rule": RuleConfig(kind="byte"), "encoder_cross": "all"}, "last encoder layer"),
    "latent window": (
        {"rule": RuleConfig(kind="byte"), "latent": StackConfig(dim=64, layers=1, heads=2, ffn_dim=40, window=3)},
        "sees all patches",
    ),
    "two windows": (
        {"rule": RuleConfig(kind="byte"), "decoder": StackConfig(dim=32, layers=1, heads=4, ffn_dim=40, window=6)},
        "decoder's window",
    ),
}


@pytest.mark.parametrize("name", LOSSY)
def test_what_transformers_cannot_express_is_refused_or_changed_aloud(tmp_path, name):
    fields, said = LOSSY[name]
    ours(**fields).save(tmp_path / "ours")
    with pytest.raises(UserError, match=f"{said}.*--lossy"):
        convert(tmp_path / "ours", tmp_path / "theirs", "hf")
    assert not (tmp_path / "theirs").exists()
    assert said in convert(tmp_path / "ours", tmp_path / "theirs", "hf", lossy=True)["changed"][0]
    theirs = transformers.BltForCausalLM.from_pretrained(tmp_path / "theirs").eval()
    assert theirs(rows(TEXTS[1]), use_cache=False).logits.isfinite().all()


NOWHERE = {
    "no n-grams": ({"hash": HashConfig(sizes=())}, "without n-gram"),
    "no reading": ({"encoder_cross": "none"}, "without cross-attention"),
    "other heads": ({"cross_heads": 2}, "heads of its stack"),
    "unordered": ({"hash": HashConfig(sizes=(5, 3), rows=31)}, "must ascend"),
}


@pytest.mark.parametrize("name", NOWHERE)
def test_what_has_no_place_in_transformers_is_refused_in_any_case(tmp_path, name):
    fields, said = NOWHERE[name]
    ours(RuleConfig(kind="byte"), **fields).save(tmp_path / "ours")
    with pytest.raises(UserError, match=said):
        convert(tmp_path / "ours", tmp_path / "theirs", "hf", lossy=True)


REFUSED = {
    "activation": ({"encoder_config": {"hidden_act": "gelu"}}, "encoder_config hidden_act must be silu"),
    "vocabulary": ({"vocab_size": 300}, "vocab_size must be 260"),
    "rope": ({"global_config": {"rope_parameters": {"rope_type": "yarn"}}}, "rope_type must be default"),
    "rope of old": (
        {"global_config": {"rope_parameters": {"type": "linear", "factor": 2}}},
        "rope_type must be default",
    ),
    "rope is a list": ({"global_config": {"rope_parameters": [1]}}, "configuration cannot be read"),
    "width": ({"encoder_config": {"hidden_size": "wide"}}, "configuration cannot be read"),
    "sub-configuration": ({"decoder_config": 3}, "configuration cannot be read"),
    "slots": ({"cross_attn_k": 4}, "cross_attn_k is 4, and 2 in encoder_config"),
    "n-grams": ({"encoder_hash_byte_group_size": [5, 3]}, "must ascend"),
    "threshold": ({"patching_threshold": None}, "needs `threshold`"),
    "heads": ({"global_config": {"num_attention_heads": 7}}, "even multiple of heads"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_built_here_is_refused(tmp_path, name):
    fields, said = REFUSED[name]
    hugging_face(SHAPES["released in small"]).save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    raw = json.loads(path.read_text())
    for field, value in fields.items():
        raw[field] = raw.get(field, {}) | value if isinstance(value, dict) else value
    path.write_text(json.dumps(raw))
    with pytest.raises(UserError, match=said):
        load(tmp_path / "theirs")


def test_what_a_configuration_leaves_out_means_what_it_means_there(tmp_path):
    """Defaults of Transformers, those of older versions' spelling too."""
    bare = transformers.BltConfig()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blt"}))
    found = Directory.open(tmp_path).config
    assert (found.blt.encoder.hidden_dim, found.blt.slots, found.blt.hash.rows) == (2730, 2, 500_002)
    for ours_, theirs in (
        (found.blt.encoder, bare.encoder_config),
        (found.blt.latent, bare.global_config),
        (found.blt.decoder, bare.decoder_config),
        (found.entropy, bare.patcher_config),
    ):
        assert (ours_.dim, ours_.layers, ours_.heads) == (
            theirs.hidden_size,
            theirs.num_hidden_layers,
            theirs.num_attention_heads,
        )
        assert (ours_.hidden_dim, ours_.rope_theta) == (theirs.intermediate_size, theirs.rope_parameters["rope_theta"])
    assert (found.blt.encoder.window, found.entropy.window) == (bare.local_attention_window_len, 512)
    assert found.patching.threshold == bare.patching_threshold
    old = {"model_type": "blt", "global_config": {"rope_theta": 7.0, "rope_scaling": {"rope_type": "default"}}}
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert Directory.open(tmp_path).config.blt.latent.rope_theta == 7


def test_an_entropy_model_alone_has_no_layout_there(tmp_path):
    from bytequilt.interop.directory import write_model
    from bytequilt.interop.native import FORMAT, ModelConfig

    model = entropy_model()
    write_model(
        tmp_path / "entropy", ModelConfig(format=FORMAT, entropy=EntropyConfig(**dict(model.config))), None, model
    )
    with pytest.raises(UserError, match="entropy model alone"):
        convert(tmp_path / "entropy", tmp_path / "theirs", "hf")
