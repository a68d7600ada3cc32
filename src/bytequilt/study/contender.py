"""A model of a study, ready to be trained: its network, its batches, what a byte costs it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..baselines.baseline import Baseline, build
from ..baselines.config import BaselineConfig
from ..baselines.flops import baseline_flops
from ..baselines.vocabulary import BPE, Bytes, Vocabulary
from ..codec import OFFSET, VOCAB_SIZE
from ..config import BLTConfig, TrainConfig, UserError
from ..data.batches import Batch, Batches
from ..lm import LM
from ..model.blt import BLT
from ..model.flops import flops_per_byte
from ..model.segments import Patches
from ..patching.patcher import Patcher
from ..train.loop import Task
from ..train.tasks import LanguageTask

GRAIN = 32  # bytes to which sizes of contexts are rounded up where FLOPs are counted
TOLERANCE = 1e-3  # of logits; rounding moves them by a hundredth of that


@dataclass
class Pace:
    """What so many batches hold."""

    batches: int = 0
    bytes: int = 0
    """Of text."""
    units: int = 0
    """Patches or tokens of it."""

    @property
    def unit_bytes(self) -> float:
        """Of a patch or of a token, in the mean."""
        return self.bytes / self.units


class Model(Protocol):
    """What the two kinds of models have in common."""

    needs_entropy: bool

    def task(self, held_out: list[bytes]) -> Task: ...
    def batches(self, shards: Path, train: TrainConfig) -> Batches: ...
    def units(self, batch: Batch) -> tuple[int, int]:
        """Bytes of text in a batch, and patches or tokens of them."""
        ...

    def flops(self, unit_bytes: float, context: float) -> dict[str, float]:
        """Forward FLOPs per byte by part, `total`, and `head`: what the vocabulary's output takes of it."""
        ...

    def logits(self, ids_BN: Tensor) -> Tensor: ...
    def encode(self, text: bytes) -> Tensor: ...

    @property
    def scorer(self) -> LM | Baseline:
        """The model as it is used."""
        ...


class PatchModel:
    """A BLT and its patcher."""

    def __init__(self, config: BLTConfig, patcher: Patcher, patch_bytes: float | None) -> None:
        self.network, self.patcher, self.patch_bytes = BLT(config), patcher, patch_bytes
        self.needs_entropy = patcher.rule.needs_entropy

    def task(self, held_out: list[bytes]) -> Task:
        return LanguageTask(self.scorer, held_out)

    def batches(self, shards: Path, train: TrainConfig) -> Batches:
        fingerprint = self.patcher.fingerprint if self.needs_entropy else None
        return Batches(shards, train, self.patcher.rule, fingerprint=fingerprint)

    def units(self, batch: Batch) -> tuple[int, int]:
        text = batch.ids_BN >= OFFSET
        starts = Patches.from_closes(batch.ids_BN, batch.closes_BN, None).start_BN
        return int(text.sum()), int((starts & text).sum())

    def flops(self, unit_bytes: float, context: float) -> dict[str, float]:
        config = self.network.config
        entropy = self.patcher.model.config if self.needs_entropy and self.patcher.model else None
        found = flops_per_byte(config, entropy, unit_bytes, context)
        return found | {"head": 2.0 * config.decoder.dim * VOCAB_SIZE}

    @torch.no_grad()
    def logits(self, ids_BN: Tensor) -> Tensor:
        ids_BN = ids_BN.to(next(self.network.parameters()).device)
        return self.network(ids_BN, self.patcher(ids_BN))

    def encode(self, text: bytes) -> Tensor:
        return torch.from_numpy(Bytes().encode(text))

    @property
    def scorer(self) -> LM:
        return LM(self.network, self.patcher, self.patch_bytes)


