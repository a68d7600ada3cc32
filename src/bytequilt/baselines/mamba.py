"""Mamba over ids, with the layers of transformers' Mamba.

The library builds and initialises the layers, and this file executes them. The library's own code does not separate
packed documents, cannot continue from a state with more than one id, and is slow without CUDA. Tests check that logits
and gradients are equal.

Axes in addition to those of model/layers.py: E inner width, S state numbers per inner channel, K positions that the
convolution sees. The position axis comes first here, because the scan loops over positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..codec import BOS
from ..config import MambaConfig, library
from ..model.embedding import Embedding
from ..model.initial import Network
from ..model.layers import Linear
from ..model.rows import Rows, rows_of

CHUNK = 16  # positions per chunk of the scan, whose states then fit into the processor's cache


class MambaCache:
    """State of each row and layer: the last K-1 inputs of the convolution, and the state of the scan."""

    def __init__(self, config: MambaConfig, rows: int, device: torch.device) -> None:
        self.tail_LRKE = torch.zeros(config.layers, rows, config.conv - 1, config.inner, device=device)
        self.state_LRSE = torch.zeros(config.layers, rows, config.state, config.inner, device=device)

    def rows(self, numbers: Sequence[int] | None = None) -> Rows:
        count = self.state_LRSE.shape[1]
        return rows_of(tuple(range(count) if numbers is None else numbers), self.state_LRSE.device)

    def clear(self, row: int) -> None:
        self.tail_LRKE[:, row].zero_()
        self.state_LRSE[:, row].zero_()


class Mamba(Network):
    """A language model over ids. Documents in a row, and rows of a batch, do not influence each other."""

    def __init__(self, config: MambaConfig, vocabulary: int) -> None:
        super().__init__()
        self.config = config
        self.embed = Embedding(vocabulary, config.dim)
        self.head = Linear(config.dim, vocabulary)
        with torch.device("meta"):  # on "meta", because the library would draw random numbers twice
            self.backbone = backbone(config)
        if not self.head.weight.is_meta:
            self.backbone.to_empty(device=self.head.weight.device)
            self._init_backbone()

    def init_weights(self) -> None:
        """Initialise all weights again; those of the layers as the library does."""
        self.embed.reset_parameters()
        self.head.reset_parameters()
        self._init_backbone()

    @torch.no_grad()
    def _init_backbone(self) -> None:
        self.backbone.apply(self.backbone._init_weights)

    @property
    def undecayed(self) -> list[nn.Parameter]:
        """Matrices without weight decay: the decay rates of the states."""
        return [block.mixer.A_log for block in self.backbone.layers]

    def forward(
        self, ids_BN: Tensor, cache: MambaCache | None = None, rows: Rows | None = None, added_BND: Tensor | None = None
    ) -> Tensor:
        """Logits (B, N, V) in fp32; the logits at t predict id t+1. With a cache, the ids continue its rows.
        `added_BND` is added to the embeddings of the ids."""
        past = MambaCache(self.config, len(ids_BN), ids_BN.device) if cache is None else cache
        rows = rows or past.rows()
        x_NBD, within = self.embed(ids_BN.t()), SameDocument.of(ids_BN.t() == BOS, self.config.conv)
        if added_BND is not None:
            x_NBD = x_NBD + added_BND.transpose(0, 1)
        for layer, block in enumerate(self.backbone.layers):
            tail_RKE, state_RSE = past.tail_LRKE[layer], past.state_LRSE[layer]
            mixed_NBD, new = mix(block.mixer, block.norm(x_NBD), within, rows.take(tail_RKE), rows.take(state_RSE))
            if cache is not None:
                rows.put(tail_RKE, new[0])
                rows.put(state_RSE, new[1])
            x_NBD = x_NBD + mixed_NBD
        return self.head(self.backbone.norm_f(x_NBD.transpose(0, 1))).float()

    def step(
        self,
        ids_R: Tensor,
        cache: MambaCache,
        rows: Rows | None = None,
        text: bool = False,
        added_RD: Tensor | None = None,
    ) -> Tensor:
        """Logits (R, V) in fp32 after the next id of each row. `text` is ignored; other networks use it."""
        return self(ids_R[:, None], cache, rows, None if added_RD is None else added_RD[:, None])[:, 0]

    def cache(self, rows: int = 1) -> MambaCache:
        """An empty cache for reading a text in pieces."""
        return MambaCache(self.config, rows, self.embed.weight.device)


def backbone(config: MambaConfig) -> Any:
    """Layers and final norm of transformers' `MambaModel`, without its embedding. Raises UserError if the library is
    missing."""
    transformers = library("transformers", "Mamba needs the transformers package: pip install 'bytequilt[hf]'")
    theirs = transformers.MambaConfig(
        vocab_size=1,
        hidden_size=config.dim,
        num_hidden_layers=config.layers,
        state_size=config.state,
        conv_kernel=config.conv,
        expand=config.expand,
        time_step_rank=config.rank,
        layer_norm_epsilon=config.norm_eps,
    )
    network: Any = transformers.MambaModel(theirs)
    network.set_input_embeddings(None)
    return network


@dataclass(frozen=True)
class SameDocument:
    """Masks for packed documents: 1.0 where an earlier position belongs to the same document, otherwise 0.0."""

    state_NB: Tensor
    """(N, B): 0.0 where a document starts, so that the state of the earlier document is dropped."""
    taps_KNB1: Tensor
    """(K, N, B, 1): 1.0 where a tap of the convolution reads a position of the same document."""
    tail_KB1: Tensor
    """(K-1, B, 1): 1.0 for those of the last K-1 positions that belong to the newest document."""

    @classmethod
    def of(cls, opens_NB: Tensor, taps: int) -> Self:
        """The masks of N positions after an earlier part; `opens_NB` is True where a document starts."""
        count, document_MB = len(opens_NB), F.pad(opens_NB.cumsum(0), (0, 0, taps - 1, 0))  # M = K-1 + N
        taps_KNB = torch.stack([document_MB[tap : tap + count] for tap in range(taps)]) == document_MB[taps - 1 :]
        tail_KB = document_MB[count:] == document_MB[-1]
        return cls((~opens_NB).float(), taps_KNB[..., None].float(), tail_KB[..., None].float())


def mix(
    mixer: Any, x_NBD: Tensor, within: SameDocument, tail_BKE: Tensor, state_BSE: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run a `MambaMixer` on N positions after an earlier part: output (N, B, D), and the new (tail, state). All is
    computed in fp32 except the input and output projections."""
    x_NBE, gate_NBE = mixer.in_proj(x_NBD).chunk(2, -1)
    with torch.autocast(x_NBD.device.type, enabled=False):
        x_NBE, tail_BKE = convolve(mixer.conv1d, x_NBE.float(), within, tail_BKE)
        x_NBE = F.silu(x_NBE)
        sizes = [mixer.time_step_rank, mixer.ssm_state_size, mixer.ssm_state_size]
        low_NBr, write_NBS, read_NBS = mixer.x_proj(x_NBE).split(sizes, -1)
        dt_NBE = F.softplus(mixer.dt_proj(low_NBr))
        rate_SE = -mixer.A_log.t().contiguous().exp()
        y_NBE, state_BSE = Scan.apply(rate_SE, dt_NBE, dt_NBE * x_NBE, write_NBS, read_NBS, within.state_NB, state_BSE)
        y_NBE = (y_NBE + x_NBE * mixer.D) * F.silu(gate_NBE.float())
    return mixer.out_proj(y_NBE), (tail_BKE, state_BSE)


