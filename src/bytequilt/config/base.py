"""The base of all configurations, and the error that a caller can put right."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

Positive = Annotated[int, Field(gt=0, le=2**48)]
Whole = Annotated[int, Field(ge=0, le=2**48)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Config(BaseModel):
    """Base of all configurations: frozen, closed to fields it does not know, and without infinities or NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _can_be_written(cls, value: Any) -> Any:
        """Configurations are kept as UTF-8, which has no lone surrogates."""
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError("must be text that UTF-8 can write")
        return value

    def __deepcopy__(self, memo: object = None) -> Self:
        return self  # frozen values need no copy


class UserError(Exception):
    """Something the caller can put right: the command line prints it as one line and exits with 2."""


LONGEST_LINE = 300  # characters of a message
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # its byte order marks


def one_line(error: Exception) -> str:
    """What an error says, on one line of at most 300 characters; of a validation error, a part for each field."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, ValidationError):
        parts = ((".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")) for e in error.errors())
        text = "; ".join(f"{field}: {message}" if field else message for field, message in parts)
    else:
        text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return shorten(text)


def shorten(text: str) -> str:
    """A text on one line of at most 300 characters."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 3] + "..."


def as_bytes(text: str | bytes | bytearray | memoryview) -> bytes:
    """UTF-8 of a string, or the bytes themselves.

    Lone surrogates, which the command line and the file system use for bytes that are not UTF-8, give those bytes back.
    Raises UserError for what is neither.
    """
    if isinstance(text, bytes | bytearray | memoryview):
        return bytes(text)
    if not isinstance(text, str):
        raise UserError(f"a text must be str or bytes, not {type(text).__name__}")
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return text.encode("utf-8", "surrogatepass")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises UserError where it cannot be read."""
    try:
        data = path.read_bytes()
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text but {foreign(data)}; save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read {str(path)[:100]}: {error.strerror}") from None


def foreign(data: bytes) -> str | None:
    """What bytes are that are not UTF-8, in words; None of those that are."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return "UTF-16" if data[:2] in UTF_16 else f"other bytes (byte {error.start})"
    return None


def is_file(path: Path) -> bool:
    """Whether there is such a file; False also for names that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
