"""The shapes of all networks, including the baselines."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .base import Config, Positive

Width = Annotated[int, Field(gt=0, le=2**24)]
Rows = Annotated[int, Field(gt=0, le=2**40)]
Layers = Annotated[int, Field(gt=0, le=4096)]
Epsilon = Annotated[float, Field(gt=0, le=1)]
BYTES = 260  # 256 bytes and 4 special ids: codec.VOCAB_SIZE, repeated so that numpy is not imported


class StackConfig(Config):
    """A Llama-style transformer stack: RMSNorm, RoPE, SwiGLU, no biases."""

    dim: Width
    """Width of the residual stream."""
    layers: Layers
    heads: Width
    kv_heads: Width | None = None
    """Key and value heads; equal to `heads` if not given."""
    ffn_dim: Width | None = None
    """Hidden width of SwiGLU; 8/3 of `dim`, rounded up to a multiple of 256, if not given."""
    window: Positive | None = None
    """Number of positions that a query attends to, including its own; all earlier positions if not given."""
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
    """The byte-level transformer that gives patching the entropy of the next byte."""

    window: Positive | None = 512
    newline_reset: bool = False
    """Restart the attention context at each newline; the newline is its first key (BLT paper, section 4.4)."""


class NgramConfig(Config):
    """An entropy model of look-up tables: the stored mean entropy of the longest known n-gram before the next byte."""

    sizes: tuple[Annotated[int, Field(ge=2, le=64)], ...] = (2, 3, 4, 5, 6)
    """Lengths of the n-grams in bytes. Single bytes always have a table of their own."""
    rows: Rows = 131_072
    """Rows of each length's table. N-grams with the same hash share a row, and so an entropy."""

    @model_validator(mode="after")
    def _sizes_are_a_set(self) -> "NgramConfig":
        if not self.sizes or len(set(self.sizes)) < len(self.sizes):
            raise ValueError("`sizes` must be given, each once")
        return self


class HashConfig(Config):
    """Hashed byte n-gram embeddings, added to the embedding of each byte."""

    sizes: tuple[Annotated[int, Field(ge=2, le=64)], ...] = (3, 4, 5, 6, 7, 8)
    """Lengths of the n-grams in bytes. Without any length there are no n-gram embeddings."""
    rows: Rows = 500_002
    """Rows of each table. There is one table for each pair of n-gram length and hash function."""
    functions: Annotated[int, Field(ge=1, le=11)] = 1
    """Hash functions per n-gram length."""

    @property
    def tables(self) -> int:
        return len(self.sizes) * self.functions


class BLTConfig(Config):
    """The network of a Byte Latent Transformer, without the patcher."""

    encoder: StackConfig
    latent: StackConfig
    decoder: StackConfig
    hash: HashConfig = HashConfig()
    slots: Annotated[int, Field(gt=0, le=64)] = 2
    """Vectors per patch (`k`). Cross-attention of the encoder writes them, and that of the decoder reads them."""
    cross_heads: Positive | tuple[Positive, Positive]
    """Query heads of cross-attention: one number, or one for the encoder and one for the decoder."""
    cross_kv_heads: Positive | tuple[Positive, Positive] | None = None
    """Key and value heads of cross-attention; equal to `cross_heads` if not given."""
    encoder_cross: Literal["last", "all", "none"] = "last"
    """Encoder layers after which patches attend to their bytes. none: a patch is the projected maximum of its bytes."""
    decoder_cross: Literal["all", "first", "none"] = "all"
    """Decoder layers before which bytes attend to patches. none: the patch is added to its bytes once."""
    cross_residual: Annotated[float, Field(ge=0, le=100)] = 2.0
    """Factor of the residual in cross-attention. The released weights need 2; a standard transformer has 1."""

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
        """(query heads, key and value heads) of cross-attention in the encoder, then in the decoder."""
        heads, kv_heads = (n if isinstance(n, tuple) else (n, n) for n in (self.cross_heads, self.cross_kv_heads))
        return (heads[0], kv_heads[0] or heads[0]), (heads[1], kv_heads[1] or heads[1])


class MambaConfig(Config):
    """A Mamba-1 network (Gu and Dao 2023)."""

    dim: Width
    """Width of the residual stream."""
    layers: Layers
    state: Width = 16
    """Size of the recurrent state of each inner channel."""
    conv: Width = 4
    """Number of positions that the causal convolution sees, including its own."""
    expand: Annotated[int, Field(gt=0, le=64)] = 2
    """Inner width as a multiple of `dim`."""
    norm_eps: Epsilon = 1e-5

    @property
    def inner(self) -> int:
        return self.expand * self.dim

    @property
    def rank(self) -> int:
        """Width of the low-rank projection of the step sizes."""
        return math.ceil(self.dim / 16)


class BaselineConfig(Config):
    """A language model to compare with a BLT: a transformer or a Mamba, over bytes or over BPE tokens."""

    stack: StackConfig | None = None
    mamba: MambaConfig | None = None
    hash: HashConfig | None = None
    """Hashed n-gram embeddings of the ids (bytes or tokens), added to the embeddings of the ids."""
    tied: bool = False
    """Tied embeddings: the output head is also the input embedding, and has the learning rate of matrices."""
    vocabulary: Annotated[int, Field(ge=BYTES, le=2**32)] = BYTES
    """Number of ids, including the four special ids; 260 for bytes."""
    token_bytes: Annotated[float, Field(ge=1, le=1e6)] = 1.0
    """Mean bytes per token on text like the training text."""

    @model_validator(mode="after")
    def _one_network(self) -> "BaselineConfig":
        if (self.stack is None) == (self.mamba is None):
            raise ValueError("a baseline has either a `stack` or a `mamba`")
        if self.hash and not self.hash.sizes:
            raise ValueError("a baseline without n-grams has no `hash`")
        return self

    @property
    def network(self) -> Any:
        """The configuration of the network: `stack` or `mamba`."""
        return self.stack or self.mamba

    @property
    def kind(self) -> str:
        """The name of this kind of model in the literature."""
        body = "transformer" if self.stack else "mamba"
        return f"byte {body}" if self.vocabulary == BYTES else f"BPE {body}"
