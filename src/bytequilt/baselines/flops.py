"""FLOPs of a baseline's forward pass, by the conventions of model/flops.py."""

from ..config import BaselineConfig, StackConfig, UserError
from ..model.flops import CONTEXT, stack_flops
from .mamba import mamba_flops

TOLERANCE = 0.02
"""Largest relative difference of FLOPs between two models that count as equal."""


def baseline_flops(config: BaselineConfig, context: float = CONTEXT) -> dict[str, float]:
    """Forward FLOPs per byte in documents of `context` bytes: `body`, `head` and `total`. The embedding is a look-up
    and costs nothing. The output head is listed separately, because it grows with the vocabulary."""
    tokens = context / config.token_bytes
    if config.stack is not None:
        body = stack_flops(config.stack, tokens) / context
    else:
        body = mamba_flops(config.mamba) / config.token_bytes
    head = 2 * config.network.dim * config.vocabulary / config.token_bytes
    return {"body": body, "head": head, "total": body + head}


def equal_stack(flops: float, like: StackConfig, vocabulary: int, token_bytes: float, context: float) -> StackConfig:
    """A transformer over tokens with `flops` FLOPs per byte; among all such shapes, the one with dim / layers closest
    to `like`. Raises UserError if there is none, for example because the output head alone costs more."""
    near = []
    for layers in range(1, 8 * like.layers + 1):
        for dim in range(2 * like.heads, 4 * like.dim, 2 * like.heads):
            size = {"dim": dim, "layers": layers, "ffn_dim": 8 * round(dim * like.hidden_dim / like.dim / 8)}
            stack = like.model_copy(update=size)
            config = BaselineConfig.model_construct(stack=stack, vocabulary=vocabulary, token_bytes=token_bytes)
            if abs(baseline_flops(config, context)["total"] / flops - 1) <= TOLERANCE:
                near.append(stack)
    if not near:
        raise UserError(f"no transformer over {vocabulary:,} tokens has {flops:.3g} FLOPs per byte, as this model has")
    return min(near, key=lambda stack: abs(stack.dim / stack.layers - like.dim / like.layers))
