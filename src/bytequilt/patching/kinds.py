"""What each kind of rule wants after one byte, from that byte and the one before: formulas for tensors of any shape."""

from functools import lru_cache

import torch
from torch import Tensor

from ..codec import BOE, OFFSET, VOCAB_SIZE
from ..config import RuleConfig

CONTINUES, SPACE_LIKE, FORCES = 1, 2, 4
"""Bits of the class of an id: it continues a character, is space-like under the rule, forces a start after it."""
NEEDS = 3
"""How far to shift a class right for the continuation bytes that its character still needs."""


def classes(rule: RuleConfig, device: torch.device) -> Tensor:
    """The class of each id under the rule: (260,) int64 on the device."""
    return _classes(rule.kind == "words", rule.forcing, device)


@lru_cache(maxsize=64)
def _classes(words: bool, forcing: bytes, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # the table outlives the mode in which it is first asked for
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
    """Continuation bytes that follow this byte in UTF-8: of a lead byte 1 to 3, of all others 0."""
    return (byte >= 0xC0) + (byte >= 0xE0) + (byte >= 0xF0)


LONGEST_WAIT = 3  # bytes after which a character of UTF-8 lacks some


def between_characters(waited: Tensor) -> Tensor:
    """Whether a patch may start, after so many bytes in a row that left a character unfinished.

    Bytes that leave one unfinished for longer than UTF-8 does are no text: there, a patch may start anywhere.
    """
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
    """Whether a patch should start after each id, before longest lengths, budgets and unfinished characters.

    `place` counts ids since the BOS of the document, `kind` and `kind_before` are the classes of the id and of the one
    before it, `nats` the entropy of the next byte and `nats_before` that of this one; they may be absent for rules
    that have no need of them. All have one shape.
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


SUM_SCALE = 4096  # parts of a nat in which budgets count
LARGEST = 2**60  # parts; infinite thresholds become it


def parts(nats: Tensor) -> Tensor:
    """Entropies as whole parts of a nat, int64: whole numbers have the same sum in any order."""
    return (nats * SUM_SCALE).round().clamp(min=0).long()


def threshold_parts(rule: RuleConfig) -> int:
    """The budget in the same parts."""
    return round(min(max(rule.threshold * SUM_SCALE, -LARGEST), LARGEST))
