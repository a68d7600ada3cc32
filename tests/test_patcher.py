import math
from itertools import pairwise

import pytest
import torch
from conftest import RULES, blt, entropy_model, ids_of, noise, patcher, undecided

from bytequilt.config import RuleConfig, UserError
from bytequilt.infer.session import Session
from bytequilt.model.segments import Patches
from bytequilt.patching import rules
from bytequilt.patching.calibration import first_bytes
from bytequilt.patching.patcher import Patcher

DOCUMENTS = [noise(300, seed) for seed in range(6)]
CALIBRATED = {
    "entropy": (RuleConfig(kind="entropy", threshold=0), (1.0, 1.3, 3.0, 8.0, 40.0)),
    "monotonic": (RuleConfig(kind="monotonic", rise=0), (1.1, 3.0, 8.0, 40.0)),
    "combined": (RuleConfig(kind="combined", threshold=0, rise=0.0), (3.0, 8.0)),
    "max_length": (RuleConfig(kind="entropy", threshold=0, max_length=6), (1.3, 3.0, 5.5)),
    "budget": (RuleConfig(kind="budget", threshold=0), (3.0, 8.0, 14.0)),
    "budget, unbounded": (RuleConfig(kind="budget", threshold=0, max_length=None), (40.0,)),
    "options": (RuleConfig(kind="entropy", threshold=0, characters=True, after=" ", digits="each"), (4.0, 7.0)),
    "budget, options": (RuleConfig(kind="budget", threshold=0, after="\n"), (3.0, 8.0)),
}
TARGETS = [(name, target) for name, (_, targets) in CALIBRATED.items() for target in targets]


def mean_bytes(patch: Patcher, documents: list[bytes]) -> float:
    """Text bytes over patches of text, counted one document at a time."""
    patches = sum(sum(start > 0 for start in patch(ids_of(d, eos=False)).starts[0]) for d in documents)
    return sum(map(len, documents)) / patches


@pytest.mark.parametrize(("name", "target"), TARGETS)
def test_calibration_reaches_its_target(name, target):
    patch = patcher(CALIBRATED[name][0])
    found = patch.calibrate(DOCUMENTS, target)
    assert found.mean_patch_bytes == pytest.approx(target, rel=0.05)
    assert found.mean_patch_bytes == pytest.approx(mean_bytes(patch, DOCUMENTS), rel=0.01)
    assert found.sample_bytes == 1800
    assert found.threshold in (patch.rule.threshold, patch.rule.rise)
    assert math.isfinite(found.threshold)  # JSON has no infinity
    assert found.threshold_bits == pytest.approx(found.threshold * 1.442695, rel=1e-6)


@pytest.mark.parametrize(
    ("rule", "target"),
    [("entropy", 0.5), ("entropy", 1000), ("combined", 1.05), ("entropy-max", 4.0), ("monotonic", 10_000)],
)
def test_a_target_out_of_reach_is_refused_with_what_is_in_reach(rule, target):
    patch = patcher(rule)
    with pytest.raises(UserError, match=r"out of reach: .*\d to \d.* comes nearest"):
        patch.calibrate(DOCUMENTS, target)
    assert patch.rule == RULES[rule]


@pytest.mark.parametrize(
    ("rule", "documents", "message"), [("space", DOCUMENTS, "no threshold"), ("entropy", [b""], "needs text")]
)
def test_calibration_says_what_it_lacks(rule, documents, message):
    with pytest.raises(UserError, match=message):
        patcher(rule).calibrate(documents, 4)


SCRIPTS = [
    "All human beings are born free and equal in dignity and rights.",
    "Все люди рождаются свободными и равными в своём достоинстве и правах.",
    "人人生而自由，在尊严和权利上一律平等。",
    "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักด์และสิทธิ",
    "All 3 of them \N{GRINNING FACE}\N{WAVING HAND SIGN}!",
]


@pytest.mark.parametrize("rule", [RuleConfig(kind="budget", threshold=0), RuleConfig(threshold=0, characters=True)])
def test_patches_of_any_script_are_whole_characters(rule):
    documents = [text.encode() for text in SCRIPTS]
    patch = patcher(rule)
    assert patch.calibrate(documents, 4.5).mean_patch_bytes == pytest.approx(4.5, rel=0.05)
    for data in documents:
        starts = [start - 1 for start in patch(ids_of(data, eos=False)).starts[0][1:]]
        for begin, end in pairwise([*starts, len(data)]):
            assert data[begin:end].decode()  # which fails on a part of a character
            assert rule.max_length is None or end - begin <= rule.max_length + 3


