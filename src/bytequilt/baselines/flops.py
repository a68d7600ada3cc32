"""FLOPs of a baseline's forward pass, in the conventions of `model.flops`."""

from ..config import BaselineConfig
from ..model.flops import CONTEXT, stack_flops
from .mamba import mamba_flops


def baseline_flops(config: BaselineConfig, context: float = CONTEXT) -> dict[str, float]:
    """Forward FLOPs per byte in documents of `context` bytes: of the body, of the output head, and `total`.

    The embedding is a look-up and counts nothing; the head, which grows with the vocabulary, is shown apart.
    """
    tokens = context / config.token_bytes
    if config.stack is not None:
        body = stack_flops(config.stack, tokens) / context
    else:
        body = mamba_flops(config.mamba) / config.token_bytes
    head = 2 * config.network.dim * config.vocabulary / config.token_bytes
    return {"body": body, "head": head, "total": body + head}