class TokenModel:
    """A baseline over bytes or tokens."""

    needs_entropy = False

    def __init__(self, config: BaselineConfig, vocabulary: Vocabulary) -> None:
        self.config, self.vocabulary = config, vocabulary
        self.network = build(config)
        self.sizes_V = torch.tensor([len(vocabulary.text(id)) for id in range(vocabulary.size)])

    def task(self, held_out: list[bytes]) -> Task:
        return LanguageTask(self.scorer, held_out)

    def batches(self, shards: Path, train: TrainConfig) -> Batches:
        return Batches(shards, train, None, encode=self.vocabulary.encode)

    def units(self, batch: Batch) -> tuple[int, int]:
        return int(self.sizes_V[batch.ids_BN].sum()), int((batch.ids_BN >= OFFSET).sum())

    def flops(self, unit_bytes: float, context: float) -> dict[str, float]:
        return baseline_flops(self.config.model_copy(update={"token_bytes": unit_bytes}), context)

    @torch.no_grad()
    def logits(self, ids_BN: Tensor) -> Tensor:
        return self.network(ids_BN.to(next(self.network.parameters()).device))

    def encode(self, text: bytes) -> Tensor:
        return torch.from_numpy(self.vocabulary.encode(text))

    @property
    def scorer(self) -> Baseline:
        return Baseline(self.network, self.vocabulary, self.config)


def pace(model: Model, batches: Batches, enough: Callable[[Pace], bool]) -> Pace:
    """What the next batches hold, as many as are enough, and one at least."""
    held = Pace()
    for batch in batches:
        size, units = model.units(batch)
        held = Pace(held.batches + 1, held.bytes + size, held.units + units)
        if enough(held):
            break
    return held


def training_flops(flops: dict[str, float]) -> float:
    """FLOPs of training on a byte: three forward passes, but one of an entropy model, which is trained beforehand."""
    entropy = flops.get("entropy", 0.0)
    return 3 * (flops["total"] - entropy) + entropy


def mean_flops(model: Model, unit_bytes: float, sizes: Sequence[float]) -> dict[str, float]:
    """Forward FLOPs per byte by part, in the mean over contexts of these sizes in bytes."""
    weights: Counter[float] = Counter()
    for size in sizes:
        weights[GRAIN * -(-size // GRAIN)] += size
    total, found = sum(weights.values()), Counter[str]()
    for size, weight in weights.items():
        found.update({name: value * weight / total for name, value in model.flops(unit_bytes, size).items()})
    return dict(found)


def leak(model: Model, text: bytes) -> float:
    """How far logits move at most before a place where the text is changed; raises UserError where they do.

    Several places are tried, near each other and apart: a leak may reach ahead by a patch, and no further.
    """
    ids_N = model.encode(text)[:256]
    before_NV, worst = model.logits(ids_N[None])[0], 0.0
    size = len(ids_N)
    for place in {1, size // 3, size // 2, size // 2 + 1, size - 1} & set(range(1, size)):
        changed_N = ids_N.clone()
        changed_N[place] = OFFSET + (int(ids_N[place]) - OFFSET + 7) % 256
        worst = max(worst, float((model.logits(changed_N[None])[0, :place] - before_NV[:place]).abs().max()))
    if worst > TOLERANCE:
        raise UserError(f"this model sees the future: a later byte moves earlier logits by {worst:.2g}")
    return worst


def vocabulary_of(tokenizer: str | None, ranks: int | None, sample: list[bytes], saved: Path) -> Vocabulary:
    """The bytes; or ranks of a file; or ranks learnt from a sample, which are kept in a file for the next time."""
    if tokenizer is not None:
        return BPE.read(Path(tokenizer), ranks)
    if ranks is None:
        return Bytes()
    if not saved.is_file():
        saved.parent.mkdir(parents=True, exist_ok=True)
        BPE.learn(sample, ranks).save(partial := saved.with_name(f"{saved.name}.{id(saved)}"))
        partial.rename(saved)
    return BPE.read(saved)


def filled(config: BaselineConfig, vocabulary: Vocabulary, sample: list[bytes]) -> BaselineConfig:
    """The configuration of a baseline over that vocabulary, and the mean size of its tokens in a sample."""
    size = sum(map(len, sample))
    tokens: Any = sum(len(vocabulary.encode(text, bos=False)) for text in sample)
    return config.model_copy(update={"vocabulary": vocabulary.size, "token_bytes": max(1.0, size / tokens)})
