"""How the next byte is drawn from its logits, composed once before generation starts."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..codec import EOS, OFFSET
from ..config import UserError

Sampler = Callable[[Tensor], int]
"""Draws an id from logits (V,)."""


def sampler(temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, seed: int | None = None) -> Sampler:
    """A sampler of bytes and EOS; other special ids are never drawn.

    Temperature 0 takes the likeliest. `top_k` 0 and `top_p` 1 keep everything. The same seed draws the same bytes.
    """
    if temperature < 0 or not 0 < top_p <= 1 or top_k < 0:
        raise UserError("temperature and top_k must be at least 0, and top_p above 0 and at most 1")
    if temperature == 0:
        return lambda logits: int(_text_only(logits).argmax())
    generator = torch.Generator()
    generator.seed() if seed is None else generator.manual_seed(seed)
    filters: list[Callable[[Tensor], Tensor]] = [_text_only, lambda logits: logits / temperature]
    if top_k:
        filters.append(lambda logits: _top_k(logits, top_k))
    if top_p < 1:
        filters.append(lambda logits: _top_p(logits, top_p))

    def draw(logits: Tensor) -> int:
        for keep in filters:
            logits = keep(logits)
        return int(torch.multinomial(logits.softmax(-1), 1, generator=generator))

    return draw


def _text_only(logits: Tensor) -> Tensor:
    """Bytes and EOS alone, on the CPU in fp32."""
    logits = logits.float().cpu().clone()
    logits[[i for i in range(OFFSET) if i != EOS]] = -torch.inf
    return logits


def _top_k(logits: Tensor, k: int) -> Tensor:
    return logits.masked_fill(logits < logits.topk(min(k, len(logits))).values[-1], -torch.inf)


def _top_p(logits: Tensor, p: float) -> Tensor:
    """The likeliest ids whose probabilities sum to at least p."""
    ordered, index = logits.sort(descending=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    return logits.masked_fill(torch.zeros_like(logits, dtype=torch.bool).scatter(0, index, before >= p), -torch.inf)
