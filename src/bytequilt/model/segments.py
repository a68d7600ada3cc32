"""Patches: the boundaries in rows of bytes, and functions over segments. No tensor of shape (B, P, N) is ever built."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..codec import BOS, VOCAB_SIZE
from ..config import UserError


@dataclass(frozen=True)
class Patches:
    """The patch boundaries of rows of N bytes.

    `closes_BN[t]` is the decision after byte t, made from bytes up to t alone: True if byte t+1 starts a new patch.
    `start_BN[t]` is True if byte t does start a patch; a BOS always starts one, whatever was decided before it. The
    last decision concerns a byte that is not in the row yet.
    """

    start_BN: Tensor
    closes_BN: Tensor
    count: int
    """Number of patches P in every (B, P, D) tensor: at least that of the row with the most patches."""
    single: bool = False
    """True if the caller knows that each row is one document which starts at byte 0."""
    fixed: bool = False
    """True if training repeats this P at every step."""

    @classmethod
    def from_closes(
        cls, ids_BN: Tensor, closes_BN: Tensor, count: int | None = None, single: bool = False, fixed: bool = False
    ) -> "Patches":
        """Patches of ids (B, N) from the decisions `closes_BN` (B, N).

        `count` must be at least the number of patches in any row; if it is None, the number is read from the device.
        `single` and `fixed` are the fields of the same name.
        """
        start_BN = starts_of(ids_BN, closes_BN)
        return cls(start_BN, closes_BN, count or int(start_BN.sum(1).max()), single, fixed)

    @classmethod
    def from_lengths(cls, lengths_BP: Tensor) -> "Patches":
        """Patches of rows of N ids, from patch lengths (B, P) as Meta's released code gives them: they cover the N ids
        and the next byte, which is not in the row yet. So the lengths of a row add up to N+1. They start with 1 (the
        BOS alone), and zeros fill a row with fewer than P patches. Raises ValueError otherwise."""
        total = int(lengths_BP[0].sum())
        wrong = (lengths_BP.sum(1) != total).any() or (lengths_BP < 0).any() or (lengths_BP[:, 0] != 1).any()
        if wrong or ((lengths_BP[:, :-1] == 0) & (lengths_BP[:, 1:] > 0)).any():
            raise ValueError("patch lengths must start with 1, sum to N+1 in every row, and have zeros only at the end")
        start_BN1 = torch.zeros(len(lengths_BP), total + 1, dtype=torch.bool, device=lengths_BP.device)
        # empty patches are marked at position N+1, which is cut off below
        start_BN1.scatter_(1, lengths_BP.cumsum(1) - lengths_BP, True)
        return cls(start_BN1[:, : total - 1], start_BN1[:, 1:total], lengths_BP.shape[1])

    @cached_property
    def of_byte_BN(self) -> Tensor:
        """Number of the patch that contains each byte: (B, N)."""
        return self.start_BN.cumsum(1) - 1

    @cached_property
    def read_BN(self) -> Tensor:
        """Number of the patch that each byte attends to: its own if the byte closes it, otherwise the one before: (B,
        N)."""
        return self.of_byte_BN - 1 + self.closes_BN.long()

    @cached_property
    def lengths_BP(self) -> Tensor:
        """Length of each patch in bytes: (B, P); 0 for patches that a row does not have."""
        zeros = self.of_byte_BN.new_zeros(len(self.start_BN), self.count)
        return zeros.scatter_add(1, self.of_byte_BN, torch.ones_like(self.of_byte_BN))

    @cached_property
    def flat_of_byte(self) -> Tensor:
        """Number of the patch that contains each byte, counted through the whole batch: (B*N,)."""
        return flat(self.of_byte_BN, self.count)

    @property
    def starts(self) -> list[list[int]]:
        """For each row, the positions at which patches start."""
        return [row.nonzero().flatten().tolist() for row in self.start_BN]

    def opens_BP(self, ids_BN: Tensor) -> Tensor:
        """True for patches that start a document, which are those of a BOS: (B, P)."""
        opens = torch.zeros(len(ids_BN), self.count + 1, dtype=torch.bool, device=ids_BN.device)
        # other bytes point to an extra patch, which is cut off below
        patch_BN = torch.where(ids_BN == BOS, self.of_byte_BN, self.count)
        return opens.scatter_(1, patch_BN, True)[:, :-1]


def starts_of(ids_BN: Tensor, closes_BN: Tensor) -> Tensor:
    """True where an id starts a patch: (B, N) bool, from the decisions after each id."""
    return torch.cat([torch.ones_like(closes_BN[:, :1]), closes_BN[:, :-1]], 1) | (ids_BN == BOS)


def flat(index_BN: Tensor, per_row: int) -> Tensor:
    """Convert indices within rows (B, N) into indices (B*N,) of a tensor (B, per_row, ...) whose first two dimensions
    are flattened."""
    rows = torch.arange(len(index_BN), device=index_BN.device)[:, None] * per_row
    return (index_BN + rows).flatten()


def segment_max(values_SD: Tensor, segment_S: Tensor, segments: int) -> Tensor:
    """Maximum over each segment, 0 for empty segments: (S, D) -> (segments, D)."""
    out = values_SD.new_zeros(segments, values_SD.shape[1])
    index = segment_S[:, None].expand_as(values_SD)
    return out.scatter_reduce(0, index, values_SD, "amax", include_self=False)


def segment_softmax(scores_SH: Tensor, segment_S: Tensor, segments: int) -> Tensor:
    """Softmax over the entries of each segment, for each column: (S, H) -> (S, H) in fp32."""
    scores = scores_SH.float()
    top = segment_max(scores.detach(), segment_S, segments)
    weights = (scores - top.index_select(0, segment_S)).exp()
    sums = weights.new_zeros(segments, weights.shape[1]).index_add(0, segment_S, weights)
    # index_select, because its gradient is much faster than that of indexing
    return weights / sums.index_select(0, segment_S)


def check_ids(ids: Tensor, dims: int, values: bool = True) -> None:
    """Raise UserError unless `ids` is an int64 or int32 tensor (N,) or, with `dims` 2, (B, N), which must not be empty.

    With `values`, ids on a CPU must also be in the vocabulary.
    """
    whole = isinstance(ids, Tensor) and ids.dtype in (torch.int64, torch.int32)
    if not whole or ids.dim() != dims or (dims == 2 and not ids.numel()):
        shape = "(N,)" if dims == 1 else "(B, N), one text per row"
        raise UserError(f"ids must be a torch tensor of whole numbers {shape}, as torch.from_numpy(encode(text)) gives")
    if values and ids.is_cpu and ids.numel() and not (ids.min() >= 0 and ids.max() < VOCAB_SIZE):
        raise UserError(f"ids must be 0 to {VOCAB_SIZE - 1}, and these are {ids.min()} to {ids.max()}")
