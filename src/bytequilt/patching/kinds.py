"""Whether a rule requests a patch start after a byte, computed from that byte and the byte before: formulas for
tensors."""

from functools import lru_cache

import torch
from torch import Tensor

from ..codec import BOE, OFFSET, VOCAB_SIZE
from ..config import RuleConfig

CONTINUES, SPACE_LIKE, FORCES = 1, 2, 4
"""Flags in the class of an id: it continues a UTF-8 character, is space-like under the rule, or forces a patch start
after it."""
NEEDS = 3
"""Bit position in a class from which the number of continuation bytes of its character is stored."""


def classes(rule: RuleConfig, device: torch.device) -> Tensor:
    """The class of each id under the rule, as flags: (260,) int64 on the device."""
    return _classes(rule.kind == "words", rule.forcing, device)


@lru_cache(maxsize=64)
def _classes(words: bool, forcing: bytes, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # the table is cached, so it must not be an inference-mode tensor
        closes = [SPACE_LIKE] * OFFSET + [_class(byte, words, forcing) for byte in range(VOCAB_SIZE - OFFSET)]
        return torch.tensor(closes, device=device)


def _class(byte: int, words: bool, forcing: bytes) -> int:
    space_like = not chr(byte).isalnum() if byte < 0x80 else byte >= 0xC0 and not words
    return (
        (CONTINUES if 0x80 <= byte < 0xC0 else 0)
        | (SPACE_LIKE if space_like else 0)
        | (FORCES if byte in forcing else 0)
        | needed(byte) << NEEDS
    )


def needed(byte: int) -> int:
    """Number of continuation bytes that follow this byte in UTF-8: 1 to 3 for a lead byte, otherwise 0."""
    return (byte >= 0xC0) + (byte >= 0xE0) + (byte >= 0xF0)


LONGEST_WAIT = 3  # longest run of bytes in valid UTF-8 that each leave a character unfinished


def between_characters(waited: Tensor) -> Tensor:
    """True if a patch may start after a run of `waited` bytes that each left a character unfinished. That is true after
    a finished character (0), and in a run too long for valid UTF-8, since such bytes are not text."""
    return (waited == 0) | (waited > LONGEST_WAIT)


def wanted(
    rule: RuleConfig,
    ids: Tensor,
    place: Tensor,
    kind: Tensor | None,
    kind_before: Tensor | None,
    nats: Tensor | None,
    nats_before: Tensor | None,
) -> Tensor:
    """True where the rule requests a patch start after an id, before maximum length, budget and whole characters are
    considered.

    All tensors have the same shape. `place` counts ids since the BOS of the document. `kind` and `kind_before` are the
    classes of this id and of the id before it. `nats` is the entropy of the next byte, `nats_before` that of this byte.
    A rule ignores tensors that it does not need; they may be None.
    """
    match rule.kind:
        case "entropy":
            closes = nats > rule.threshold
        case "monotonic":
            closes = (place == 1) | (nats - nats_before > rule.rise)
        case "combined":
            high = (nats > rule.threshold) & (nats - nats_before > rule.rise)
            closes = (place == 1) | (high & (place > 2))
        case "space" | "words":
            closes = (ids < OFFSET) | ((kind & ~kind_before & SPACE_LIKE) > 0)
        case "fixed":
            closes = place % rule.stride == 0
        case "byte":
            closes = torch.ones_like(ids, dtype=torch.bool)
        case _:
            closes = torch.zeros_like(ids, dtype=torch.bool)
    if rule.forcing:
        closes = closes | ((kind & FORCES) > 0)
    return (closes | (place == 0)) & (ids != BOE)


SUM_SCALE = 4096  # units per nat: budgets are sums of integers
LARGEST = 2**60  # limit in these units, which replaces an infinite threshold


def parts(nats: Tensor) -> Tensor:
    """Entropies in units of 1 / SUM_SCALE nats, int64. Integers have the same sum in any order of addition."""
    return (nats * SUM_SCALE).round().clamp(min=0).long()


def threshold_parts(rule: RuleConfig) -> int:
    """The budget in units of 1 / SUM_SCALE nats."""
    return round(min(max(rule.threshold * SUM_SCALE, -LARGEST), LARGEST))
