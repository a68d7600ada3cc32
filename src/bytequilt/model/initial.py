"""Initialisation of weights."""

from torch import Tensor, nn

DRAWN = 1 << 18
"""Number of table rows initialised by one call of the random generator. Blocks keep memory small when only some columns
are needed."""


class Network(nn.Module):
    """A network that is initialised when it is constructed, except under `torch.device("meta")`.

    A network on "meta" has no values yet. `network.to_empty(device=...)` followed by `network.init_weights()` then
    gives the same weights. Every module with weights of its own fills them in `reset_parameters`, as PyTorch's modules
    do.
    """

    def init_weights(self) -> None:
        """Initialise all weights again, from PyTorch's random generator."""
        for module in self.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()


def init_normal(weight: Tensor, width: int) -> None:
    """Fill with a normal distribution of standard deviation width**-0.5, truncated at three deviations."""
    if not weight.is_meta:
        std = width**-0.5
        for rows in weight.split(DRAWN):
            nn.init.trunc_normal_(rows, std=std, a=-3 * std, b=3 * std)