def test_first_bytes_ask_for_no_more_documents_than_they_need():
    documents = iter([b"four", b"more", b"never", b"read"])
    assert list(first_bytes(documents, 6)) == [b"four", b"mo"]
    assert list(documents) == [b"never", b"read"]
    assert list(first_bytes([b"ab"], 6)) == [b"ab"]


@pytest.mark.parametrize("method", ["entropy", "entropies", "nats_feed", "nats_step"])
def test_entropies_are_computed_in_full_fp32_whatever_the_settings(method):
    patch, seen = patcher("entropy"), []
    matmul = torch.backends.cuda.matmul
    step = patch.model.step

    def note(*_):
        seen.append((matmul.fp32_precision, torch.is_autocast_enabled("cpu")))

    patch.model.register_forward_pre_hook(note)
    patch.model.step = lambda *ids: note() or step(*ids)
    ids_BN = ids_of(b"a text", eos=False)
    given = {
        "entropy": lambda: patch.entropy(ids_BN),
        "entropies": lambda: patch.entropies([b"a text"]),
        "nats_feed": lambda: patch.nats_feed(ids_BN[0], patch.cache()),
        "nats_step": lambda: patch.nats_step(ids_BN[0, :1], patch.cache()),
    }
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    try:
        with torch.inference_mode(), torch.autocast("cpu"):
            given[method]()
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before
    assert seen
    assert set(seen) == {("ieee", False)}


@pytest.mark.parametrize("kind", ["entropy", "space"])
def test_streamed_entropies_are_those_of_the_whole_row(kind):
    patch, ids_BN = patcher(kind), ids_of(noise(40))
    caches = [patch.cache(), patch.cache()]
    stepped = [patch.nats_step(ids_R, caches[0]) for ids_R in ids_BN[0].split(1)]
    fed = [patch.nats_feed(ids_N, caches[1]) for ids_N in ids_BN[0].split(7)]
    if kind == "space":
        assert {*stepped, *fed} == {None}
        return
    torch.testing.assert_close(torch.cat(stepped), patch.entropy(ids_BN)[0])
    torch.testing.assert_close(torch.cat(fed), patch.entropy(ids_BN)[0])


def test_a_rule_that_needs_entropies_needs_a_model():
    with pytest.raises(UserError, match="'entropy' needs an entropy model"):
        Patcher(RULES["entropy"])


def test_the_fingerprint_is_that_of_weights_and_shape():
    same, again = patcher("entropy"), patcher("monotonic")
    assert same.fingerprint == again.fingerprint
    others = [patcher("entropy", seed=1), patcher("entropy", window=11), patcher("space")]
    assert len({same.fingerprint, *(p.fingerprint for p in others)}) == 4


@pytest.mark.parametrize("kind", RULES)
def test_boundaries_offline_are_those_of_the_shards_and_those_online(kind):
    patch, documents = patcher(kind), [noise(200, 7), noise(40, 8)]
    ids_BN = ids_of(*documents)
    assert not undecided(patch, ids_BN)
    offline = patch(ids_BN)
    stored = None
    if patch.rule.needs_entropy:
        stored = torch.cat([torch.from_numpy(nats) for nats in patch.entropies(documents)])[None]
    assert torch.equal(rules.closes(patch.rule, ids_BN, stored), offline.closes_BN)
    session = Session(blt(), patch)
    session.feed(ids_BN[0])
    assert session.text_patches == int((offline.start_BN & (ids_BN >= 4)).sum())


def test_patches_of_a_batch_are_those_of_its_rows():
    patch, rows = patcher("combined"), [ids_of(noise(60, seed)) for seed in range(3)]
    together = patch(torch.cat(rows))
    assert together.starts == [patch(row).starts[0] for row in rows]
    assert isinstance(together, Patches)


def test_a_deep_model_looks_back_over_many_windows():
    model, data = entropy_model(layers=4, window=4), noise(60)
    first = Patcher(RULES["entropy"], model).entropy(ids_of(data))
    changed = Patcher(RULES["entropy"], model).entropy(ids_of(b"\0" + data[1:]))
    differs = (first != changed)[0].nonzero().flatten()
    assert int(differs.min()) == 1
    assert 4 < int(differs.max()) <= 1 + 4 * 3
