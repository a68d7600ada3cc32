"""The Byte Latent Transformer (Pagnoni et al. 2024, arXiv 2412.09871)."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..codec import BOS
from ..config import BLTConfig
from .cache import Gathered, StackCache
from .decoder import Decoder
from .encoder import Encoder
from .initial import Network
from .layers import Linear, Stack
from .segments import Patches


class Latent(nn.Module):
    """The big transformer, over patches; it knows nothing of bytes: (B, P, k*d) -> (B, P, D)."""

    def __init__(self, config: BLTConfig) -> None:
        super().__init__()
        inputs, width = config.slots * config.encoder.dim, config.latent.dim
        self.project = nn.Identity() if inputs == width else Linear(inputs, width)
        self.stack = Stack(config.latent)

    def forward(
        self,
        x_BPD: Tensor,
        opens_BP: Tensor,
        cache: StackCache | None = None,
        single: bool = False,
        fixed: bool = False,
    ) -> Tensor:
        """A patch sees the patches before it, back to the one that opens its document. For the rest see `Spans`."""
        spans = self.stack.spans(opens_BP, cache, single, fixed)
        return self.stack(self.project(x_BPD).to(x_BPD.dtype), spans, cache)

    def step(self, x_RD: Tensor, opens: Sequence[bool], cache: StackCache | Gathered) -> Tensor:
        """The next patch of each row."""
        cache.begin(opens)
        return self.stack.step(self.project(x_RD), cache)


class BLT(Network):
    """Language model on bytes whose big transformer runs once a patch. Where patches start comes from outside."""

    def __init__(self, config: BLTConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.latent = Latent(config)
        self.decoder = Decoder(config)

    def forward(self, ids_BN: Tensor, patches: Patches) -> Tensor:
        """Logits (B, N, V) in fp32 of ids (B, N) int64, BOS first; row t predicts byte t+1."""
        encoder, latent, decoder = self.encoder, self.latent, self.decoder
        opens_BN, single = ids_BN == BOS, patches.single
        spans = encoder.stack.spans(opens_BN, single=single)
        same = encoder.stack.config.window == decoder.stack.config.window  # then masks are made once for both
        states = encoder(ids_BN, spans=spans)
        slots_BPD, opens_BP = encoder.patch(states, patches), patches.opens_BP(ids_BN)
        latent_BPD = latent(slots_BPD, opens_BP, single=single, fixed=patches.fixed)
        spans = spans if same else decoder.stack.spans(opens_BN, single=single)
        return decoder(states[-1], decoder.read(latent_BPD), patches.read_BN, ids_BN, spans=spans)
