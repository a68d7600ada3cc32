"""Training tasks: an entropy model, or any language model that follows the protocol `LanguageModel`."""

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
    """The protocol that a BLT with its patcher and the baselines share."""

    @property
    def network(self) -> nn.Module:
        """The module that training optimises."""

    def loss(self, batch: Batch) -> Tensor:
        """Sum of nats over the targets of a batch."""

    def bytes_of(self, batch: Batch) -> int:
        """Number of bytes that the targets of a batch represent; an EOS counts as one."""

    def score_documents(self, documents: Iterable[bytes], advance: Callable[[int], None] = ...) -> list[Score]: ...
    def score(self, context: Any) -> list[Score]:
        """Scores of (context, continuation) pairs: the cost of each continuation, without EOS."""

    def generate(self, prompt: Any, **sampling: Any) -> Any: ...
    def flops(self, unit_bytes: float, context: float) -> dict[str, float]:
        """Forward FLOPs per byte by module, with their `total`."""

    def save(self, folder: Path) -> None: ...


class LanguageTask:
    """Trains a language model; `evaluate` scores held-out text with the cached decoder, as in real use."""

    def __init__(self, model: LanguageModel, held_out: Sequence[bytes | Document]) -> None:
        self.model, self.held_out, self.network, self.bytes_of = model, held_out, model.network, model.bytes_of

    def loss(self, batch: Batch) -> Tensor:
        return self.model.loss(batch)

    def evaluate(self) -> dict[str, float]:
        score, mean_patch = held_out_score(self.model, self.held_out)
        measured = {"val_bpb": score.bits_per_byte}
        return measured if mean_patch is None else measured | {"val_mean_patch": mean_patch}


class EntropyTask:
    """Trains an entropy model on ids; patches are not needed."""

    def __init__(self, network: EntropyModel, held_out: list[bytes]) -> None:
        self.network, self.held_out = network, held_out

    def bytes_of(self, batch: Batch) -> int:
        return batch.targets

    def loss(self, batch: Batch) -> Tensor:
        return target_nats(self.network(batch.ids_BN, single=batch.single), batch.ids_BN, batch.learn_BN)

    def evaluate(self) -> dict[str, float]:
        return {"val_bpb": Score.total(entropy_scores(self.network, self.held_out)).bits_per_byte}


class PackedTask:
    """A task of a sharded network. Such a network cannot run the cached decoder, so `evaluate` uses forward passes over
    packed rows. Documents are cut at `row_bytes`, so the result has its own name: `val_bpb_row`."""

    def __init__(self, task: Any, held_out: list[Batch], world: World, bf16: bool) -> None:
        self.task, self.world, self.bf16 = task, world, bf16
        # every process needs the same number of batches
        held_out = held_out + [_unlearnt(held_out[-1])] * (-len(held_out) % world.size)
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
    """The score of held-out documents, EOS included, without their prompts, and the mean patch size. A prompt costs the
    same alone as at the start of its document. So its cost alone is subtracted from that of the document."""
    texts = [document if isinstance(document, bytes) else document.data for document in documents]
    prompts = [d.data[: d.prompt] for d in documents if isinstance(d, Document) and d.prompt]
    whole = Score.total(model.score_documents(texts, advance))
    prompt_cost = Score.total(model.score([(b"", prompt) for prompt in prompts]) if prompts else [])
    learnt = replace(whole, nats=whole.nats - prompt_cost.nats, bytes=whole.bytes - prompt_cost.bytes)
    return learnt, whole.patch_bytes or None


def entropy_scores(network: EntropyModel, documents: list[bytes]) -> list[Score]:
    """Scores of documents with the entropy model used as a language model."""
    return score_documents(NetworkScorer(network), documents)
