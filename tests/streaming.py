"""The rules of patching in plain Python, one id after another: the slow twin of `bytequilt.patching.rules`."""

import numpy as np

from bytequilt.codec import BOE, BOS, OFFSET
from bytequilt.config import RuleConfig
from bytequilt.patching.kinds import SUM_SCALE, needed, threshold_parts


class Stream:
    """Takes one id and the entropy after it, returns whether the id closed its patch."""

    def __init__(self, rule: RuleConfig) -> None:
        self.rule = rule
        self.place = -1
        self.length = 0
        self.before: np.float32 | None = None
        self.space_before = False
        self.missing = 0
        self.waited = 0
        self.spent = 0
        self.pending = False

    def feed(self, id: int, entropy: float | None = None) -> bool:
        """True if byte `id` closes its patch; `entropy` is the entropy in nats of the next byte."""
        rule, byte = self.rule, id - OFFSET
        self.place = 0 if self.place < 0 or id == BOS else self.place + 1
        self.length += 1
        self.missing = max(self.missing - 1, 0) if 0x80 <= byte < 0xC0 else needed(byte)
        self.waited = self.waited + 1 if self.missing else 0
        # fp32 as in the tensor version, so that both decide equally
        nats = None if entropy is None else np.float32(entropy)
        cost = max(0, round(float(nats) * SUM_SCALE)) if rule.kind == "budget" else 0
        self.spent += cost
        forced = self.place == 0 or (byte >= 0 and byte in rule.forcing)
        requested = id != BOE and (forced or bool(self._natural(id, nats)))
        self.pending = self.pending or requested
        too_long = rule.max_length is not None and self.length >= rule.max_length
        over_budget = rule.kind == "budget" and self.spent > threshold_parts(rule)
        allowed = id != BOE and not (rule.whole and 0 < self.waited <= 3)
        closed = allowed and (self.pending or too_long or over_budget)
        if closed:
            self.length, self.spent, self.pending = 0, cost, False
        self.before, self.space_before = nats, self._space_like(byte)
        return closed

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
            case "space" | "words":
                return id < OFFSET or (self._space_like(id - OFFSET) and not self.space_before)
            case "fixed":
                return self.place % rule.stride == 0
            case "byte":
                return True
            case _:
                return False

    def _space_like(self, byte: int) -> bool:
        return byte < 0 or (SPACE_LIKE_WORDS if self.rule.kind == "words" else SPACE_LIKE)[byte]


SPACE_LIKE_WORDS = tuple(b < 0x80 and not chr(b).isalnum() for b in range(256))
SPACE_LIKE = tuple(lead or b >= 0xC0 for b, lead in enumerate(SPACE_LIKE_WORDS))
