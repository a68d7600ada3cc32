"""The one-line summary of a model."""

from collections.abc import Sequence

from ..config import RuleConfig
from ..model.blt import BLT


def summary(model: BLT, rule: RuleConfig, languages: Sequence[str] = ()) -> str:
    """One line: shapes, numbers of parameters, patching rule, languages if known, number type and device."""
    parts = (("encoder", "encoder"), ("latent", "latent transformer"), ("decoder", "decoder"))
    stacks = ((name, getattr(model.config, part)) for part, name in parts)
    shape = ", ".join(f"{name} {stack.layers} x {stack.dim}" for name, stack in stacks)
    total = sum(weight.numel() for weight in model.parameters())
    tables = sum(weight.numel() for weight in model.encoder.hash.parameters()) if model.encoder.hash else 0
    fields = type(rule).model_fields
    given = ((name, value) for name, value in rule if name == "kind" or value != fields[name].default)
    by = ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in given)
    weight = next(model.parameters())
    spoken = f"languages {', '.join(languages)}; " if languages else ""
    return (
        f"LM({shape}; {total:,} parameters, {tables:,} of them in n-gram tables; patching by {by}; {spoken}"
        f"{str(weight.dtype).removeprefix('torch.')} on {weight.device})"
    )
