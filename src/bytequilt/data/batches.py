"""Batches for training: documents are cut into pieces and packed into rows of N ids and at most P patches.

The sequence of batches is endless and can be resumed exactly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..codec import BOE, BOS, OFFSET, encode
from ..config import RuleConfig, TrainConfig, UserError
from ..model.segments import starts_of
from ..patching import rules
from .order import Index, Order
from .pieces import CLOSES, ID, LEARN, patch_count, pieces
from .shards import check_patcher, read_about, shard_paths

try:
    from absl import logging

    logging.set_verbosity(logging.ERROR)  # at import, grain warns that jax is missing; it is not needed here
    import grain
    from grain.experimental import FirstFitPackIterDataset, FlatMapIterDataset, FlatMapTransform
except ImportError:
    raise UserError("batches need grain: pip install 'bytequilt[train]'") from None

PACKED_BATCHES = 4
"""Number of batches packed together. A larger number leaves less padding, but more work to repeat after a restart."""


@dataclass(frozen=True)
class Batch:
    """B rows of N ids. A row holds whole pieces of documents one after another, then padding (id 0).

    `of` computes the counts while the ids are still on the CPU, so that none is read back from the device.
    """

    ids_BN: Tensor
    """int64"""
    closes_BN: Tensor
    """bool: True if the id is the last of its patch. The rule has decided this on the whole document."""
    learn_BN: Tensor
    """bool: True if the id is a target of the loss, predicted from the ids before it."""
    targets: int
    """Number of targets."""
    ids: int
    """Number of ids that stand for bytes of text, not for special ids or padding."""
    patches: int
    """Number of patches that start with a byte of text."""
    count: int
    """P, the size of the patch dimension: at least the number of patches of the row with the most patches."""
    single: bool
    """True if each row holds only one piece: no BOS follows its first id."""
    fixed: bool
    """True if all batches have the same `count`."""

    @classmethod
    def of(cls, ids_BN: Tensor, closes_BN: Tensor, learn_BN: Tensor, room: int | None = None) -> "Batch":
        """Create a batch on the CPU and compute its counts. `room` is P if all batches have the same P."""
        start_BN, text_BN = starts_of(ids_BN, closes_BN), ids_BN >= OFFSET
        counts = (learn_BN[:, 1:].sum(), text_BN.sum(), (start_BN & text_BN).sum(), start_BN.sum(1).max())
        targets, ids, patches, longest = torch.stack(counts).tolist()
        single = not bool((ids_BN[:, 1:] == BOS).any())
        fixed = room is not None
        return cls(ids_BN, closes_BN, learn_BN, targets, ids, patches, room or longest, single, fixed)

    @classmethod
    def of_rows(cls, rows_BN3: np.ndarray, room: int | None) -> "Batch":
        """Create a batch from rows of packed pieces (see `pieces`)."""
        rows = torch.from_numpy(rows_BN3)
        ids, closes = rows[..., ID].long(), rows[..., CLOSES].bool()
        closes[:, :-1] &= ids[:, 1:] != BOE  # padding must not start a patch: the row may already have all its patches
        return cls.of(ids, closes, rows[..., LEARN].bool(), room)

    def to(self, device: torch.device) -> "Batch":
        """Copy the batch to the device, without waiting for the copy to finish."""
        if device == self.ids_BN.device:
            return self
        tensors = (self.ids_BN, self.closes_BN, self.learn_BN)
        if device.type == "cuda":
            tensors = tuple(tensor.pin_memory() for tensor in tensors)
        moved = (tensor.to(device, non_blocking=True) for tensor in tensors)
        return replace(self, **dict(zip(("ids_BN", "closes_BN", "learn_BN"), moved, strict=True)))


class Batches:
    """An endless iterator over batches of a folder of shards.

    A row has at most `train.row_bytes` ids and `train.row_patches` patches; a batch has `train.rows` rows. With rule
    None, no id closes a patch (for training an entropy model). `weights` gives the share of bytes per source. Each
    rank has its own documents. `fingerprint` names the patcher that must have scored the shards. `encode` converts a
    text to ids; the default is `codec.encode`. With `pad_patches`, P is `row_patches` in every batch.

    Raises UserError for damaged shards, for shards of another patcher, for a corpus smaller than a batch, and for
    `row_patches` below 2.
    """

    def __init__(
        self,
        shards: Path,
        train: TrainConfig,
        rule: RuleConfig | None,
        *,
        weights: Sequence[float] = (),
        rank: int = 0,
        world: int = 1,
        fingerprint: str | None = None,
        encode: Callable[..., np.ndarray] = encode,
        pad_patches: bool = False,
    ) -> None:
        if train.row_patches is not None and train.row_patches < 2:
            raise UserError("row_patches must be 2 at least: a document opens with a patch of its own")
        self.train, self.rule, self.encode = train, rule, encode
        self.room = train.row_patches if pad_patches else None
        self._paths = shard_paths(shards)
        documents_S, bytes_S = self._sizes(fingerprint)
        self._check_size(int(bytes_S.sum() + 2 * documents_S.sum()), world)
        self._made_of = {
            "documents": int(documents_S.sum()),
            "bytes": int(bytes_S.sum()),
            "weights": list(weights),
            "rank": rank,
            "world": world,
            **train.model_dump(include={"rows", "row_bytes", "row_patches", "seed"}),
        }
        self._rows = iter(self._pipeline(documents_S, bytes_S, weights, rank, world))

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        return Batch.of_rows(next(self._rows)["piece"], self.room)

    def state(self) -> dict[str, Any]:
        """The position of the iterator, as a small value for JSON."""
        return {"made_of": self._made_of, "place": self._rows.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`. Raises UserError if the state belongs to other batches."""
        for name, mine in self._made_of.items():
            theirs = state["made_of"].get(name)
            if theirs != mine:
                raise UserError(f"cannot go on: the batches were made with {name} {theirs}, and now it is {mine}")
        self._rows.set_state(state["place"])

    def _sizes(self, fingerprint: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Number of documents and number of bytes of each source: (S,) and (S,)."""
        documents, sizes = [], []
        for path in self._paths:
            about = read_about(path)
            if fingerprint is not None:
                check_patcher(path, about, fingerprint)
            elif "entropies" in self._columns and "patcher" not in about:
                raise UserError(f"{path} has no entropies, which the rule needs; `bytequilt prepare` adds them")
            documents.append(about["documents"])
            sizes.append(about["bytes"])
        return np.sum(documents, 0), np.sum(sizes, 0)

    def _check_size(self, ids: int, world: int) -> None:
        rows, row_bytes = self.train.rows, self.train.row_bytes
        if ids < (batch := world * rows * row_bytes):
            fitting = 1 << max(ids // world, 1).bit_length() - 1
            raise UserError(
                f"a corpus smaller than a batch: {ids:,} ids, and a batch has {batch:,}, {world * rows:,} rows of "
                f"{row_bytes:,}; lower rows or row_bytes, as to rows = 1 and row_bytes = {fitting}, or add text"
            )

    def _pipeline(
        self, documents_S: np.ndarray, bytes_S: np.ndarray, weights: Sequence[float], rank: int, world: int
    ) -> grain.IterDataset:
        """The pipeline: shuffled documents of each source -> mix of all sources -> pieces -> packed rows -> batches."""
        if weights and len(weights) != len(documents_S):
            raise UserError(f"{len(weights)} weights for {len(documents_S)} sources")
        train, seed, index = self.train, self.train.seed % 2**32, Index(self._paths)
        parts = [index.source_M == source for source in range(len(weights))] or [np.ones(len(index.source_M), bool)]
        orders = []
        for number, part in enumerate(parts):
            mine = np.flatnonzero(part)[rank::world]
            if not len(mine):
                raise UserError(f"{int(part.sum())} documents in source {number + 1} are too few for {world} ranks")
            orders.append(Order(index, mine, self._columns, (seed, number), self._pieces))
        # Two threads read and cut documents in advance; more threads would decode the same row group several times.
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=32)
        streams = [grain.MapDataset.source(order).to_iter_dataset(options) for order in orders]
        # Grain draws by number of documents, so weights are divided by the mean bytes per document of the source.
        drawn = [w * n / size for w, n, size in zip(weights, documents_S, bytes_S, strict=True)] if weights else None
        mixed = FlatMapIterDataset(grain.IterDataset.mix(streams, drawn), _EachPiece())
        return _in_rows(mixed, train, seed=seed).batch(train.rows)

    @property
    def _columns(self) -> list[str]:
        scored = self.rule is not None and self.rule.needs_entropy
        return ["prompt", "data", "entropies"] if scored else ["prompt", "data"]

    def _pieces(self, prompt: Any, data: Any, entropies: Any = None) -> list[dict[str, np.ndarray]]:
        """The pieces of a document, for packing."""
        text, size = data.as_py(), prompt.as_py()
        ids = self.encode(text, eos=True)
        if size:  # inference encodes a prompt without its answer, so both are encoded separately here
            before = self.encode(text[:size])
            ids, size = np.concatenate([before, self.encode(text[size:], bos=False, eos=True)]), len(before) - 1
        nats = None if entropies is None else entropies.values.to_numpy().copy()
        return _for_packing(ids, size, self.rule, nats, self.train)


class _EachPiece(FlatMapTransform):
    def flat_map(self, element: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        return element


def _for_packing(
    ids: np.ndarray, prompt: int, rule: RuleConfig | None, entropies: np.ndarray | None, train: TrainConfig
) -> list[dict[str, np.ndarray]]:
    """The pieces of a document. In each, the array under `patches` has as many entries as the piece has patches."""
    closes = np.zeros(len(ids), dtype=bool)
    if rule is not None:
        nats = None if entropies is None else torch.from_numpy(entropies)[None]
        closes = rules.closes(rule, torch.from_numpy(ids)[None], nats)[0].numpy()
    cut = pieces(ids, prompt, closes, train.row_bytes, train.row_patches)
    if train.row_patches is None:
        return [{"piece": piece} for piece in cut]
    return [{"piece": piece, "patches": np.zeros(patch_count(piece), dtype=np.int8)} for piece in cut]


def _in_rows(parts: grain.IterDataset, train: TrainConfig, **options: Any) -> FirstFitPackIterDataset:
    """Pack pieces into rows: each into the first row that has room for it."""
    budget = {"piece": train.row_bytes} | ({"patches": train.row_patches} if train.row_patches else {})
    bins = PACKED_BATCHES * train.rows
    return FirstFitPackIterDataset(parts, length_struct=budget, num_packing_bins=bins, **options)


def packed(
    documents: Sequence[bytes],
    rule: RuleConfig | None,
    entropies: Sequence[np.ndarray] | None,
    train: TrainConfig,
    pad_patches: bool = False,
) -> list[Batch]:
    """Pack held-out documents into batches like training documents, but in order and only once.

    The rule decides which ids close a patch; with None, no id does. Some rules need `entropies`, in nats, one array per
    document. With `pad_patches`, P is `train.row_patches` in every batch.
    """
    parts = []
    for data, nats in zip(documents, entropies or [None] * len(documents), strict=True):
        parts += _for_packing(encode(data, eos=True), 0, rule, nats, train)
    rows = _in_rows(grain.MapDataset.source(parts).to_iter_dataset(), train, shuffle_bins=False)
    rows_RN3 = np.stack([row["piece"] for row in rows])
    rows_RN3 = np.pad(rows_RN3, [(0, -len(rows_RN3) % train.rows), (0, 0), (0, 0)])
    room = train.row_patches if pad_patches else None
    return [Batch.of_rows(part, room) for part in np.split(rows_RN3, len(rows_RN3) // train.rows)]
