"""What the loop can train: an entropy model, a BLT whose patches were decided beforehand, and a baseline."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..baselines.baseline import Baseline
from ..data.batches import Batch
from ..infer.score import NetworkScorer, Score, score_documents
from ..lm import LM
from ..model.blt import BLT
from ..model.entropy import EntropyModel
from ..model.segments import Patches
from ..patching.patcher import Patcher


def target_nats(logits_BNV: Tensor, batch: Batch) -> Tensor:
    """Sum of -log p over the targets to learn; row t of the logits predicts id t+1."""
    targets_BN = batch.ids_BN[:, 1:].masked_fill(~batch.learn_BN[:, 1:], -100)
    logits = logits_BNV[:, :-1].flatten(0, 1).float()
    return F.cross_entropy(logits, targets_BN.flatten(), ignore_index=-100, reduction="sum")


class EntropyTask:
    """Trains an entropy model: patches play no part."""

    def __init__(self, network: EntropyModel, held_out: list[bytes]) -> None:
        self.network, self.held_out = network, held_out

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        return target_nats(self.network(batch.ids_BN), batch), {}

    def evaluate(self) -> dict[str, float]:
        return {"val_bpb": Score.total(entropy_scores(self.network, self.held_out)).bits_per_byte}


class BLTTask:
    """Trains a BLT on the patches of the batch; held-out text is patched as it will be in use."""

    def __init__(self, network: BLT, patcher: Patcher, held_out: list[bytes], row_patches: int | None = None) -> None:
        self.network, self.patcher, self.held_out = network, patcher, held_out
        self.row_patches = row_patches
        """P of every batch, where shapes must not change."""

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        patches = Patches.from_closes(batch.ids_BN, batch.closes_BN, self.row_patches)
        nats = target_nats(self.network(batch.ids_BN, patches), batch)
        text = batch.ids_BN >= 4
        return nats, {"ids": int(text.sum()), "patches": int((patches.start_BN & text).sum())}

    def evaluate(self) -> dict[str, float]:
        score = Score.total(LM(self.network, self.patcher).score_documents(self.held_out))
        return {"val_bpb": score.bits_per_byte, "val_mean_patch": score.patch_bytes}


class TokenTask:
    """Trains a baseline, over bytes or tokens."""

    def __init__(self, baseline: Baseline, held_out: list[bytes]) -> None:
        self.network, self.baseline, self.held_out = baseline.network, baseline, held_out
        vocabulary = baseline.vocabulary
        self.sizes_V = torch.tensor([len(vocabulary.text(id)) or 1 for id in range(vocabulary.size)])

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        learnt = batch.ids_BN[:, 1:][batch.learn_BN[:, 1:]]
        size = int(self.sizes_V.to(learnt.device)[learnt].sum())
        return target_nats(self.network(batch.ids_BN), batch), {"bytes": size}

    def evaluate(self) -> dict[str, float]:
        return {"val_bpb": Score.total(self.baseline.score_documents(self.held_out)).bits_per_byte}


def entropy_scores(
    network: EntropyModel, documents: list[bytes], advance: Callable[[int], None] = lambda _: None
) -> list[Score]:
    """Scores of documents under the entropy model, as a language model of its own."""
    return score_documents(NetworkScorer(network), documents, advance)
