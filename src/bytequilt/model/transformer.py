"""A transformer from ids to logits: the entropy model and the baselines are built on it."""

from torch import Tensor

from ..codec import BOS, VOCAB_SIZE
from ..config import StackConfig
from .cache import StackCache
from .embedding import Embedding
from .initial import Network
from .layers import Linear, RMSNorm, Stack, look_up, product
from .rows import Rows


class Transformer(Network):
    """A causal transformer that predicts the next id. Documents in a row, and rows of a batch, do not attend to each
    other."""

    opening: tuple[int, ...] = (BOS,)
    """Ids at which a new attention context starts."""

    def __init__(self, config: StackConfig, vocabulary: int = VOCAB_SIZE) -> None:
        super().__init__()
        self.config = config
        self.embed = Embedding(vocabulary, config.dim)
        self.stack = Stack(config)
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.head = Linear(config.dim, vocabulary)

    def opens(self, ids: Tensor) -> Tensor:
        """True where a new attention context starts; the result has the shape of the ids."""
        opens = ids == self.opening[0]
        for id in self.opening[1:]:
            opens = opens | (ids == id)
        return opens

    def opens_step(self, ids_R: Tensor, text: bool) -> Tensor | None:
        """`opens` for a step, or None if no context can start: `text` promises that no id is a BOS."""
        return None if text and self.opening == (BOS,) else self.opens(ids_R)

    def forward(
        self,
        ids_BN: Tensor,
        cache: StackCache | None = None,
        rows: Rows | None = None,
        single: bool = False,
        added_BND: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, N, V) in fp32; the logits at t predict id t+1.

        With a cache, the ids continue its rows. `single` promises that the only BOS of a row is its first id, which
        saves masks. `added_BND` is added to the embeddings of the ids.
        """
        opens_BN, single = self.opens(ids_BN), single and self.opening == (BOS,)
        chunk = None if cache is None else cache.chunk(rows or cache.rows(), opens_BN, single)
        x_BND = self.embed(ids_BN) if added_BND is None else self.embed(ids_BN) + added_BND
        return self.head(self.norm(self.stack(x_BND, opens_BN, chunk, single))).float()

    def step(
        self,
        ids_R: Tensor,
        cache: StackCache,
        rows: Rows | None = None,
        text: bool = False,
        added_RD: Tensor | None = None,
    ) -> Tensor:
        """Logits (R, V) in fp32 after the next id of each row of a cache; `text` promises that no id is a BOS."""
        step = cache.step(rows or cache.rows(), self.opens_step(ids_R, text))
        x_RD = look_up(ids_R, self.embed)
        x_RD = x_RD if added_RD is None else x_RD + added_RD
        return product(self.norm.step(self.stack.step(x_RD, step)), self.head).float()

    def cache(self, rows: int = 1, reserve: int = 0) -> StackCache:
        """An empty KV cache for reading a text in pieces; the newest `reserve` ids of a row can be removed."""
        return self.stack.cache(rows, reserve)
