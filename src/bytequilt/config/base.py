"""The base class of all configurations, and `UserError`, the error that a caller can correct."""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

Positive = Annotated[int, Field(gt=0, le=2**48)]
Whole = Annotated[int, Field(ge=0, le=2**48)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Config(BaseModel):
    """Base class of all configurations. Instances are frozen. Unknown fields, infinities and NaN are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _can_be_written(cls, value: Any) -> Any:
        """Raise ValueError for strings with lone surrogates: files are UTF-8, which cannot encode them."""
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError("must be text that UTF-8 can write")
        return value

    def __deepcopy__(self, memo: object = None) -> Self:
        return self  # frozen values need no copy


class UserError(Exception):
    """An error that the caller can correct. The command line prints its message as one line and exits with code 2."""


LONGEST_LINE = 300  # maximum number of characters in a message
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # the two byte order marks of UTF-16


def one_line(error: Exception) -> str:
    """The message of an error, on one line of at most 300 characters; a ValidationError names all wrong fields."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, ValidationError):
        parts = ((".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")) for e in error.errors())
        text = "; ".join(f"{field}: {message}" if field else message for field, message in parts)
    else:
        text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return shorten(text)


def shorten(text: str) -> str:
    """The text on one line. A line of more than 300 characters is cut and ends with `...`."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 3] + "..."


def library(name: str, missing: str) -> Any:
    """An optional module. Raises UserError with the line `missing`, which names the extra to install."""
    try:
        return import_module(name)
    except ImportError:
        raise UserError(missing) from None


def as_bytes(text: str | bytes | bytearray | memoryview) -> bytes:
    """Encode a string as UTF-8; return bytes unchanged.

    In strings from the command line and the file system, lone surrogates stand for bytes that are not UTF-8. They are
    converted back to these bytes. Raises UserError for any other type.
    """
    if isinstance(text, bytes | bytearray | memoryview):
        return bytes(text)
    if not isinstance(text, str):
        raise UserError(f"a text must be str or bytes, not {type(text).__name__}")
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a lone surrogate that does not stand for a byte
        return text.encode("utf-8", "surrogatepass")


def read_text(path: Path) -> str:
    """Read a UTF-8 file, without its byte order mark. Raises UserError if it cannot be read or is not UTF-8."""
    try:
        data = path.read_bytes()
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text but {foreign(data)}; save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read {str(path)[:100]}: {error.strerror}") from None


def foreign(data: bytes) -> str | None:
    """None if the bytes are valid UTF-8; otherwise a short description of them for messages."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return "UTF-16" if data[:2] in UTF_16 else f"other bytes (byte {error.start})"
    return None


def is_file(path: Path) -> bool:
    """True if the path is an existing file. A name that no file can have gives False, not an error."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