def convolve(conv: Any, x_NBE: Tensor, within: SameDocument, tail_BKE: Tensor) -> tuple[Tensor, Tensor]:
    """Depthwise convolution over each position and the K-1 before it: (N, B, E), and the last K-1 inputs (B, K-1,
    E)."""
    count, y_NBE = len(x_NBE), conv.bias
    wide_MBE = torch.cat([tail_BKE.transpose(0, 1), x_NBE])
    for tap, (weight_E, own_NB1) in enumerate(zip(conv.weight[:, 0].unbind(1), within.taps_KNB1, strict=True)):
        y_NBE = torch.addcmul(y_NBE, wide_MBE[tap : tap + count] * own_NB1, weight_E)
    return y_NBE, (wide_MBE[count:] * within.tail_KB1).transpose(0, 1)


class Scan(torch.autograd.Function):
    """The selective scan: `state = keep * exp(dt * rate) * state + x * write`, output `y = sum(state * read)` over S.

    States are computed chunk by chunk and not stored. The backward pass recomputes the states of each chunk from the
    state before it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rate_SE: Tensor,
        dt_NBE: Tensor,
        x_NBE: Tensor,
        write_NBS: Tensor,
        read_NBS: Tensor,
        keep_NB: Tensor,
        state_BSE: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Outputs y (N, B, E) of all positions, and the last state (B, S, E)."""
        before, y = [], []
        room = dt_NBE.new_empty(2, min(CHUNK, len(dt_NBE)), *state_BSE.shape)
        parts = [v.split(CHUNK) for v in (dt_NBE, x_NBE, write_NBS, read_NBS, keep_NB)]
        for dt, x, write, readout, keep in zip(*parts, strict=True):
            before.append(state_BSE)
            _, states = _states(rate_SE, dt, x, write, keep, state_BSE, room)
            state_BSE = states[-1].clone()
            y.append(states.mul_(readout[..., None]).sum(2))
        ctx.save_for_backward(rate_SE, dt_NBE, x_NBE, write_NBS, read_NBS, keep_NB, *before)
        return torch.cat(y), state_BSE

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_y, grad_state), (rate, *inputs) = grads, ctx.saved_tensors
        inputs, before = inputs[:5], inputs[5:]
        grad_rate, gradients = torch.zeros_like(rate), []
        room = grad_y.new_empty(4, min(CHUNK, len(grad_y)), *grad_state.shape)
        chunks = list(zip(*(v.split(CHUNK) for v in inputs), grad_y.split(CHUNK), before, strict=True))
        for dt, x, write, readout, keep, grad, state in reversed(chunks):
            decay, states = _states(rate, dt, x, write, keep, state, room)
            g, spare = room[2:, : len(dt)]
            torch.mul(grad[:, :, None], readout[..., None], out=g)
            g[-1] += grad_state
            steps, decays = g.unbind(), decay.unbind()
            for t in range(len(g) - 1, 0, -1):
                steps[t - 1].addcmul_(decays[t], steps[t])
            to_read = torch.mul(states, grad[:, :, None], out=spare).sum(-1)
            to_x = torch.mul(g, write[..., None], out=spare).sum(2)
            to_write = torch.mul(g, x[:, :, None], out=spare).sum(-1)
            g *= decay
            grad_state = g[0].clone()
            g[1:] *= states[:-1]
            g[0] *= state
            grad_rate += torch.mul(g, dt[:, :, None], out=spare).sum((0, 1))
            gradients.append((g.mul_(rate).sum(2), to_x, to_write, to_read))
        return grad_rate, *(torch.cat(parts[::-1]) for parts in zip(*gradients, strict=True)), None, grad_state


