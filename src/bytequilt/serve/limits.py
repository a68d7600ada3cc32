"""Limits of a single request, and of all requests together."""

from typing import Annotated

from pydantic import Field

from ..config.base import Config, Positive

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Limits(Config):
    """Everything that a request could make grow has a bound here."""

    rows: Positive = 16
    """Texts of one model that are generated side by side."""
    queue: Annotated[int, Field(ge=0)] = 64
    """Texts of one model that wait for a row; more are refused."""
    prompt_bytes: Positive = 65_536
    """Longest prompt."""
    output_bytes: Positive = 16_384
    """Most bytes that one text may ask for."""
    patch_bytes: Positive = 16_384
    """Longest text whose patches are shown."""
    body_bytes: Positive = 1_048_576
    """Longest request."""
    seconds: Seconds = 600.0
    """Time from the arrival of a request to the end of its text."""
    unread: Positive = 4096
    """Bytes of a text that wait for a slow reader; then the text is dropped."""
    rate: Annotated[int, Field(ge=0)] = 0
    """Requests a minute of one key, or of one address where there are no keys; 0 is without limit."""
    requests: Positive = 1024
    """Requests that are answered at once, streams among them."""
    grace: Seconds = 30.0
    """Time that running texts have to end after SIGTERM."""
    stall: Seconds = 120.0
    """An engine that has work and takes no step for so long has failed."""
