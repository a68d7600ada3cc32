"""Optimizers with their parameter groups, and the learning-rate schedule."""

import math
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..config import TrainConfig
from ..model.embedding import Embedding
from ..model.hashing import HashEmbedding
from ..model.layers import Block
from .parallel import clip_sharded_, is_sharded
from .rows import Rows, own


def optimizers_of(network: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW for all weights, or Muon for matrices inside transformer blocks and AdamW for the others.

    Norms, embeddings and weights that a module lists in `undecayed` have no weight decay. Embeddings and hash tables
    have their own learning rate, and the optimizer `Rows` unless `table_optimizer` is "dense". Each group stores its
    peak learning rate as `peak`.
    """
    tables = [module for module in network.modules() if isinstance(module, Embedding | HashEmbedding)]
    for table in tables:  # removes the look-up that an earlier optimizer installed
        table.gather = partial(_own_columns, table) if isinstance(table.weight, DTensor) else None
    tables = [table for table in tables if table.weight.requires_grad]
    matrices, norms, others = _kinds(network, {id(table.weight) for table in tables})
    muon = matrices if config.optimizer == "muon" else []
    decayed = others if muon else matrices + others
    rows = tables if config.table_optimizer == "rows" else []
    dense = [] if rows else [table.weight for table in tables]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay, "peak": config.lr},
        {"params": norms, "weight_decay": 0.0, "peak": config.lr},
        {"params": dense, "weight_decay": 0.0, "peak": config.hash_lr or config.lr},
    ]
    chosen: list[torch.optim.Optimizer] = [
        torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=config.betas, fused=True)
    ]
    if muon:
        group = {"params": muon, "peak": config.lr}
        # scaled to AdamW's update size, so that both can use one learning rate (Liu et al. 2025, arXiv 2502.16982)
        chosen.append(
            torch.optim.Muon([group], lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    if rows:
        chosen.append(Rows(rows, config.hash_lr or config.lr, config.betas))
    return chosen


def _kinds(network: nn.Module, tables: set[int]) -> tuple[list[nn.Parameter], ...]:
    """Trainable weights except tables, in three lists: matrices inside blocks, weights without decay, all others."""
    inside = {id(w) for module in network.modules() if isinstance(module, Block) for w in module.parameters()}
    undecayed = {id(w) for module in network.modules() for w in getattr(module, "undecayed", ())}
    matrices, norms, others = [], [], []
    for weight in network.parameters():
        if id(weight) in tables or not weight.requires_grad:
            continue
        if weight.ndim < 2 or id(weight) in undecayed:
            norms.append(weight)
        else:
            (matrices if id(weight) in inside and weight.ndim == 2 else others).append(weight)
    return matrices, norms, others


def row_optimizers(chosen: list[torch.optim.Optimizer]) -> list[Rows]:
    """The `Rows` optimizers among them, which update table rows only when a step reads them."""
    return [optimizer for optimizer in chosen if isinstance(optimizer, Rows)]


def catch_up(chosen: list[torch.optim.Optimizer]) -> None:
    """Apply the missed steps to all table rows. Needed before the weights are used for anything except training."""
    for optimizer in row_optimizers(chosen):
        optimizer.catch_up()


def release(chosen: list[torch.optim.Optimizer]) -> None:
    """Apply the missed steps to all table rows, and remove the optimizers' look-ups from the network."""
    for optimizer in row_optimizers(chosen):
        optimizer.detach()


def _own_columns(table: Embedding | HashEmbedding, places: Tensor) -> tuple[Tensor, Tensor]:
    return own(table.weight), places


def clip_(network: nn.Module, chosen: list[torch.optim.Optimizer], largest: float) -> Tensor:
    """Scale all gradients so that their total norm is at most `largest`; returns the norm before scaling."""
    if is_sharded(network):
        return clip_sharded_(network, row_optimizers(chosen), largest)
    leaves = (leaf for optimizer in row_optimizers(chosen) for leaf in optimizer.leaves())
    return nn.utils.clip_grad_norm_(chain(network.parameters(), leaves), largest)


def lr_factor(step: int, config: TrainConfig) -> float:
    """Fraction of the peak learning rate at a step; steps count from 0."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "cosine":
        progress = (step - config.warmup) / max(1, config.steps - config.warmup)
        falling = (1 + math.cos(math.pi * min(1.0, progress))) / 2
    else:
        falling = min(1.0, (config.steps - step) / max(1.0, config.decay * config.steps))
    return config.final_lr + (1 - config.final_lr) * falling


def set_lr(chosen: list[torch.optim.Optimizer], factor: float) -> None:
    """Set the learning rate of every group to `factor` times its peak."""
    for optimizer in chosen:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
