"""Where patches start: rules, and how a recipe finds their thresholds."""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from .base import Config, Positive

PatchKind = Literal["entropy", "monotonic", "combined", "budget", "space", "words", "fixed", "byte"]
ENTROPY_KINDS = ("entropy", "monotonic", "combined", "budget")

RULE_FIELDS = {
    "threshold": ("entropy", "combined", "budget"),
    "rise": ("monotonic", "combined"),
    "stride": ("fixed",),
}
"""Fields of a rule that some kinds need, and the others do not take."""
BUDGET_LENGTH = 16
"""Longest patch of kind `budget` unless another is given: text that costs nothing would never be cut."""
WAIT = 3
"""Bytes by which a patch that waits for the end of a character may be longer than `max_length`."""
DIGITS = b"0123456789"


def check_rule_fields(kind: str, fields: dict[str, float | None]) -> None:
    """Raises ValueError where a kind of patching lacks a field, or has one that it does not read."""
    for name, kinds in RULE_FIELDS.items():
        if (kind in kinds) != (fields[name] is not None):
            raise ValueError(f"patching of kind '{kind}' {'needs' if kind in kinds else 'takes no'} `{name}`")


def _one_byte_each(text: str) -> str:
    wide = next((character for character in text if not character.isascii()), None)
    if wide is not None:
        raise ValueError(f"`after` takes characters of one byte, and {wide!r} has more")
    return text


OneByteEach = Annotated[str, AfterValidator(_one_byte_each)]


class PatchOptions(Config):
    """What a rule and the patching of a recipe have in common."""

    kind: PatchKind = "entropy"
    """entropy: a start where the next byte's entropy is above `threshold`; monotonic: `rise` above the one before;
    combined: both; budget: where the entropies of the patch and of the next byte sum to more than `threshold`, between
    characters. space: after the first of other bytes than letters and digits, as in the paper; words: the same, and
    every byte outside ASCII counts as a letter. fixed: every `stride` bytes. byte: after each."""
    stride: Positive | None = None
    """Bytes per patch of kind `fixed`."""
    max_length: Positive | None = None
    """Longest patch in bytes; longer ones are cut from the left. 16 for kind `budget`, unless given."""
    characters: bool = False
    """A start inside a UTF-8 character moves to its end, so that a patch has up to three bytes more than `max_length`.
    Kind `budget` does so always."""
    after: OneByteEach = ""
    """A patch starts after each of these characters, which are bytes: ASCII."""
    digits: Literal["each"] | None = None
    """`each`: a patch starts after each ASCII digit, so that every digit but the first of a number is a patch."""

    @model_validator(mode="before")
    @classmethod
    def _budgets_are_bounded(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.get("kind") == "budget":
            return {"max_length": BUDGET_LENGTH} | fields
        return fields

    @property
    def needs_entropy(self) -> bool:
        return self.kind in ENTROPY_KINDS


class RuleConfig(PatchOptions):
    """Where a new patch starts. Entropies are in nats here and in files; people read bits."""

    threshold: float | None = None
    rise: float | None = None

    @model_validator(mode="after")
    def _fields_fit_kind(self) -> "RuleConfig":
        check_rule_fields(self.kind, {name: getattr(self, name) for name in RULE_FIELDS})
        return self

    @property
    def whole(self) -> bool:
        """Whether no patch ends inside a UTF-8 character."""
        return self.characters or self.kind == "budget"

    @property
    def reads_bytes(self) -> bool:
        """Whether the bytes themselves count, not only their entropies and places."""
        return self.kind in ("space", "words") or self.whole or bool(self.after) or self.digits is not None

    @property
    def reads_rises(self) -> bool:
        """Whether the entropy before the newest counts."""
        return self.kind in RULE_FIELDS["rise"]

    @property
    def own_options(self) -> list[str]:
        """Names of the options in use that no other implementation has."""
        return [name for name in ("characters", "after", "digits") if getattr(self, name)]

    @property
    def forcing(self) -> bytes:
        """The bytes after which a patch starts in any case."""
        return self.after.encode("ascii") + (DIGITS if self.digits else b"")

    @property
    def threshold_bits(self) -> float | None:
        """The threshold as people read it."""
        return None if self.threshold is None else self.threshold / math.log(2)


class PatchingConfig(PatchOptions):
    """How a recipe patches: a rule whose threshold is calibrated on the corpus unless it is given."""

    target_bytes: Annotated[float, Field(ge=1, le=65_536)] | None = None
    """Mean bytes per patch to calibrate to; gives `threshold` (or `rise` for kind `monotonic`)."""
    threshold: float | None = None
    """In nats."""
    rise: float | None = None
    """In nats."""
    sample_bytes: Positive = 1_000_000
    """Bytes of the corpus that calibration looks at."""

    @property
    def calibrated(self) -> str | None:
        """Name of the field that calibration fills, or None where the rule is complete as it stands."""
        name = "rise" if self.kind == "monotonic" else "threshold" if self.needs_entropy else None
        return name if name and getattr(self, name) is None else None

    @model_validator(mode="after")
    def _target_fits(self) -> "PatchingConfig":
        if self.calibrated and self.target_bytes is None:
            raise ValueError(f"patching of kind '{self.kind}' needs `{self.calibrated}` or `target_bytes`")
        if not self.calibrated and self.target_bytes is not None:
            raise ValueError(f"patching of kind '{self.kind}' has nothing left to calibrate with `target_bytes`")
        if self.target_bytes and self.max_length and self.target_bytes > self.max_length + WAIT:
            raise ValueError(
                f"`target_bytes` {self.target_bytes:g} is more than `max_length` {self.max_length} lets be"
            )
        calibrated = {self.calibrated: 0.0} if self.calibrated else {}
        check_rule_fields(self.kind, {name: getattr(self, name) for name in RULE_FIELDS} | calibrated)
        return self

    def rule(self, **calibrated: float) -> RuleConfig:
        """The rule itself, with what calibration found."""
        return RuleConfig(**(self.model_dump(include=set(RuleConfig.model_fields)) | calibrated))
