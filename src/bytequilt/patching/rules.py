"""The one place where a patch boundary is decided: for whole batches, and byte by byte.

After byte i, entropy E[i] is that of the distribution of byte i+1. A rule decides, from the past alone, whether byte
i+1 starts a patch; we say that byte i *closes* its patch. The BOS of a document is always a patch of its own.
"""

import numpy as np
import torch
from torch import Tensor

from ..codec import BOE, BOS, OFFSET
from ..config import RuleConfig
from ..model.segments import Patches


def closes(rule: RuleConfig, ids_BN: Tensor, entropy_BN: Tensor | None = None) -> Tensor:
    """Which bytes close their patch: ids (B, N) and entropies (B, N) in nats -> (B, N) bool.

    Entropies may be absent for rules that need none. Id 0 is padding and closes nothing.
    Rules follow Pagnoni et al. 2024 (arXiv 2412.09871), section 2.3, as released.
    """
    if rule.needs_entropy and entropy_BN is None:
        raise ValueError(f"patching of kind '{rule.kind}' needs entropies")
    place_BN = _place_in_document(ids_BN)
    natural = _natural(rule, ids_BN, entropy_BN, place_BN) | (place_BN == 0)
    if rule.max_length is not None:
        start = torch.roll(natural, 1, 1) | (place_BN == 0)
        natural = natural | ((_since(start) + 1) % rule.max_length == 0)
    return natural & (ids_BN != BOE)


def patches(rule: RuleConfig, ids_BN: Tensor, entropy_BN: Tensor | None = None, count: int | None = None) -> Patches:
    """The patches of ids (B, N) under the rule; `count` sets P."""
    return Patches.from_closes(ids_BN, closes(rule, ids_BN, entropy_BN), count)


class Stream:
    """The same decision byte by byte: feed an id and the entropy after it, learn whether it closed its patch."""

    def __init__(self, rule: RuleConfig) -> None:
        self.rule = rule
        self.place = -1
        self.length = 0
        self.before: np.float32 | None = None
        self.after_space = False

    @property
    def state(self) -> tuple[int, int, float | None, bool]:
        """All that it remembers, as plain values; setting it goes back there."""
        return self.place, self.length, None if self.before is None else float(self.before), self.after_space

    @state.setter
    def state(self, state: tuple[int, int, float | None, bool]) -> None:
        self.place, self.length, before, self.after_space = state
        self.before = None if before is None else np.float32(before)

    def feed(self, id: int, entropy: float | None = None) -> bool:
        """Whether byte `id`, after which the next byte has this entropy in nats, closes its patch."""
        if self.place < 0 or id == BOS:
            self.place, self.length, self.after_space = 0, 0, False
        else:
            self.place += 1
        self.length += 1
        nats = (
            None if entropy is None else np.float32(entropy)
        )  # rises and ties come out as in the batch, which is fp32
        natural = self.place == 0 or bool(self._natural(id, nats))
        limit = self.rule.max_length
        closed = natural or (limit is not None and self.length % limit == 0)
        self.length = 0 if natural else self.length
        self.before, self.after_space = nats, bool(SPACE_LIKE[id])
        return closed and id != BOE

    def _natural(self, id: int, entropy: np.float32 | None) -> bool:
        rule = self.rule
        match rule.kind:
            case "entropy":
                return entropy > rule.threshold
            case "monotonic":
                return self.place == 1 or entropy - self.before > rule.rise
            case "combined":
                high = entropy > rule.threshold and entropy - self.before > rule.rise
                return self.place == 1 or (self.place > 2 and high)
            case "space":
                return id < OFFSET or bool(SPACE_LIKE[id] and not self.after_space)
            case "fixed":
                return self.place % rule.stride == 0
            case _:
                return True


def _natural(rule: RuleConfig, ids_BN: Tensor, entropy_BN: Tensor | None, place_BN: Tensor) -> Tensor:
    """The decision of the rule itself, before the longest length and the start of a document have their say."""
    match rule.kind:
        case "entropy":
            return entropy_BN > rule.threshold
        case "monotonic":
            return (place_BN == 1) | (_rise(entropy_BN) > rule.rise)
        case "combined":
            high = (entropy_BN > rule.threshold) & (_rise(entropy_BN) > rule.rise)
            return (place_BN == 1) | (high & (place_BN > 2))
        case "space":
            space = SPACE_LIKE.to(ids_BN.device)[ids_BN]
            before = torch.roll(space, 1, 1)
            before[:, 0] = False
            return (ids_BN < OFFSET) | (space & ~before)
        case "fixed":
            return place_BN % rule.stride == 0
        case _:
            return torch.ones_like(ids_BN, dtype=torch.bool)


def _rise(entropy_BN: Tensor) -> Tensor:
    """By how much each entropy exceeds the one before it; minus infinity for the first."""
    return torch.cat([torch.full_like(entropy_BN[:, :1], -torch.inf), entropy_BN.diff(dim=1)], 1)


def _since(event_BN: Tensor) -> Tensor:
    """How many positions ago the last event was: 0 at the event itself."""
    position = torch.arange(event_BN.shape[1], device=event_BN.device).expand(event_BN.shape)
    return position - torch.where(event_BN, position, 0).cummax(1).values


def _place_in_document(ids_BN: Tensor) -> Tensor:
    """How many ids after the BOS of its document each id stands."""
    opens = ids_BN == BOS
    opens[:, 0] = True
    return _since(opens)


def _space_like() -> Tensor:
    """By id: neither an ASCII letter or digit nor a UTF-8 continuation byte. Special ids count as space-like."""
    plain = [chr(b).isascii() and chr(b).isalnum() for b in range(256)]
    return torch.tensor([True] * OFFSET + [not plain[b] and not 0x80 <= b < 0xC0 for b in range(256)])


SPACE_LIKE = _space_like()