def _states(
    rate_SE: Tensor, dt_TBE: Tensor, x_TBE: Tensor, write_TBS: Tensor, keep_TB: Tensor, state_BSE: Tensor, room: Tensor
) -> tuple[Tensor, Tensor]:
    """Decays and states (T, B, S, E) of a chunk, in the first two tensors of `room`: allocation would dominate."""
    decay, states = room[:2, : len(dt_TBE)]
    torch.mul(dt_TBE[:, :, None], rate_SE, out=decay).exp_().mul_(keep_TB[..., None, None])
    torch.mul(x_TBE[:, :, None], write_TBS[..., None], out=states)
    for a, now in zip(decay, states, strict=True):
        state_BSE = now.addcmul_(a, state_BSE)
    return decay, states


def mamba_flops(config: MambaConfig) -> float:
    """FLOPs of a forward pass per id, without the output head; they do not depend on the length of the text.

    Counted are matrix products, the convolution, the skip connection and the scan. The scan has six operations per
    state number: step size times decay rate, input times its projection, decay and addition, product and sum of the
    output. The exponential, gates and activations count as zero.
    """
    inner, scan = config.inner, 6 * config.inner * config.state
    weights = 3 * config.dim * inner + inner * (config.rank + 2 * config.state) + config.rank * inner
    return config.layers * (2 * weights + 2 * config.conv * inner + 2 * inner + scan)
