"""Shows the patches of a text. Entropies are computed once, and then serve for any threshold or rule."""

import math
from collections import OrderedDict
from collections.abc import Generator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..codec import OFFSET, encode
from ..config import RuleConfig
from ..infer.batcher import PREFILL
from ..patching import rules
from ..patching.patcher import Patcher
from .errors import BadRequest
from .schema import to_base64

KEPT = 64  # number of texts with cached entropies, so that another threshold runs no network
NATS = math.log(2)  # nats per bit

REASONS = {
    "entropy": "entropy above the threshold",
    "monotonic": "entropy risen by more than the threshold",
    "combined": "entropy above the threshold, and risen",
    "budget": "with it, the entropies of the patch before would sum to more than the threshold",
    "space": "a space or sign before it",
    "words": "a space or sign before it",
    "fixed": "the stride is over",
    "byte": "every byte is a patch",
}
LARGEST = 64.0  # nats: more than the entropies of a few bytes can sum to


class Patching:
    """Shows the patches of texts under one model's patcher."""

    def __init__(self, patcher: Patcher) -> None:
        self.patcher, self.rule = patcher, patcher.rule
        self._entropies: OrderedDict[bytes, Tensor] = OrderedDict()

    def show(self, data: bytes, threshold_bits: float | None, compare: bool) -> Generator[None, None, dict[str, Any]]:
        """Everything about the patches of a text, as JSON. Raises BadRequest, at once, for an impossible threshold."""
        rule = self.rule if threshold_bits is None else _with_threshold(self.rule, threshold_bits)
        return self._shown(data, rule, compare)

    def _shown(self, data: bytes, rule: RuleConfig, compare: bool) -> Generator[None, None, dict[str, Any]]:
        nats = yield from self._nats(data)
        ids = torch.from_numpy(encode(data))[None]
        view = _cut(rule, ids, nats)
        patches = [
            {
                "start": start,
                "length": end - start,
                "text": data[start:end].decode("utf-8", "replace"),
                "hex": data[start:end].hex(),
                "reason": reason,
            }
            for (start, end), reason in zip(pairwise([*view["starts"], len(data)]), view["reasons"], strict=True)
        ]
        others = []
        if compare and data:
            for other in _others(rule, ids, nats, len(patches)):
                others.append(_cut(other, ids, nats))
                yield
        bits = [] if nats is None else [round(value, 4) for value in (nats[0, : len(data)] / NATS).tolist()]
        return {
            "object": "patches",
            "bytes_b64": to_base64(data),
            "bytes": len(data),
            "entropy_bits": bits,
            **{key: view[key] for key in ("kind", "threshold_bits", "mean_patch_bytes")},
            "model_threshold_bits": _threshold_bits(self.rule),
            "patches": patches,
            "rules": others,
        }

    def _nats(self, data: bytes) -> Generator[None, None, Tensor | None]:
        """The entropy (1, N) in nats after BOS and after each byte; None without an entropy model."""
        if self.patcher.model is None:
            return None
        if data not in self._entropies:
            cache, parts = self.patcher.model.cache(), []
            for part in torch.from_numpy(encode(data)).split(PREFILL):
                parts.append(self.patcher.nats_feed(part.to(self.patcher.device), cache).cpu())
                yield
            self._entropies[data] = torch.cat(parts)[None]
        self._entropies.move_to_end(data)
        while len(self._entropies) > KEPT:
            self._entropies.popitem(last=False)
        return self._entropies[data]


def _cut(rule: RuleConfig, ids: Tensor, nats: Tensor | None) -> dict[str, Any]:
    """The patch starts of a text under a rule, with a reason for each."""
    starts = _starts(rule, ids, nats)
    natural = set(_starts(rules.natural(rule), ids, nats))
    text = bytes((ids[0, 1:] - OFFSET).tolist())
    before = [0, *starts]
    reasons = [_reason(rule, text, *place, place[1] in natural) for place in zip(before, starts, strict=False)]
    return {
        "kind": rule.kind,
        "threshold_bits": _threshold_bits(rule),
        "stride": rule.stride,
        "starts": starts,
        "reasons": reasons,
        "mean_patch_bytes": len(text) / len(starts) if starts else 0.0,
    }


def _reason(rule: RuleConfig, text: bytes, before: int, start: int, natural: bool) -> str:
    """Why a patch starts at `start`. The patch before it starts at `before`. `natural` is True if it also starts there
    under `rules.natural(rule)`."""
    if start == 0:
        return "the text begins"
    if text[start - 1] in rule.forcing:
        return "the character before it ends every patch"
    long = rule.max_length is not None and start - before >= rule.max_length
    if long and (not natural or rule.kind == "budget"):
        return f"the patch before would be longer than {rule.max_length} bytes"
    return REASONS[rule.kind]


def _starts(rule: RuleConfig, ids: Tensor, nats: Tensor | None) -> list[int]:
    """Patch starts as byte positions in the text, without the patch of the BOS."""
    return [start - 1 for start in rules.patches(rule, ids, nats if rule.needs_entropy else None).starts[0][1:]]


def _threshold_bits(rule: RuleConfig) -> float | None:
    return None if rule.limit is None else getattr(rule, rule.limit) / NATS


def _with_threshold(rule: RuleConfig, bits: float) -> RuleConfig:
    """The rule with another threshold. Raises BadRequest if the rule has no threshold, or for an invalid value."""
    if rule.limit is None:
        raise BadRequest(f"patching of kind '{rule.kind}' has no threshold", param="threshold_bits")
    try:
        return RuleConfig(**(rule.model_dump() | {rule.limit: bits * NATS}))
    except ValueError:
        raise BadRequest(f"no threshold of patching of kind '{rule.kind}'", param="threshold_bits") from None


def _others(rule: RuleConfig, ids: Tensor, nats: Tensor | None, count: int) -> list[RuleConfig]:
    """Other rules to compare, with about `count` patches of this text if they have a parameter to adjust."""
    size = ids.shape[1] - 1
    others = [RuleConfig(kind="words"), RuleConfig(kind="fixed", stride=max(1, round(size / max(count, 1))))]
    if nats is not None:
        kinds = {"budget": "threshold", "entropy": "threshold", "monotonic": "rise"}
        guesses = [RuleConfig(kind=kind, **{field: 0.0}) for kind, field in kinds.items()]
        others = [_matched(guess, ids, nats, count) for guess in guesses if guess.kind != rule.kind] + others
    return [other for other in others if other.kind != rule.kind]


def _matched(rule: RuleConfig, ids: Tensor, nats: Tensor, count: int) -> RuleConfig:
    """The rule with the lowest threshold that gives at most `count` patches, found by bisection."""
    low, high = -LARGEST, LARGEST
    for _ in range(17):  # precise to 0.001 nats
        middle = (low + high) / 2
        fewer = len(_starts(rule.model_copy(update={rule.limit: middle}), ids, nats)) <= count
        low, high = (low, middle) if fewer else (middle, high)
    return rule.model_copy(update={rule.limit: high})
