"""Small models, rules and texts that the tests share."""

import os
from itertools import pairwise

import numpy as np
import torch

from bytequilt.codec import encode
from bytequilt.config import BLTConfig, EntropyConfig, HashConfig, RuleConfig, StackConfig
from bytequilt.model.blt import BLT
from bytequilt.model.entropy import EntropyModel
from bytequilt.patching.patcher import Patcher
from bytequilt.patching.rules import closes
from bytequilt.view.patched import Patch, PatchedText

torch.set_num_threads(1)  # these shapes gain nothing from a second one, and stall where cores are shared

MEDIAN = 4.0  # nats: about the median entropy of `entropy_model()` on `noise`
RULES = {
    "entropy": RuleConfig(kind="entropy", threshold=MEDIAN),
    "entropy-max": RuleConfig(kind="entropy", threshold=MEDIAN + 0.2, max_length=3),
    "monotonic": RuleConfig(kind="monotonic", rise=0.1),
    "combined": RuleConfig(kind="combined", threshold=MEDIAN, rise=0.0),
    "budget": RuleConfig(kind="budget", threshold=3 * MEDIAN),
    "space": RuleConfig(kind="space"),
    "space-max": RuleConfig(kind="space", max_length=2),
    "words": RuleConfig(kind="words", characters=True, max_length=9),
    "marks": RuleConfig(kind="words", after="b", digits="each"),
    "fixed": RuleConfig(kind="fixed", stride=3),
    "byte": RuleConfig(kind="byte"),
}
CROSS = [(encoder, decoder) for encoder in ("last", "all", "none") for decoder in ("all", "first", "none")]


def pytest_configure(config):
    """Only `pytest -m cuda` sees GPUs: other tests compare bit by bit, and are of the CPU."""
    if config.option.markexpr != "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def noise(length: int, seed: int = 0) -> bytes:
    """Random bytes, a third of them spaces, letters and newlines."""
    random = np.random.default_rng(seed)
    plain = random.choice(np.frombuffer(b" abc\n", np.uint8), length)
    return np.where(random.random(length) < 0.33, plain, random.integers(0, 256, length)).astype(np.uint8).tobytes()


def ids_of(*documents: bytes, eos: bool = True) -> torch.Tensor:
    """Documents one after another as one row (1, N)."""
    return torch.from_numpy(np.concatenate([encode(d, eos=eos) for d in documents]))[None]


def blt_config(**change) -> BLTConfig:
    stack = {"dim": 32, "layers": 2, "heads": 2, "ffn_dim": 40, "window": 12}
    fields = {
        "encoder": StackConfig(**stack),
        "latent": StackConfig(dim=48, layers=2, heads=4, kv_heads=2, ffn_dim=56),
        "decoder": StackConfig(**stack),
        "hash": HashConfig(sizes=(3, 4), rows=101, functions=2),
        "slots": 2,
        "cross_heads": 4,
    }
    return BLTConfig(**(fields | change))


def blt(seed: int = 0, **change) -> BLT:
    torch.manual_seed(seed)
    return BLT(blt_config(**change)).eval()


def entropy_model(seed: int = 0, **change) -> EntropyModel:
    """An untrained entropy model, its head sharpened so that entropies differ by more than a nat."""
    torch.manual_seed(seed)
    model = EntropyModel(EntropyConfig(**({"dim": 16, "layers": 2, "heads": 2, "ffn_dim": 24, "window": 10} | change)))
    with torch.no_grad():
        model.head.weight.mul_(2)
    return model.eval()


def patcher(rule: RuleConfig | str, **change) -> Patcher:
    rule = RULES[rule] if isinstance(rule, str) else rule
    return Patcher(rule, entropy_model(**change) if rule.needs_entropy else None)


def undecided(patch: Patcher, ids_BN: torch.Tensor) -> bool:
    """Whether a boundary hangs on less than 1e-5 nats, or a sum on a rounding, where nothing is promised."""
    if not patch.rule.needs_entropy:
        return False
    nats = patch.entropy(ids_BN)
    if patch.rule.kind == "budget":
        error = torch.tensor([-1e-5, 1e-5])[:, None] * torch.ones_like(nats)  # of every entropy at once
        decided = {str(closes(patch.rule, ids_BN, nats + error[i : i + 1]).tolist()) for i in range(2)}
        return len(decided) > 1
    near = [(nats - (patch.rule.threshold or 0)).abs().min()] if patch.rule.threshold is not None else []
    near += [(nats.diff(dim=1) - patch.rule.rise).abs().min()] if patch.rule.rise is not None else []
    return bool(min(near) < 1e-5)


def patched_text(data: bytes, starts, *, entropy_bits=None, threshold_bits=None, summed=False) -> PatchedText:
    """A text cut before each byte in `starts`. `entropy_bits`, one per byte, opened all patches but the first."""
    bits = None if entropy_bits is None else tuple(map(float, entropy_bits))
    runs = pairwise([*starts, len(data)])
    patches = (Patch(at, end - at, data[at:end], bits[at] if bits and at else None) for at, end in runs)
    return PatchedText(data, tuple(patches), threshold_bits, bits, summed=summed)


def assert_equal(ours, *others, error=1e-5):
    for other in others:
        torch.testing.assert_close(other, ours, atol=error, rtol=error)


def assert_same_steps(sessions, ids_Rn, rows=None, error=1e-5):
    """All take the same ids one after another: the same logits, and the same boundaries."""
    for ids_R in ids_Rn.T:
        assert_equal(*[session.step(ids_R, rows) for session in sessions], error=error)
        assert all(session.state()["rows"] == sessions[0].state()["rows"] for session in sessions)


DOCUMENTS = ids_of(noise(38, 1), b"", noise(5, 2), noise(30, 3))  # well past the windows, with a BOS inside
