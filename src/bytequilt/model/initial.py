"""Weights before training."""

from torch import Tensor, nn

DRAWN = 1 << 18
"""Rows of a table that are drawn at a time: whoever needs some columns of it need not hold all at once."""


class Network(nn.Module):
    """What is initialised when it is made, unless that is under `torch.device("meta")`.

    There nothing is drawn: `network.to_empty(device=...)` and `network.init_weights()` give it the same weights later.
    Every module that has weights of its own fills them in `reset_parameters`, as PyTorch's do.
    """

    def init_weights(self) -> None:
        """Fill all weights anew, from PyTorch's random numbers."""
        for module in self.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()


def init_normal(weight: Tensor, width: int) -> None:
    """Fill with a truncated normal of deviation width**-0.5, DRAWN rows after DRAWN rows."""
    if not weight.is_meta:
        std = width**-0.5
        for rows in weight.split(DRAWN):
            nn.init.trunc_normal_(rows, std=std, a=-3 * std, b=3 * std)
