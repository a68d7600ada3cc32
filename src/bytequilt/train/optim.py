"""Optimizers in parameter groups, and the learning rate over time."""

import math

import torch
from torch import nn

from ..config import TrainConfig


def optimizers(network: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices inside transformer blocks and AdamW for the rest.

    Norms, embeddings and the rates of a Mamba do not decay; embeddings and hash tables have a learning rate of their
    own. Every group remembers its peak learning rate as `peak`.
    """
    matrices, embeddings, heads, norms = [], [], [], []
    for name, weight in network.named_parameters():
        if weight.ndim < 2 or name.endswith(".A_log"):  # rates of a Mamba, a number each
            norms.append(weight)
        elif ".embed." in f".{name}" or ".hash." in f".{name}":
            embeddings.append(weight)
        else:
            inside = ".blocks." in f".{name}" or ".layers." in f".{name}"
            (matrices if inside and weight.ndim == 2 else heads).append(weight)
    muon = matrices if config.optimizer == "muon" else []
    decayed = heads if muon else matrices + heads
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay, "peak": config.lr},
        {"params": norms, "weight_decay": 0.0, "peak": config.lr},
        {"params": embeddings, "weight_decay": 0.0, "peak": config.hash_lr or config.lr},
    ]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=config.betas, fused=True)
    ]
    if muon:
        group = {"params": muon, "peak": config.lr}
        # scaled to AdamW's update size, so that one learning rate serves both (Liu et al. 2025, arXiv 2502.16982)
        found.append(
            torch.optim.Muon([group], lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    return found


def lr_factor(step: int, config: TrainConfig) -> float:
    """Fraction of the peak learning rate at a step, counted from 0."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "cosine":
        progress = (step - config.warmup) / max(1, config.steps - config.warmup)
        falling = (1 + math.cos(math.pi * min(1.0, progress))) / 2
    else:
        falling = min(1.0, (config.steps - step) / max(1.0, config.decay * config.steps))
    return config.final_lr + (1 - config.final_lr) * falling


def set_lr(found: list[torch.optim.Optimizer], factor: float) -> None:
    """Set every group to that fraction of its peak."""
    for optimizer in found:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
