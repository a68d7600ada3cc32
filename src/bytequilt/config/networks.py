"""The shapes of all networks, those of the baselines included."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .base import Config, Positive

Width = Annotated[int, Field(gt=0, le=2**24)]
Rows = Annotated[int, Field(gt=0, le=2**40)]
Layers = Annotated[int, Field(gt=0, le=4096)]
Epsilon = Annotated[float, Field(gt=0, le=1)]
BYTES = 260  # ids of bytes and the four special ones: codec.VOCAB_SIZE, without waiting for numpy


class StackConfig(Config):
    """A Llama-style transformer stack: RMSNorm, RoPE, SwiGLU, no biases."""

    dim: Width
    """Width of the residual stream."""
    layers: Layers
    heads: Width
    kv_heads: Width | None = None
    """Key and value heads; as many as `heads` where not given."""
    ffn_dim: Width | None = None
    """Hidden width of SwiGLU; 8/3 of `dim`, rounded up to a multiple of 256, where not given."""
    window: Positive | None = None
    """How many positions a query sees, itself included; all where not given."""
    rope_theta: Annotated[float, Field(gt=0, le=1e12)] = 10_000.0
    norm_eps: Epsilon = 1e-5

    @model_validator(mode="after")
    def _heads_divide(self) -> "StackConfig":
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(f"dim {self.dim} must be an even multiple of heads {self.heads}")
        if self.heads % self.num_kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        return self

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def num_kv_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def hidden_dim(self) -> int:
        return self.ffn_dim or 256 * math.ceil(int(8 * self.dim / 3) / 256)


class EntropyConfig(StackConfig):
    """The byte transformer that scores how hard the next byte is."""

    window: Positive | None = 512
    newline_reset: bool = False
    """Whether the attention context opens anew at each newline, which is its first key (BLT paper, section 4.4)."""


class NgramConfig(Config):
    """Entropies by look-up: of the longest n-gram before the next byte that a table knows."""

    sizes: tuple[Annotated[int, Field(ge=2, le=64)], ...] = (2, 3, 4, 5, 6)
    """Lengths of the n-grams; single bytes have a table of their own."""
    rows: Rows = 131_072
    """Rows of the table of one length; n-grams with the same hash share an entropy."""

    @model_validator(mode="after")
    def _sizes_are_a_set(self) -> "NgramConfig":
        if not self.sizes or len(set(self.sizes)) < len(self.sizes):
            raise ValueError("`sizes` must be given, each once")
        return self


class HashConfig(Config):
    """Hashed byte n-gram embeddings, added to the embedding of each byte."""

    sizes: tuple[Annotated[int, Field(ge=2, le=64)], ...] = (3, 4, 5, 6, 7, 8)
    """Lengths of the n-grams; none at all switches the embeddings off."""
    rows: Rows = 500_002
    """Rows of the table of one n-gram length and hash function."""
    functions: Annotated[int, Field(ge=1, le=11)] = 1
    """Hash functions per n-gram length."""

    @property
    def tables(self) -> int:
        return len(self.sizes) * self.functions


class BLTConfig(Config):
    """A Byte Latent Transformer without its patcher."""

    encoder: StackConfig
    latent: StackConfig
    decoder: StackConfig
    hash: HashConfig = HashConfig()
    slots: Annotated[int, Field(gt=0, le=64)] = 2
    """Vectors per patch (`k`) that cross-attention writes in the encoder and reads in the decoder."""
    cross_heads: Positive | tuple[Positive, Positive]
    """Heads of every cross-attention; two numbers where those of encoder and decoder differ."""
    cross_kv_heads: Positive | tuple[Positive, Positive] | None = None
    """Key and value heads of cross-attention; as many as `cross_heads` where not given."""
    encoder_cross: Literal["last", "all", "none"] = "last"
    """After which encoder layers patches read bytes; with none, a patch is the projected maximum of its bytes."""
    decoder_cross: Literal["all", "first", "none"] = "all"
    """Before which decoder layers bytes read patches; with none, the patch is added to its bytes once."""
    cross_residual: Annotated[float, Field(ge=0, le=100)] = 2.0
    """What the residual is multiplied by in cross-attention; released weights need 2, the textbook says 1."""

    @model_validator(mode="after")
    def _widths_agree(self) -> "BLTConfig":
        if self.encoder.dim != self.decoder.dim:
            raise ValueError(
                f"encoder.dim {self.encoder.dim} and decoder.dim {self.decoder.dim} must be equal: "
                "the decoder starts from the encoder's byte states"
            )
        for heads, kv_heads in self.cross_shapes:
            if self.encoder.dim % heads:
                raise ValueError(f"encoder.dim {self.encoder.dim} must be a multiple of cross_heads {heads}")
            if heads % kv_heads:
                raise ValueError(f"cross_heads {heads} must be a multiple of cross_kv_heads {kv_heads}")
        return self

    @property
    def cross_shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Heads of queries, and of keys and values, in the encoder's cross-attention and in the decoder's."""
        heads, kv_heads = (n if isinstance(n, tuple) else (n, n) for n in (self.cross_heads, self.cross_kv_heads))
        return (heads[0], kv_heads[0] or heads[0]), (heads[1], kv_heads[1] or heads[1])


class MambaConfig(Config):
    """A Mamba of the first kind (Gu and Dao 2023)."""

    dim: Width
    """Width of the residual stream."""
    layers: Layers
    state: Width = 16
    """Numbers that each inner channel remembers."""
    conv: Width = 4
    """How many positions the convolution sees, its own included."""
    expand: Annotated[int, Field(gt=0, le=64)] = 2
    """Inner width as a multiple of `dim`."""
    norm_eps: Epsilon = 1e-5

    @property
    def inner(self) -> int:
        return self.expand * self.dim

    @property
    def rank(self) -> int:
        """Width through which step sizes are projected."""
        return math.ceil(self.dim / 16)


class BaselineConfig(Config):
    """A language model to compare a BLT with: a transformer or a Mamba, over bytes or over the tokens of a BPE."""

    stack: StackConfig | None = None
    mamba: MambaConfig | None = None
    hash: HashConfig | None = None
    """Hashed n-grams of its ids, bytes or tokens, added to their embeddings."""
    tied: bool = False
    """Whether ids are embedded by the rows of the output head, which then learn at the rate of matrices."""
    vocabulary: Annotated[int, Field(ge=BYTES, le=2**32)] = BYTES
    """Ids, the four special ones among them; 260 for bytes."""
    token_bytes: Annotated[float, Field(ge=1, le=1e6)] = 1.0
    """Mean bytes of a token on text like its training text."""

    @model_validator(mode="after")
    def _one_network(self) -> "BaselineConfig":
        if (self.stack is None) == (self.mamba is None):
            raise ValueError("a baseline has either a `stack` or a `mamba`")
        if self.hash and not self.hash.sizes:
            raise ValueError("a baseline without n-grams has no `hash`")
        return self

    @property
    def network(self) -> Any:
        """The configuration of its network."""
        return self.stack or self.mamba

    @property
    def kind(self) -> str:
        """What the literature calls it."""
        body = "transformer" if self.stack else "mamba"
        return f"byte {body}" if self.vocabulary == BYTES else f"BPE {body}"
