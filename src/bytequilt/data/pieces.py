"""Cuts a document that is longer than a row into pieces, without moving any patch boundary."""

import numpy as np

from ..codec import BOS

ID, CLOSES, LEARN = range(3)
"""Columns of a piece."""


def pieces(
    ids_L: np.ndarray, prompt: int, closes_L: np.ndarray, row_bytes: int, row_patches: int | None = None
) -> list[np.ndarray]:
    """Cut a document into pieces (n, 3) int32 with columns ID, CLOSES and LEARN, with n at most `row_bytes`.

    `ids_L` (L,) are the ids of the whole document, from BOS to EOS. `closes_L` (L,) is True for the last id of a patch.
    The first `prompt` ids after BOS are not learnt. Every piece starts with a BOS, and only the last piece ends with
    EOS. A piece has at most `row_patches` patches, which must be 2 or more. BOS is not learnt, nor is the first id of a
    later piece, because its context is cut off. If possible, a piece ends at the end of a patch.
    """
    learn_L = np.arange(len(ids_L)) > prompt
    start_S = np.flatnonzero(closes_L) + 1
    cut, begin = [], 1
    while begin < len(ids_L):
        end = _end(begin, len(ids_L), start_S, row_bytes, row_patches)
        piece = np.empty((1 + end - begin, 3), dtype=np.int32)
        piece[0] = BOS, closes_L[0], False
        piece[1:, ID], piece[1:, CLOSES], piece[1:, LEARN] = ids_L[begin:end], closes_L[begin:end], learn_L[begin:end]
        if begin > 1:
            piece[1, LEARN] = False
        cut.append(piece)
        begin = end
    return cut


def _end(begin: int, length: int, start_S: np.ndarray, row_bytes: int, row_patches: int | None) -> int:
    """The end (exclusive) of the piece that starts at id `begin`. `start_S` are the positions where patches start."""
    end = min(begin + row_bytes - 1, length)
    later_S = start_S[np.searchsorted(start_S, begin, side="right") :]
    if row_patches is not None and len(later_S) > row_patches - 2:  # the BOS and the first id each start a patch
        end = min(end, int(later_S[row_patches - 2]))
    if end < length:
        end = max(begin + 1, min(end, length - 2))  # the last piece must not be the EOS alone, without context
        whole = np.searchsorted(later_S, end, side="right")
        end = int(later_S[whole - 1]) if whole else end
    return end


def patch_count(piece: np.ndarray) -> int:
    """Number of patches of a piece within a row."""
    return 1 + int(piece[:-1, CLOSES].sum())
