"""How a network is run while it is trained, applied from outside: compilation and recomputation."""

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
    """Compile the transformer blocks of a network, and recompute them and cross-attention in the backward pass.

    Both only while gradients are taken: shapes vary elsewhere. Whatever was arranged before is undone.
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
