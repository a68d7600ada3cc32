"""Batches: documents cut into pieces, packed into rows of N ids and P patches, endless and exactly resumable."""

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
from .shards import check_patcher, read_about, row_groups, shard_paths
from .sources import Document

try:
    from absl import logging

    logging.set_verbosity(logging.ERROR)  # grain warns at import that jax is missing, which nobody here needs
    import grain
    from grain.experimental import FirstFitPackIterDataset, FlatMapIterDataset, FlatMapTransform
except ImportError:
    raise UserError("batches need grain: pip install 'bytequilt[train]'") from None

PACKED_BATCHES = 4
"""Batches that are packed at once: more leave less padding, and more to pack again after a restart."""


@dataclass(frozen=True)
class Batch:
    """B rows of N ids: whole pieces of documents one after another, then padding (id 0).

    What can be counted is counted while the ids are on the CPU: see `of`.
    """

    ids_BN: Tensor
    """int64"""
    closes_BN: Tensor
    """Whether each id closes its patch, decided on the whole document."""
    learn_BN: Tensor
    """Whether each id is a target to learn: predicted from the ids before it."""
    targets: int
    """How many there are."""
    ids: int
    """Ids that stand for text."""
    patches: int
    """Patches that begin with such an id."""
    count: int
    """P: the patches of the longest row, or more."""
    single: bool
    """Whether each row holds one document, from its first id."""
    fixed: bool
    """Whether `count` is that of every batch."""

    @classmethod
    def of(cls, ids_BN: Tensor, closes_BN: Tensor, learn_BN: Tensor, room: int | None = None) -> "Batch":
        """A batch on the CPU, counted; `room` is its P, where all batches have one."""
        start_BN, text_BN = starts_of(ids_BN, closes_BN), ids_BN >= OFFSET
        counts = (learn_BN[:, 1:].sum(), text_BN.sum(), (start_BN & text_BN).sum(), start_BN.sum(1).max())
        targets, ids, patches, longest = torch.stack(counts).tolist()
        single = not bool((ids_BN[:, 1:] == BOS).any())
        fixed = room is not None
        return cls(ids_BN, closes_BN, learn_BN, targets, ids, patches, room or longest, single, fixed)

    def to(self, device: torch.device) -> "Batch":
        """The batch on that device, which is not waited for."""
        if device == self.ids_BN.device:
            return self
        tensors = (self.ids_BN, self.closes_BN, self.learn_BN)
        if device.type == "cuda":
            tensors = tuple(tensor.pin_memory() for tensor in tensors)
        moved = (tensor.to(device, non_blocking=True) for tensor in tensors)
        return replace(self, **dict(zip(("ids_BN", "closes_BN", "learn_BN"), moved, strict=True)))


class Batches:
    """An endless iterator over batches of a folder of shards.

    Rows hold `train.row_bytes` ids and `train.row_patches` patches at most, batches `train.rows` rows. With a rule of
    None nothing closes a patch (training an entropy model). `weights`, one a source, say what share of the bytes each
    source has. Each rank has documents of its own. A `fingerprint` is that of the patcher the shards must come from.
    `encode` makes ids of a text, as `codec.encode` does, which is used where it is not given. With `pad_patches`, P is
    `row_patches` in every batch.

    Raises UserError for shards that are damaged or another patcher's, for a corpus smaller than a batch, and for
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
        rows = torch.from_numpy(next(self._rows)["piece"])
        ids, closes = rows[..., ID].long(), rows[..., CLOSES].bool()
        closes[:, :-1] &= ids[:, 1:] != BOE  # padding must not open a patch: the row may have no room for it
        return Batch.of(ids, closes, rows[..., LEARN].bool(), self.room)

    def state(self) -> dict[str, Any]:
        """Where the iterator stands, small and fit for JSON."""
        return {"made_of": self._made_of, "place": self._rows.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken. Raises UserError where it was taken of other batches."""
        for name, mine in self._made_of.items():
            theirs = state["made_of"].get(name)
            if theirs != mine:
                raise UserError(f"cannot go on: the batches were made with {name} {theirs}, and now it is {mine}")
        self._rows.set_state(state["place"])

    # ------------------------------------------------------------------------------------------------------ inside

    def _sizes(self, fingerprint: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Documents and bytes of each source."""
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
        batch = world * self.train.rows * self.train.row_bytes
        if ids < batch:
            raise UserError(
                f"a corpus smaller than a batch: {ids:,} ids, and a batch has {batch:,}; lower rows or row_bytes"
            )

    def _pipeline(
        self, documents_S: np.ndarray, bytes_S: np.ndarray, weights: Sequence[float], rank: int, world: int
    ) -> grain.IterDataset:
        """Documents in order -> mixed by source -> pieces -> packed rows -> batches."""
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
        # Two threads read and cut ahead; more would decode the same row group several times.
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=32)
        streams = [grain.MapDataset.source(order).to_iter_dataset(options) for order in orders]
        # Grain counts documents: a source of long ones is drawn less often.
        drawn = [w * n / size for w, n, size in zip(weights, documents_S, bytes_S, strict=True)] if weights else None
        budget = {"piece": train.row_bytes} | ({"patches": train.row_patches} if train.row_patches else {})
        packed = FirstFitPackIterDataset(
            FlatMapIterDataset(grain.IterDataset.mix(streams, drawn), _EachPiece()),
            length_struct=budget,
            num_packing_bins=PACKED_BATCHES * train.rows,
            seed=seed,
        )
        return packed.batch(train.rows)

    @property
    def _columns(self) -> list[str]:
        scored = self.rule is not None and self.rule.needs_entropy
        return ["prompt", "data", "entropies"] if scored else ["prompt", "data"]

    def _pieces(self, prompt: Any, data: Any, entropies: Any = None) -> list[dict[str, np.ndarray]]:
        """A document's pieces, each with as many entries under `patches` as it takes of that budget."""
        text, size = data.as_py(), prompt.as_py()
        ids = self.encode(text, eos=True)
        if size:  # a prompt that is asked later is cut into ids without its answer
            before = self.encode(text[:size])
            ids, size = np.concatenate([before, self.encode(text[size:], bos=False, eos=True)]), len(before) - 1
        if self.rule is None:
            closes = np.zeros(len(ids), dtype=bool)
        else:
            entropy = None if entropies is None else torch.from_numpy(entropies.values.to_numpy().copy())[None]
            closes = rules.closes(self.rule, torch.from_numpy(ids)[None], entropy)[0].numpy()
        cut = pieces(ids, size, closes, self.train.row_bytes, self.train.row_patches)
        if self.train.row_patches is None:
            return [{"piece": piece} for piece in cut]
        return [{"piece": piece, "patches": np.zeros(patch_count(piece), dtype=np.int8)} for piece in cut]


class _EachPiece(FlatMapTransform):
    def flat_map(self, element: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        return element


def held_out(folder: Path, limit: int | None = None) -> list[Document]:
    """The held-out documents of a corpus, in order; up to `limit` bytes, where the last is cut."""
    documents: list[Document] = []
    left = limit
    for path in shard_paths(folder / "val"):
        read_about(path)
        for table in row_groups(path):
            for row in table.to_pylist():
                if left is not None and left <= 0:
                    return documents
                data = row["data"][:left]
                documents.append(Document(row["id"], data, min(row["prompt"], len(data))))
                left = None if left is None else left - len(data)
    return documents
