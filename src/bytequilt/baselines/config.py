"""What a baseline is made of."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from ..codec import VOCAB_SIZE
from ..config import Config, StackConfig
from .mamba import MambaConfig


class BaselineConfig(Config):
    """A language model to compare a BLT with: a transformer or a Mamba, over bytes or over the tokens of a BPE."""

    stack: StackConfig | None = None
    mamba: MambaConfig | None = None
    vocabulary: Annotated[int, Field(ge=VOCAB_SIZE)] = VOCAB_SIZE
    """Ids, the four special ones among them; 260 for bytes."""
    token_bytes: Annotated[float, Field(ge=1)] = 1.0
    """Mean bytes of a token on text like that it was trained on."""

    @model_validator(mode="after")
    def _one_network(self) -> "BaselineConfig":
        if (self.stack is None) == (self.mamba is None):
            raise ValueError("a baseline has either a `stack` or a `mamba`")
        return self

    @property
    def network(self) -> Any:
        """The configuration of its network."""
        return self.stack or self.mamba

    @property
    def kind(self) -> str:
        """Its name in the field."""
        body = "transformer" if self.stack else "mamba"
        return f"byte {body}" if self.vocabulary == VOCAB_SIZE else f"BPE {body}"
