"""Rules that decide where patches start, and how a recipe calibrates their thresholds."""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from .base import Config, Positive

PatchKind = Literal["entropy", "monotonic", "combined", "budget", "space", "words", "fixed", "byte"]
ENTROPY_KINDS = ("entropy", "monotonic", "combined", "budget")

RULE_FIELDS = {"threshold": ("entropy", "combined", "budget"), "rise": ("monotonic", "combined"), "stride": ("fixed",)}
"""Fields of a rule, and the kinds that need each field. Other kinds do not accept the field."""
BUDGET_LENGTH = 16
"""Default `max_length` of kind `budget`: without a limit, text with zero entropy would never be cut."""
WAIT = 3
"""Maximum bytes by which a patch may exceed `max_length`, because it waits for the end of a character."""
DIGITS = b"0123456789"


def check_rule_fields(kind: str, fields: dict[str, float | None]) -> None:
    """Raises ValueError if `fields` lacks a field that this kind needs, or has a field that it does not use."""
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
    """Fields that a rule and the patching of a recipe share."""

    kind: PatchKind = "entropy"
    """When a patch starts. entropy: the next byte's entropy exceeds `threshold`. monotonic: it exceeds the entropy
    before by more than `rise`. combined: both. budget: the entropies of the patch and the next byte sum to more than
    `threshold`; never inside a character. space: after the first byte of a run that is neither letters nor digits, as
    in the paper. words: like space, but bytes outside ASCII count as letters. fixed: every `stride` bytes. byte: every
    byte."""
    stride: Positive | None = None
    """Bytes per patch of kind `fixed`."""
    max_length: Positive | None = None
    """Longest patch in bytes. A patch that reaches this length ends there. 16 for kind `budget` if not given."""
    characters: bool = False
    """Start no patch inside a UTF-8 character, but after its end. A patch may then be up to three bytes longer than
    `max_length`. Kind `budget` always does this."""
    after: OneByteEach = ""
    """ASCII characters. A patch starts after each of them."""
    digits: Literal["each"] | None = None
    """`each`: a patch starts after each ASCII digit. So every digit of a number after the first is one patch."""

    @model_validator(mode="before")
    @classmethod
    def _budgets_are_bounded(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.get("kind") == "budget":
            return {"max_length": BUDGET_LENGTH} | fields
        return fields

    @property
    def needs_entropy(self) -> bool:
        return self.kind in ENTROPY_KINDS

    @property
    def limit(self) -> str | None:
        """Name of the field that limits the entropies: `threshold`, or `rise` of kind `monotonic`; None without one."""
        return ("rise" if self.kind == "monotonic" else "threshold") if self.needs_entropy else None


class RuleConfig(PatchOptions):
    """A complete rule for where patches start. Entropies are in nats here and in files; users see bits."""

    threshold: float | None = None
    rise: float | None = None

    @model_validator(mode="after")
    def _fields_fit_kind(self) -> "RuleConfig":
        check_rule_fields(self.kind, {name: getattr(self, name) for name in RULE_FIELDS})
        return self

    @property
    def whole(self) -> bool:
        """True if no patch ends inside a UTF-8 character."""
        return self.characters or self.kind == "budget"

    @property
    def reads_bytes(self) -> bool:
        """True if the rule needs the values of the bytes, not only their entropies and positions."""
        return self.kind in ("space", "words") or self.whole or bool(self.after) or self.digits is not None

    @property
    def reads_rises(self) -> bool:
        """True if the rule compares the newest entropy with the entropy before."""
        return self.kind in RULE_FIELDS["rise"]

    @property
    def own_options(self) -> list[str]:
        """Names of the options in use that other implementations do not have."""
        return [name for name in ("characters", "after", "digits") if getattr(self, name)]

    @property
    def forcing(self) -> bytes:
        """The bytes after which a patch always starts."""
        return self.after.encode("ascii") + (DIGITS if self.digits else b"")

    @property
    def threshold_bits(self) -> float | None:
        """The threshold in bits; None if the rule has no threshold."""
        return None if self.threshold is None else self.threshold / math.log(2)


class PatchingConfig(PatchOptions):
    """The patching of a recipe: a rule. Its threshold is calibrated on the corpus unless it is given."""

    target_bytes: Annotated[float, Field(ge=1, le=65_536)] | None = None
    """Mean bytes per patch. Calibration chooses `threshold` (or `rise` for kind `monotonic`) to reach it."""
    threshold: float | None = None
    """In nats."""
    rise: float | None = None
    """In nats."""
    sample_bytes: Positive = 1_000_000
    """Bytes of the corpus that calibration uses."""

    @property
    def calibrated(self) -> str | None:
        """Name of the field that calibration must set; None if the rule is complete without it."""
        return self.limit if self.limit and getattr(self, self.limit) is None else None

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
        """The complete rule. The keyword is the field that calibration has set: `threshold` or `rise`, in nats."""
        return RuleConfig(**(self.model_dump(include=set(RuleConfig.model_fields)) | calibrated))
