"""Where patches start: rules, and how a recipe finds their thresholds."""

from typing import Literal

from pydantic import model_validator

from .base import Config, Positive

PatchKind = Literal["entropy", "monotonic", "combined", "space", "fixed", "byte"]
ENTROPY_KINDS = ("entropy", "monotonic", "combined")

RULE_FIELDS = {"threshold": ("entropy", "combined"), "rise": ("monotonic", "combined"), "stride": ("fixed",)}
"""Fields of a rule that some kinds need, and the others do not take."""


def check_rule_fields(kind: str, fields: dict[str, float | None]) -> None:
    """Raises ValueError where a kind of patching lacks a field, or has one that it does not read."""
    for name, kinds in RULE_FIELDS.items():
        if (kind in kinds) != (fields[name] is not None):
            raise ValueError(f"patching of kind '{kind}' {'needs' if kind in kinds else 'takes no'} `{name}`")


class RuleConfig(Config):
    """Where a new patch starts. Entropies are in nats here and in files; people read bits."""

    kind: PatchKind = "entropy"
    """entropy: above `threshold`; monotonic: `rise` above the one before; combined: both. The rest need none."""
    threshold: float | None = None
    rise: float | None = None
    stride: Positive | None = None
    """Bytes per patch of kind `fixed`."""
    max_length: Positive | None = None
    """Longest patch in bytes; longer ones are cut from the left."""

    @model_validator(mode="after")
    def _fields_fit_kind(self) -> "RuleConfig":
        check_rule_fields(self.kind, {name: getattr(self, name) for name in RULE_FIELDS})
        return self

    @property
    def needs_entropy(self) -> bool:
        return self.kind in ENTROPY_KINDS


class PatchingConfig(Config):
    """How a recipe patches: a rule whose threshold is calibrated on the corpus unless it is given."""

    kind: PatchKind = "entropy"
    target_bytes: float | None = None
    """Mean bytes per patch to calibrate to; gives `threshold` (or `rise` for kind `monotonic`)."""
    threshold: float | None = None
    """In nats."""
    rise: float | None = None
    """In nats."""
    stride: Positive | None = None
    max_length: Positive | None = None
    sample_bytes: Positive = 1_000_000
    """Bytes of the corpus that calibration looks at."""

    @property
    def calibrated(self) -> str | None:
        """Name of the field that calibration fills, or None where the rule is complete as it stands."""
        name = {"entropy": "threshold", "combined": "threshold", "monotonic": "rise"}.get(self.kind)
        return name if name and getattr(self, name) is None else None

    @model_validator(mode="after")
    def _target_fits(self) -> "PatchingConfig":
        if self.calibrated and self.target_bytes is None:
            raise ValueError(f"patching of kind '{self.kind}' needs `{self.calibrated}` or `target_bytes`")
        if not self.calibrated and self.target_bytes is not None:
            raise ValueError(f"patching of kind '{self.kind}' has nothing left to calibrate with `target_bytes`")
        found = {self.calibrated: 0.0} if self.calibrated else {}
        check_rule_fields(self.kind, {name: getattr(self, name) for name in RULE_FIELDS} | found)
        return self

    @property
    def needs_entropy(self) -> bool:
        return self.kind in ENTROPY_KINDS

    def rule(self, **found: float) -> RuleConfig:
        """The rule itself, with what calibration found."""
        names = ("kind", "threshold", "rise", "stride", "max_length")
        return RuleConfig(**({name: getattr(self, name) for name in names} | found))
