"""The Byte Latent Transformer (Pagnoni et al. 2024, arXiv 2412.09871)."""

from torch import Tensor, nn

from ..codec import BOS
from ..config import BLTConfig, UserError, as_kind
from .cache import StackChunk
from .decoder import Decoder
from .encoder import Encoder
from .initial import Network
from .layers import Linear, Stack
from .segments import Patches, check_ids
from .step import StackStep


class Latent(nn.Module):
    """The latent transformer over patches; it has no access to bytes: (B, P, k*d) -> (B, P, D)."""

    def __init__(self, config: BLTConfig) -> None:
        super().__init__()
        inputs, width = config.slots * config.encoder.dim, config.latent.dim
        self.project = nn.Identity() if inputs == width else Linear(inputs, width)
        self.stack = Stack(config.latent)

    def forward(
        self,
        x_BPD: Tensor,
        opens_BP: Tensor,
        chunk: StackChunk | None = None,
        single: bool = False,
        fixed: bool = False,
    ) -> Tensor:
        """Patch inputs -> latents. A patch attends to the patches of its document up to its own.

        `opens_BP` is True where a document starts. With a `chunk`, the patches continue cached rows. `single` and
        `fixed` are those of `Spans`.
        """
        return self.stack(self.project(x_BPD).to(x_BPD.dtype), opens_BP, chunk, single, fixed)

    def step(self, x_RD: Tensor, step: StackStep) -> Tensor:
        """The latents (R, D) of the next patch of each row."""
        return self.stack.step(self.project(x_RD), step)


class BLT(Network):
    """The Byte Latent Transformer: a language model on bytes that runs its large transformer once per patch. The patch
    boundaries are an input; a `Patcher` computes them."""

    def __init__(self, config: BLTConfig) -> None:
        super().__init__()
        self.config = as_kind("config", config, BLTConfig)
        self.encoder = Encoder(config)
        self.latent = Latent(config)
        self.decoder = Decoder(config)

    def forward(self, ids_BN: Tensor, patches: Patches) -> Tensor:
        """Logits (B, N, V) in fp32 for ids (B, N) int64 that start with BOS; the logits at t predict byte t+1. Raises
        UserError if the ids or the patches have the wrong type."""
        check_ids(ids_BN, 2, values=False)  # the patcher has checked the values
        if not isinstance(patches, Patches):
            raise UserError(f"a model needs ids and their patches, not {type(patches).__name__}")
        encoder, decoder, opens_BN = self.encoder, self.decoder, ids_BN == BOS
        inputs = encoder.stack.attention_inputs(opens_BN, single=patches.single)
        states = encoder(ids_BN, inputs=inputs)
        slots_BPD, opens_BP = encoder.patch(states, patches), patches.opens_BP(ids_BN)
        latent_BPD = self.latent(slots_BPD, opens_BP, single=patches.single, fixed=patches.fixed)
        if not decoder.stack.same_attention(encoder.stack):
            inputs = decoder.stack.attention_inputs(opens_BN, single=patches.single)
        return decoder(states[-1], decoder.patch_inputs(latent_BPD), patches.read_BN, ids_BN, inputs=inputs)
