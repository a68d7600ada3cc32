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


def one_line(error: ValidationError) -> str:
    """A validation error as one line a field."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()
    )
