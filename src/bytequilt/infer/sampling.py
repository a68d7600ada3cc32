"""The fields of `Sampling` as keyword arguments, so that editors, notebooks and `help` can show them."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from inspect import Parameter, signature
from typing import Any, TypedDict

from ..config import UserError
from ..config.sampling import Sampling


class SamplingOptions(TypedDict, total=False):
    """Options of one generated text: the fields of `Sampling`. Their meaning is described there."""

    max_bytes: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int | None
    stop: str | bytes | Sequence[str | bytes] | None
    utf8: bool
    logprobs: bool
    logit_bias: dict[int, float] | None
    frequency_penalty: float
    presence_penalty: float
    top_logprobs: int


def shows_options(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: replaces `**options` in the signature of a method by the fields of `Sampling`, for notebooks and
    `help`."""
    shown = signature(method)
    kept = [p for p in shown.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
    options = [
        Parameter(f.name, Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type) for f in fields(Sampling)
    ]
    method.__signature__ = shown.replace(parameters=[*kept, *options])  # type: ignore[attr-defined]
    return method


def sampling_of(options: dict[str, Any]) -> Sampling:
    """Make a `Sampling` of keyword options. Raises UserError for an unknown name or a value out of range."""
    known = [field.name for field in fields(Sampling)]
    if unknown := sorted(set(options) - set(known)):
        raise UserError(f"no option {', '.join(unknown)[:100]}; there are speculate, {', '.join(known)}")
    return Sampling(**options)
