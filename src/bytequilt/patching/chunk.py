"""Boundaries of many bytes in parallel: a chunk of ids continues rows from a saved state of the rule."""

from functools import cached_property

import torch
from torch import Tensor

from ..codec import BOE, BOS
from ..config import RuleConfig
from .kinds import CONTINUES, NEEDS, between_characters, classes, parts, threshold_parts, wanted

PLACE, LENGTH, BEFORE, LAST, MISSING, WAITED, SPENT, PENDING = range(8)
FIELDS = 8
"""The fields of a rule's state for one row; a field that the rule does not need keeps its initial value.

- PLACE: number of ids since the BOS of the document, -1 before the first id.
- LENGTH: bytes of the open patch so far, 0 if the newest byte closed it.
- BEFORE: entropy after the newest id, as the bits of a float32.
- LAST: the newest id.
- MISSING: bytes still missing from the current UTF-8 character.
- WAITED: length of the current run of bytes that each left a character unfinished.
- SPENT: entropy used from the budget, in units of 1 / SUM_SCALE nats.
- PENDING: 1 if a patch start is postponed to the end of the character.
"""


class Chunk:
    """Ids (B, N) that continue rows from states (B, F), and the decisions of a rule about them."""

    def __init__(self, rule: RuleConfig, state_BF: Tensor, ids_BN: Tensor, nats_BN: Tensor | None) -> None:
        self.rule, self.ids_BN, self.nats_BN = rule, ids_BN, nats_BN
        self.past = state_BF[..., None].unbind(1)  # one tensor (B, 1) per field
        self.length = ids_BN.shape[1]
        self.position_N = torch.arange(self.length, device=ids_BN.device)

    @cached_property
    def closes_BN(self) -> Tensor:
        """True for bytes that close their patch: (B, N)."""
        if self.rule.kind != "budget" and self.rule.max_length is None:
            return self.natural_BN
        end_BN, length = self._end_BN, self.length
        beyond_B = torch.full_like(end_BN[:, :1], length)
        # position of one patch end -> position of the next; column N points to itself
        jump_BN = torch.cat([end_BN[:, 1:], beyond_B, beyond_B], 1)
        chain_BN = end_BN[:, :1]
        while chain_BN.shape[1] < length:  # pointer doubling: log N steps
            chain_BN = torch.cat([chain_BN, jump_BN.gather(1, chain_BN)], 1)
            jump_BN = jump_BN.gather(1, jump_BN)
        closes = torch.zeros_like(jump_BN, dtype=torch.bool)
        return closes.scatter(1, chain_BN, True)[:, :length]

    @property
    def states_BNF(self) -> Tensor:
        """The state of the rule after each id: (B, N, F)."""
        closed_BN = self._newest(self.closes_BN, -1 - self.past[LENGTH])
        zeros_BN = torch.zeros_like(self.ids_BN)
        rule, whole, nats = self.rule, self.rule.whole, zeros_BN
        if rule.reads_rises and self.nats_BN is not None:
            nats = self.nats_BN.contiguous().view(torch.int32).long()
        fields = {
            PLACE: self.place_BN,
            LENGTH: zeros_BN if rule.max_length is None else self.position_N - closed_BN,
            BEFORE: nats,
            LAST: self.ids_BN if rule.reads_bytes else zeros_BN,
            MISSING: self.missing_BN if whole else zeros_BN,
            WAITED: self.waited_BN if whole else zeros_BN,
            SPENT: self._spent_since(closed_BN) if rule.kind == "budget" else zeros_BN,
            PENDING: (self._waiting_BN > self._served_BN).long() if whole else zeros_BN,
        }
        return torch.stack([fields[field] for field in range(FIELDS)], -1)

    @cached_property
    def place_BN(self) -> Tensor:
        """Number of ids since the BOS of the document: (B, N)."""
        return self.position_N - self._newest(self.ids_BN == BOS, -1 - self.past[PLACE])

    @cached_property
    def kind_BN(self) -> Tensor:
        return classes(self.rule, self.ids_BN.device)[self.ids_BN]

    @cached_property
    def missing_BN(self) -> Tensor:
        """Number of bytes that the current UTF-8 character still needs after each byte: (B, N). It is 0 where no
        character is unfinished."""
        begin_BN = self._newest((self.kind_BN & CONTINUES) == 0, -1)
        end_BN = torch.cat([self.past[MISSING] - 1, self.position_N + (self.kind_BN >> NEEDS)], 1)
        return (end_BN.gather(1, begin_BN + 1) - self.position_N).clamp(min=0)

    @cached_property
    def waited_BN(self) -> Tensor:
        """Length of the run of bytes, up to each byte, that each left a character unfinished: (B, N)."""
        return self.position_N - self._newest(self.missing_BN == 0, -1 - self.past[WAITED])

    @cached_property
    def may_BN(self) -> Tensor:
        """True for bytes after which the rule allows a patch to start: not padding, and not inside a character if the
        rule keeps characters whole."""
        text_BN = self.ids_BN != BOE
        return text_BN & between_characters(self.waited_BN) if self.rule.whole else text_BN

    @cached_property
    def wanted_BN(self) -> Tensor:
        kinds = classes(self.rule, self.ids_BN.device)
        kind_before_BN = torch.cat([kinds[self.past[LAST]], self.kind_BN[:, :-1]], 1)
        before_BN = None
        if self.nats_BN is not None:
            newest_B = self.past[BEFORE].to(torch.int32).view(torch.float32)
            before_BN = torch.cat([newest_B, self.nats_BN[:, :-1]], 1)
        return wanted(self.rule, self.ids_BN, self.place_BN, self.kind_BN, kind_before_BN, self.nats_BN, before_BN)

    @cached_property
    def natural_BN(self) -> Tensor:
        """True for bytes that close their patch without regard to maximum length and budget. Starts inside a character
        are moved to its end."""
        if not self.rule.whole:
            return self.wanted_BN
        earlier_BN = torch.cat([torch.zeros_like(self.past[PENDING]), self._served_BN[:, :-1]], 1)
        return self.may_BN & (self._waiting_BN > earlier_BN)

    @cached_property
    def _waiting_BN(self) -> Tensor:
        """Number of patch starts requested up to each byte."""
        return self.wanted_BN.cumsum(1) + self.past[PENDING]

    @cached_property
    def _served_BN(self) -> Tensor:
        """Value of `_waiting_BN` at the newest byte after which a patch was allowed to start."""
        return torch.where(self.may_BN, self._waiting_BN, 0).cummax(1).values

    @property
    def _end_BN(self) -> Tensor:
        """For a patch that starts at each position, the position of the byte that closes it; N if none does. Column 0
        is the open patch."""
        length = self.length
        due_BN = torch.full_like(self.ids_BN, length)
        if self.rule.max_length is not None:
            due_N = self.position_N + self.rule.max_length - 1
            due_BN = torch.cat([due_N[:1] - self.past[LENGTH], due_N[1:].expand(len(due_BN), -1)], 1)
        if self.rule.kind == "budget":
            budget_BN = self._spent_before_BN[:, :-1] + threshold_parts(self.rule)
            due_BN = torch.minimum(due_BN, torch.searchsorted(self._spent_BN, budget_BN, right=True))
        due_BN = torch.maximum(due_BN, self.position_N).clamp(max=length)
        may_BN = torch.cat([self._next(self.may_BN), torch.full_like(due_BN[:, :1], length)], 1)
        return torch.minimum(self._next(self.natural_BN), may_BN.gather(1, due_BN))

    @cached_property
    def _spent_BN(self) -> Tensor:
        """Cumulative sum of the entropies after each id, in units of 1 / SUM_SCALE nats, within the chunk."""
        return parts(self.nats_BN).cumsum(1).contiguous()

    @cached_property
    def _spent_before_BN(self) -> Tensor:
        """The part of the cumulative sum that precedes a patch starting at each position 0 to N. The cost of its first
        byte is counted."""
        return torch.cat([-self.past[SPENT], torch.zeros_like(self.past[SPENT]), self._spent_BN[:, :-1]], 1)

    def _spent_since(self, closed_BN: Tensor) -> Tensor:
        return self._spent_BN - self._spent_before_BN.gather(1, closed_BN.clamp(min=-1) + 1)

    def _newest(self, event_BN: Tensor, before: Tensor | int) -> Tensor:
        """Position of the newest True at or before each byte. If there is none, `before`, which is at most 0."""
        return torch.where(event_BN, self.position_N, before).cummax(1).values

    def _next(self, event_BN: Tensor) -> Tensor:
        """Position of the first True at or after each byte; N if there is none."""
        return torch.where(event_BN, self.position_N, self.length).flip(1).cummin(1).values.flip(1)
