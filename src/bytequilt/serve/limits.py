"""Limits of single requests, and of all requests together."""

from typing import Annotated

from pydantic import Field

from ..config.base import Config, Positive

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Limits(Config):
    """Upper bounds for everything that requests could make grow."""

    rows: Positive = 16
    """Maximum number of texts of one model that are generated at the same time, one per row."""
    queue: Annotated[int, Field(ge=0)] = 64
    """Maximum number of texts of one model that wait for a row. More texts are refused."""
    prompt_bytes: Positive = 65_536
    """Maximum bytes of a prompt."""
    output_bytes: Positive = 16_384
    """Maximum bytes to generate for one text."""
    patch_bytes: Positive = 16_384
    """Maximum bytes of a text for /v1/patches."""
    body_bytes: Positive = 1_048_576
    """Maximum bytes of the body of a request."""
    seconds: Seconds = 600.0
    """Maximum time from the arrival of a request to the end of its text."""
    unread: Positive = 4096
    """Maximum bytes of a text that wait for a slow reader. With more, the text is dropped."""
    rate: Annotated[int, Field(ge=0)] = 0
    """Maximum requests per minute of one key, or of one address if there are no keys; 0: no limit."""
    requests: Positive = 1024
    """Maximum number of requests in progress, including streams."""
    grace: Seconds = 30.0
    """Time for running texts to end after SIGTERM."""
    stall: Seconds = 120.0
    """An engine that has work but makes no step for this time has failed."""
