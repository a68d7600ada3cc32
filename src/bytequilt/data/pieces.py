"""Pieces: a document that is longer than a row, cut so that every patch boundary stays where it was."""

import numpy as np

from ..codec import BOS

ID, CLOSES, LEARN = range(3)
"""Columns of a piece."""


def pieces(
    ids_L: np.ndarray, prompt: int, closes_L: np.ndarray, row_bytes: int, row_patches: int | None = None
) -> list[np.ndarray]:
    """Cuts a document into pieces (n, 3) int32 with columns ID, CLOSES, LEARN; n is `row_bytes` at most.

    `ids_L` (L,) are those of the whole document, BOS first and EOS last, the first `prompt` of its text not to be
    learnt; `closes_L` (L,) bool holds its decisions. Every piece opens with a BOS; only the last holds the EOS. None
    has more than `row_patches` patches, two at least. BOS, and the id that opens a later piece, whose past is out of
    sight, are not learnt. A piece ends with a patch where it can.
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
    """Where the piece that begins at this id ends, given the ids that start a patch."""
    end = min(begin + row_bytes - 1, length)
    later_S = start_S[np.searchsorted(start_S, begin, side="right") :]
    if row_patches is not None and len(later_S) > row_patches - 2:  # the BOS and the first id open a patch each
        end = min(end, int(later_S[row_patches - 2]))
    if end < length:
        end = max(begin + 1, min(end, length - 2))  # an EOS alone would have nothing to be predicted from
        whole = np.searchsorted(later_S, end, side="right")
        end = int(later_S[whole - 1]) if whole else end
    return end


def patch_count(piece: np.ndarray) -> int:
    """How many patches a piece takes in a row."""
    return 1 + int(piece[:-1, CLOSES].sum())
