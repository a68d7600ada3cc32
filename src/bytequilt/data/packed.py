"""Packs held-out documents into batches like training documents, but in order and only once."""

from collections.abc import Sequence

import numpy as np
import torch

from ..codec import BOE, encode
from ..config import RuleConfig, TrainConfig
from ..patching import rules
from .batches import Batch
from .pieces import CLOSES, ID, LEARN, patch_count, pieces


def packed(
    documents: Sequence[bytes],
    rule: RuleConfig | None,
    entropies: Sequence[np.ndarray] | None,
    config: TrainConfig,
    pad_patches: bool = False,
) -> list[Batch]:
    """Cut documents into pieces, pack the pieces into rows, and return batches of `config.rows` rows.

    The rule decides which ids close a patch; with None, no id does. Some rules need `entropies`, in nats, one array per
    document. With `pad_patches`, P is `config.row_patches` in every batch.
    """
    cut = []
    for number, data in enumerate(documents):
        ids, nats = encode(data, eos=True), None if entropies is None else torch.from_numpy(entropies[number])[None]
        closes = np.zeros(len(ids), bool)
        if rule is not None:
            closes = rules.closes(rule, torch.from_numpy(ids)[None], nats)[0].numpy()
        cut += pieces(ids, 0, closes, config.row_bytes, config.row_patches)
    rows = [np.concatenate(row) for row in _fitted(cut, config)]
    room = config.row_patches if pad_patches else None
    return [_batch(rows[a : a + config.rows], config, room) for a in range(0, len(rows), config.rows)]


def _fitted(cut: list[np.ndarray], config: TrainConfig) -> list[list[np.ndarray]]:
    """Put each piece into the first row that has room for it (first fit)."""
    rows: list[list[np.ndarray]] = []
    room: list[tuple[int, int]] = []
    for piece in cut:
        size, count = len(piece), patch_count(piece) if config.row_patches else 0
        place = next((i for i, (ids, patches) in enumerate(room) if size <= ids and count <= patches), len(rows))
        if place == len(rows):
            rows.append([])
            room.append((config.row_bytes, config.row_patches or 0))
        rows[place].append(piece)
        room[place] = room[place][0] - size, room[place][1] - count
    return rows


def _batch(rows: list[np.ndarray], config: TrainConfig, room: int | None) -> Batch:
    whole = np.zeros((config.rows, config.row_bytes, 3), dtype=np.int32)
    for number, row in enumerate(rows):
        whole[number, : len(row)] = row
    ids, closes, learn = (torch.from_numpy(whole[..., column]) for column in (ID, CLOSES, LEARN))
    closes = closes.bool()
    closes[:, :-1] &= ids[:, 1:] != BOE  # padding must not start a patch
    return Batch.of(ids.long(), closes, learn.bool(), room)
