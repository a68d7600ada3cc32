"""The options for sampling the next byte."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .base import UserError, as_bytes
from .given import real, truth, whole

MOST_GUESSES = 256
"""Maximum number of bytes that the decoder may guess ahead. KV caches with a window keep extra room for guesses."""


@dataclass(frozen=True)
class Sampling:
    """Options for generating one text. Raises UserError for a value out of range.

    The fields are also the flags of `bytequilt generate`, and their descriptions are its help texts.
    """

    max_bytes: int = 200
    """Maximum number of bytes to generate."""
    temperature: float = 0.8
    """Sampling temperature; 0 always takes the most likely byte."""
    top_k: int = 0
    """Sample from the k most likely ids; 0: from all ids."""
    top_p: float = 1.0
    """Sample from the smallest set of most likely ids with a total probability of at least p (Holtzman et al. 2020)."""
    min_p: float = 0.0
    """Sample from ids with at least this fraction of the highest probability (Nguyen et al. 2024)."""
    repetition_penalty: float = 1.0
    """A value above 1 makes the bytes among the last 64 less likely (Keskar et al. 2019)."""
    seed: int | None = None
    """The same seed gives the same bytes, no matter which texts are generated in the same batch."""
    stop: str | bytes | Sequence[str | bytes] | None = ()
    """End the text before the first occurrence of any of these strings; may be given more than once."""
    utf8: bool = False
    """Sample only bytes that keep the text valid UTF-8."""
    logprobs: bool = False
    """Also give the log-probability of each byte in nats, under the model without any of these options."""
    logit_bias: dict[int, float] | None = None
    """Byte values (0 to 255), each with a number that is added to its logit."""
    frequency_penalty: float = 0.0
    """-2 to 2: subtracted from the logit of a byte once for each time that the byte has been generated."""
    presence_penalty: float = 0.0
    """-2 to 2: subtracted once from the logit of every byte that has been generated."""
    top_logprobs: int = 0
    """0 to 5: number of most likely bytes to report at each position, with their log-probabilities in nats."""

    def __post_init__(self) -> None:
        for name in ("max_bytes", "top_k"):
            self._set(name, whole(getattr(self, name), 0), "be a whole number of at least 0")
        self._set("top_logprobs", whole(self.top_logprobs, 0, 5), "be a whole number of 0 to 5")
        if self.seed is not None:
            self._set("seed", whole(self.seed, -(2**63), 2**63 - 1), "be a whole number of 64 bits")
        ranges = {
            "temperature": (0, math.inf, "be at least 0"),
            "top_p": (math.ulp(0), 1, "be above 0 and at most 1"),
            "min_p": (0, math.nextafter(1, 0), "be at least 0 and below 1"),
            "repetition_penalty": (0.01, 100, "be 0.01 to 100"),
            "frequency_penalty": (-2, 2, "be -2 to 2"),
            "presence_penalty": (-2, 2, "be -2 to 2"),
        }
        for name, (least, most, rule) in ranges.items():
            self._set(name, real(getattr(self, name), least, most), rule)
        for name in ("utf8", "logprobs"):
            value = getattr(self, name)
            self._set(name, truth(value), "be true or false")
        self._set("stop", _texts(self.stop), "be texts, none of them empty")
        if self.logit_bias is not None:
            self._set("logit_bias", _bias(self.logit_bias), "give numbers for bytes of 0 to 255")

    def _set(self, name: str, value: Any, rule: str) -> None:
        """Store an option as a plain Python value. Raises UserError with `rule` if the value is None (invalid)."""
        if value is None:
            raise UserError(f"{name} must {rule}, unlike {repr(getattr(self, name))[:100]}")
        object.__setattr__(self, name, value)


def _texts(stops: Any) -> tuple[bytes, ...] | None:
    stops = () if stops is None else (stops,) if isinstance(stops, str | bytes) else stops
    if not isinstance(stops, tuple | list) or not all(isinstance(stop, str | bytes) and stop for stop in stops):
        return None
    return tuple(as_bytes(stop) for stop in stops)


def _bias(bias: Any) -> dict[int, float] | None:
    if not isinstance(bias, dict):
        return None
    pairs = {whole(byte, 0, 255): real(value, -math.inf, math.inf) for byte, value in bias.items()}
    return None if None in pairs or None in pairs.values() else pairs
