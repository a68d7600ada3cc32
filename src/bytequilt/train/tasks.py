"""What the loop can train: an entropy model, and any language model, through one protocol."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..data.batches import Batch
from ..data.sources import Document
from ..infer.score import NetworkScorer, Score, score_documents
from ..model.entropy import EntropyModel
from ..model.loss import target_nats
from .world import World


class LanguageModel(Protocol):
    """What a BLT with its patcher and a baseline have in common."""

    @property
    def network(self) -> nn.Module:
        """What is trained."""
        ...

    def loss(self, batch: Batch) -> Tensor:
        """Sum of nats over the targets to learn."""
        ...

    def bytes_of(self, batch: Batch) -> int:
        """Bytes that the targets of a batch on the CPU stand for, an EOS for one."""
        ...

    def score_documents(self, documents: Iterable[bytes], advance: Callable[[int], None] = ...) -> list[Score]: ...
    def score(self, context: Any) -> list[Score]:
        """What the second text of each pair costs after the first, without an EOS."""
        ...

    def generate(self, prompt: Any, **sampling: Any) -> Any: ...
    def flops(self, unit_bytes: float, context: float) -> dict[str, float]:
        """Forward FLOPs per byte by part, and their `total`."""
        ...

    def save(self, folder: Path) -> None: ...


class LanguageTask:
    """Trains a language model; held-out text is scored as the model is used."""

    def __init__(self, model: LanguageModel, held_out: Sequence[bytes | Document]) -> None:
        self.model, self.held_out = model, held_out

    @property
    def network(self) -> nn.Module:
        return self.model.network

    def bytes_of(self, batch: Batch) -> int:
        return self.model.bytes_of(batch)

    def loss(self, batch: Batch) -> Tensor:
        return self.model.loss(batch)

    def evaluate(self) -> dict[str, float]:
        score, mean_patch = held_out_score(self.model, self.held_out)
        measured = {"val_bpb": score.bits_per_byte}
        return measured if mean_patch is None else measured | {"val_mean_patch": mean_patch}


class EntropyTask:
    """Trains an entropy model: patches play no part."""

    def __init__(self, network: EntropyModel, held_out: list[bytes]) -> None:
        self.network, self.held_out = network, held_out

    def bytes_of(self, batch: Batch) -> int:
        return batch.targets

    def loss(self, batch: Batch) -> Tensor:
        return target_nats(self.network(batch.ids_BN, single=batch.single), batch.ids_BN, batch.learn_BN)

    def evaluate(self) -> dict[str, float]:
        return {"val_bpb": Score.total(entropy_scores(self.network, self.held_out)).bits_per_byte}


class PackedTask:
    """A task of a sharded network, which cannot be fed byte by byte: held-out text is measured by the forward pass.

    Documents are cut at `row_bytes`, so the figure has a name of its own: `val_bpb_row`.
    """

    def __init__(self, task: Any, held_out: list[Batch], world: World, bf16: bool) -> None:
        self.task, self.world, self.bf16 = task, world, bf16
        held_out = held_out + [_unlearnt(held_out[-1])] * (-len(held_out) % world.size)  # as many for each process
        self.held_out = held_out[world.rank :: world.size]
        self.network, self.bytes_of, self.loss = task.network, task.bytes_of, task.loss

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        device = next(self.network.parameters()).device
        costs = []
        for batch in self.held_out:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
                costs.append(self.loss(batch.to(device)).float())
        (count,) = self.world.total([sum(map(self.bytes_of, self.held_out))])
        return {"val_bpb_row": float(self.world.sum_(torch.stack(costs).sum())) / max(1, count) / math.log(2)}


def _unlearnt(batch: Batch) -> Batch:
    return Batch.of(batch.ids_BN, batch.closes_BN, torch.zeros_like(batch.learn_BN), batch.count)


def held_out_score(
    model: LanguageModel, documents: Sequence[bytes | Document], advance: Callable[[int], None] = lambda _: None
) -> tuple[Score, float | None]:
    """What is learnt of documents costs so much, EOS included, and their mean patch; prompts are read and not counted.

    What comes later changes nothing: a prompt costs what it costs alone, and that is taken from the whole.
    """
    texts = [document if isinstance(document, bytes) else document.data for document in documents]
    prompts = [d.data[: d.prompt] for d in documents if isinstance(d, Document) and d.prompt]
    whole = Score.total(model.score_documents(texts, advance))
    asked = Score.total(model.score([(b"", prompt) for prompt in prompts]) if prompts else [])
    learnt = replace(whole, nats=whole.nats - asked.nats, bytes=whole.bytes - asked.bytes)
    return learnt, whole.patch_bytes or None


def entropy_scores(
    network: EntropyModel, documents: list[bytes], advance: Callable[[int], None] = lambda _: None
) -> list[Score]:
    """Scores of documents under the entropy model, as a language model of its own."""
    return score_documents(NetworkScorer(network), documents, advance)
