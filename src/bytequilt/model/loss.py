"""The training loss."""

from torch import Tensor
from torch.nn import functional as F


def target_nats(logits_BNV: Tensor, ids_BN: Tensor, learn_BN: Tensor) -> Tensor:
    """Sum of -log p in nats over the target ids where `learn_BN` is True; the logits at t predict id t+1."""
    targets_BN = ids_BN[:, 1:].masked_fill(~learn_BN[:, 1:], -100)
    logits = logits_BNV[:, :-1].flatten(0, 1).float()
    return F.cross_entropy(logits, targets_BN.flatten(), ignore_index=-100, reduction="sum")
