"""How the next byte is drawn: what a caller may choose."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

from .base import UserError, as_bytes


@dataclass(frozen=True)
class Sampling:
    """How one text is generated. Raises UserError for what is out of range.

    Its fields are also the options of `bytequilt generate`, and these words are their help.
    """

    max_bytes: int = 200
    """Bytes to generate at most."""
    temperature: float = 0.8
    """0 takes the likeliest byte."""
    top_k: int = 0
    """Draw from the k likeliest bytes; 0 from all."""
    top_p: float = 1.0
    """Draw from the likeliest bytes whose probabilities sum to p (Holtzman et al. 2020)."""
    min_p: float = 0.0
    """Draw from bytes at least this fraction as likely as the likeliest (Nguyen et al. 2024)."""
    repetition_penalty: float = 1.0
    """Above 1, bytes among the last 64 are less likely (Keskar et al. 2019)."""
    seed: int | None = None
    """The same seed draws the same bytes."""
    stop: str | bytes | Sequence[str | bytes] | None = ()
    """The text ends before the first of these; may be given more than once."""
    utf8: bool = False
    """Draw only bytes that keep the text valid UTF-8."""
    logprobs: bool = False
    """Also give the log-probability of each byte under the model itself, in nats."""

    def __post_init__(self) -> None:
        stops = () if self.stop is None else (self.stop,) if isinstance(self.stop, str | bytes) else self.stop
        object.__setattr__(self, "stop", stops)
        for name in ("max_bytes", "top_k", "seed"):
            object.__setattr__(self, name, _plain_integer(getattr(self, name)))
        rules = [
            ("max_bytes", "be a whole number of at least 0", _whole(self.max_bytes) and self.max_bytes >= 0),
            ("temperature", "be at least 0", _real(self.temperature) and self.temperature >= 0),
            ("top_k", "be a whole number of at least 0", _whole(self.top_k) and self.top_k >= 0),
            ("top_p", "be above 0 and at most 1", _real(self.top_p) and 0 < self.top_p <= 1),
            ("min_p", "be at least 0 and below 1", _real(self.min_p) and 0 <= self.min_p < 1),
            ("repetition_penalty", "be 0.01 to 100", _real(self.repetition_penalty, 0.01, 100)),
            ("seed", "be a whole number of 64 bits", self.seed is None or _whole(self.seed, -(2**63), 2**63)),
            ("stop", "be texts, none of them empty", _texts(stops)),
        ]
        for name, rule, kept in rules:
            if not kept:
                raise UserError(f"{name} must {rule}, unlike {repr(getattr(self, name))[:60]}")
        object.__setattr__(self, "stop", tuple(as_bytes(stop) for stop in stops))


def _plain_integer(number: Any) -> Any:
    """An integer of numpy or torch as one of Python; anything else as it is."""
    try:
        return number if isinstance(number, bool) else index(number)
    except TypeError:
        return number


def _whole(number: object, least: int = -(2**63), most: int = 2**63) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and least <= number < most


def _real(number: object, least: float = -math.inf, most: float = math.inf) -> bool:
    return isinstance(number, int | float) and math.isfinite(number) and least <= number <= most


def _texts(stops: object) -> bool:
    return isinstance(stops, tuple | list) and all(isinstance(stop, str | bytes) and stop for stop in stops)
