"""How a network is executed during training: compilation and activation recomputation, applied to it from outside."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as recompute

from ..config import TrainConfig
from ..model.cross import CrossAttention
from ..model.layers import Block

Forward = Callable[..., Any]


def arrange(network: nn.Module, config: TrainConfig, backend: str = "inductor") -> None:
    """Compile the transformer blocks of a network, and recompute blocks and cross-attention in the backward pass.

    The configuration decides which of the two is done. Both apply only while gradients are computed, because shapes
    vary elsewhere. A previous call on the same network is undone first.
    """
    for module in network.modules():
        if not isinstance(module, Block | CrossAttention):
            continue
        module.__dict__.pop("forward", None)
        plain = training = partial(type(module).forward, module)
        if config.compile and isinstance(module, Block):
            training = torch.compile(plain, dynamic=False, backend=backend)
        if config.checkpoint_activations:
            training = partial(recompute, training, use_reentrant=False)
        if training is not plain:
            module.forward = _either(training, plain)  # type: ignore[method-assign]


def _either(training: Forward, plain: Forward) -> Forward:
    return lambda *inputs, **options: (training if torch.is_grad_enabled() else plain)(*inputs, **options)
