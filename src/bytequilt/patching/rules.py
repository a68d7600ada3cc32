"""The only place where patch boundaries are decided: for whole rows, for chunks of a row, and byte by byte.

Entropy E[i] after byte i is the entropy of the predicted byte i+1. A rule decides from bytes up to i whether byte i+1
starts a new patch. If it does, byte i *closes* its patch. The BOS of a document is always a patch by itself, and no
state is carried over it.

The decision has these steps. The kind of the rule requests a start (`kinds.wanted`), and so do the options `after` and
`digits`. A patch also closes when it reaches `max_length` bytes or, for kind `budget`, when its entropies exceed the
budget. If characters stay whole (option `characters`, kind `budget`), a start is postponed to the last byte of a UTF-8
character. The wait ends early at a byte that does not continue the character, and after three bytes in any case, so
that bytes that are not UTF-8 are divided too. Padding (id 0) never closes a patch.
"""

import torch
from torch import Tensor

from ..codec import BOE, BOS
from ..config import RuleConfig
from ..model.segments import Patches
from .chunk import FIELDS, PLACE, Chunk
from .kinds import CONTINUES, NEEDS, between_characters, classes, parts, threshold_parts, wanted


def closes(rule: RuleConfig, ids_BN: Tensor, entropy_BN: Tensor | None = None) -> Tensor:
    """True for bytes that close their patch: ids (B, N) and entropies (B, N) in nats -> (B, N) bool.

    Entropies may be None if the rule needs none. Every row starts a document. Rules follow Pagnoni et al. 2024 (arXiv
    2412.09871), section 2.3, as in the released code; the kinds `budget` and `words` are our own.
    """
    if rule.needs_entropy and entropy_BN is None:
        raise ValueError(f"patching of kind '{rule.kind}' needs entropies")
    return Chunk(rule, start(rule, len(ids_BN), ids_BN.device), ids_BN, entropy_BN).closes_BN


def patches(rule: RuleConfig, ids_BN: Tensor, entropy_BN: Tensor | None = None, count: int | None = None) -> Patches:
    """The patches of ids (B, N) under the rule. `count` sets P, the number of patches per row; by default that of the
    longest row."""
    return Patches.from_closes(ids_BN, closes(rule, ids_BN, entropy_BN), count)


def start(rule: RuleConfig, rows: int, device: torch.device | str = "cpu") -> Tensor:
    """The initial state of a rule for empty rows: (R, F) int64, with the same F for every rule. A row of the state is
    plain numbers. A copy of it is enough to fork a text or to return to an earlier position."""
    state_RF = torch.zeros(rows, FIELDS, dtype=torch.int64, device=device)
    state_RF[:, PLACE] = -1
    return state_RF


def step(rule: RuleConfig, state_RF: Tensor, ids_R: Tensor, nats_R: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Process one id (R,) per row: True where it closes its patch, and the new state (R, F).

    `nats_R` (R,) fp32 are the entropies after these ids. `state_RF` is not modified, and nothing is copied from the
    device. Only the operations that this rule needs are executed.
    """
    state_RF = state_RF.clone()
    place, length, before, last, missing, waited, spent, pending = state_RF.unbind(1)
    place.add_(1).masked_fill_(ids_R == BOS, 0)
    kind = kind_before = nats_before = None
    if rule.reads_bytes:
        kinds = classes(rule, ids_R.device)
        kind, kind_before = kinds[ids_R], kinds[last]
        last.copy_(ids_R)
    if rule.reads_rises and nats_R is not None:
        nats_before = before.to(torch.int32).view(torch.float32)
        before.copy_(nats_R.contiguous().view(torch.int32))
    requested = wanted(rule, ids_R, place, kind, kind_before, nats_R, nats_before)
    if rule.whole:
        missing.copy_(torch.where((kind & CONTINUES) > 0, (missing - 1).clamp(min=0), kind >> NEEDS))
        waited.add_(1).masked_fill_(missing == 0, 0)
        requested |= pending > 0
    closed = requested
    if rule.max_length is not None:
        closed = closed | (length.add_(1) >= rule.max_length)
    if rule.kind == "budget":
        cost = parts(nats_R)
        closed = closed | (spent.add_(cost) > threshold_parts(rule))
    if closed is not requested or rule.whole:
        closed = closed & (ids_R != BOE)
    if rule.whole:
        closed = closed & between_characters(waited)
        pending.copy_(requested & ~closed)
    if rule.max_length is not None:
        length.masked_fill_(closed, 0)
    if rule.kind == "budget":
        spent.copy_(torch.where(closed, cost, spent))
    return closed, state_RF


def feed(rule: RuleConfig, state_1F: Tensor, ids_N: Tensor, nats_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Process the next ids (N,) of one row in parallel: decisions (N,) bool as in `step`, and the states (N, F) after
    them."""
    chunk = Chunk(rule, state_1F, ids_N[None], None if nats_N is None else nats_N[None])
    return chunk.closes_BN[0], chunk.states_BNF[0]


def natural(rule: RuleConfig) -> RuleConfig:
    """The rule without a maximum length, so that every patch start has a reason in the text. A `budget` rule keeps its
    maximum length: without it, later patches would start elsewhere."""
    return rule if rule.kind == "budget" else rule.model_copy(update={"max_length": None})
