"""What all configurations are: frozen values. A misspelt or unread field is an error."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Positive = Annotated[int, Field(gt=0)]


class Config(BaseModel):
    """Base of all configurations: frozen, and closed to fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def __deepcopy__(self, memo: object = None) -> Self:
        return self  # it cannot change


class UserError(Exception):
    """Something the caller can put right: the command line prints it as one line and exits with 2."""


LONGEST_LINE = 300  # characters of a message


def one_line(error: Exception) -> str:
    """What an error says, on one line of at most 300 characters; of a validation error, a part for each field."""
    if isinstance(error, ValidationError):
        parts = ((".".join(map(str, e["loc"])) or "recipe", e["msg"]) for e in error.errors())
        text = "; ".join(f"{field}: {message.removeprefix('Value error, ')}" for field, message in parts)
    else:
        text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_LINE else text[: LONGEST_LINE - 3] + "..."
