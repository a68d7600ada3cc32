"""Patches: where the bytes of a row are cut, and the pure functions that follow the cuts. Never a [B, P, N] tensor."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..codec import BOS, VOCAB_SIZE
from ..config import UserError


@dataclass(frozen=True)
class Patches:
    """The patches of rows of N bytes.

    A row of N bytes carries N+1 decisions: which bytes start a patch, and whether the byte still to come would.
    `start_BN` holds the starts as they happened; a BOS starts a patch whatever was decided before it.
    `closes_BN` holds what was decided: after byte t, from bytes up to t alone, whether byte t+1 starts a patch.
    """

    start_BN: Tensor
    closes_BN: Tensor
    count: int
    """Patches of the longest row, or more: the P of every [B, P, D] tensor."""
    single: bool = False
    """Whether each row is known to hold one document, from its first byte."""
    fixed: bool = False
    """Whether training meets this P at every step."""

    @classmethod
    def from_closes(
        cls,
        ids_BN: Tensor,
        closes_BN: Tensor,
        count: int | None = None,
        single: bool = False,
        fixed: bool = False,
    ) -> "Patches":
        """Patches of ids (B, N) from the decisions (B, N).

        `count` must be enough for the longest row; without it, the device is read. For the rest see the fields.
        """
        start_BN = starts_of(ids_BN, closes_BN)
        return cls(start_BN, closes_BN, count or int(start_BN.sum(1).max()), single, fixed)

    @classmethod
    def from_lengths(cls, lengths_BP: Tensor) -> "Patches":
        """Patches of rows of N bytes from lengths (B, P) that sum to N+1 and end in zeros, as in released code."""
        total = int(lengths_BP[0].sum())
        wrong = (lengths_BP.sum(1) != total).any() or (lengths_BP < 0).any() or (lengths_BP[:, 0] != 1).any()
        if wrong or ((lengths_BP[:, :-1] == 0) & (lengths_BP[:, 1:] > 0)).any():
            raise ValueError("patch lengths start with 1, sum to N+1 in every row, and have zeros at the end alone")
        start_BN1 = torch.zeros(len(lengths_BP), total + 1, dtype=torch.bool, device=lengths_BP.device)
        start_BN1.scatter_(1, lengths_BP.cumsum(1) - lengths_BP, True)  # empty patches fall on position N+1
        return cls(start_BN1[:, : total - 1], start_BN1[:, 1:total], lengths_BP.shape[1])

    @cached_property
    def of_byte_BN(self) -> Tensor:
        """The patch that each byte lies in."""
        return self.start_BN.cumsum(1) - 1

    @cached_property
    def read_BN(self) -> Tensor:
        """The patch whose latent each byte reads: its own if it closed it, otherwise the one before."""
        return self.of_byte_BN - 1 + self.closes_BN.long()

    @cached_property
    def lengths_BP(self) -> Tensor:
        """Bytes of each patch; zeros where a row has fewer than P patches."""
        zeros = self.of_byte_BN.new_zeros(len(self.start_BN), self.count)
        return zeros.scatter_add(1, self.of_byte_BN, torch.ones_like(self.of_byte_BN))

    @cached_property
    def flat_of_byte(self) -> Tensor:
        """The patch of each byte, counted through the whole batch: (B*N,)."""
        return flat(self.of_byte_BN, self.count)

    @property
    def starts(self) -> list[list[int]]:
        """Positions at which a patch starts, row by row."""
        return [row.nonzero().flatten().tolist() for row in self.start_BN]

    def opens_BP(self, ids_BN: Tensor) -> Tensor:
        """Which patches open a document: those of a BOS."""
        opens = torch.zeros(len(ids_BN), self.count + 1, dtype=torch.bool, device=ids_BN.device)
        patch_BN = torch.where(ids_BN == BOS, self.of_byte_BN, self.count)  # of other bytes, one that does not exist
        return opens.scatter_(1, patch_BN, True)[:, :-1]


def starts_of(ids_BN: Tensor, closes_BN: Tensor) -> Tensor:
    """Which ids start a patch: (B, N) bool."""
    return torch.cat([torch.ones_like(closes_BN[:, :1]), closes_BN[:, :-1]], 1) | (ids_BN == BOS)


def flat(index_BN: Tensor, per_row: int) -> Tensor:
    """Row-wise indices (B, N) into (B, per_row, ...) as indices (B*N,) into its first two dimensions, flattened."""
    rows = torch.arange(len(index_BN), device=index_BN.device)[:, None] * per_row
    return (index_BN + rows).flatten()


def segment_max(values_SD: Tensor, segment_S: Tensor, segments: int) -> Tensor:
    """Maximum over each segment, zeros where a segment is empty: (S, D) -> (segments, D)."""
    out = values_SD.new_zeros(segments, values_SD.shape[1])
    index = segment_S[:, None].expand_as(values_SD)
    return out.scatter_reduce(0, index, values_SD, "amax", include_self=False)


def segment_softmax(scores_SH: Tensor, segment_S: Tensor, segments: int) -> Tensor:
    """Softmax over the entries of each segment, column by column: (S, H) -> (S, H), in fp32."""
    scores = scores_SH.float()
    top = segment_max(scores.detach(), segment_S, segments)
    weights = (scores - top.index_select(0, segment_S)).exp()
    sums = weights.new_zeros(segments, weights.shape[1]).index_add(0, segment_S, weights)
    return weights / sums.index_select(0, segment_S)  # whose gradient adds up many times faster than that of indexing


def check_ids(ids: Tensor, dims: int, values: bool = True) -> None:
    """Raises UserError for what is no tensor of ids with so many dimensions.

    With `values`, the ids must be in the vocabulary, too; those on a GPU are not read for it.
    """
    if not isinstance(ids, Tensor) or ids.dim() != dims or ids.is_floating_point():
        shape = "(N,), one text" if dims == 1 else "(B, N), a row a text"
        raise UserError(f"ids must be a torch tensor of whole numbers {shape}, as torch.from_numpy(encode(text)) gives")
    if values and ids.is_cpu and ids.numel() and not (ids.min() >= 0 and ids.max() < VOCAB_SIZE):
        raise UserError(f"ids must be 0 to {VOCAB_SIZE - 1}, and these are {ids.min()} to {ids.max()}")
