"""Schemas of requests, with their limits: fields of OpenAI, and fields of other servers that make sense here."""

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ..config import UserError
from ..data.chat import plain
from ..infer.sampling import Sampling
from .errors import BadRequest
from .limits import Limits


def _unicode(text: str) -> str:
    """Raise ValueError for lone surrogates: JSON can contain them, but they are not text."""
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("not valid Unicode; bytes that are no text go in base64")
    return text


def _byte(key: Any) -> Any:
    """Convert a JSON object key, which is always a string, to an int if it looks like a byte value."""
    return int(key) if isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) < 4 else key


Flag = Annotated[bool, Field(strict=True)]
Byte = Annotated[int, Field(strict=True, ge=0, le=255)]
Text = Annotated[str, AfterValidator(_unicode)]
Stop = Annotated[str, Field(min_length=1), AfterValidator(_unicode)]
Bias = Annotated[float, Field(strict=True, ge=-100, le=100, allow_inf_nan=False)]
Penalty = Annotated[float, Field(strict=True, ge=-2, le=2, allow_inf_nan=False)]
SHARED = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "utf8", "logit_bias"}
SHARED |= {"frequency_penalty", "presence_penalty"}
"""Fields of a request that are options of `Sampling` as they are."""


class Fields(BaseModel):
    """Base class of all JSON objects in requests. Unknown fields are errors, so that none is silently ignored.

    A field with the value null counts as absent. Types are not converted: a string is not a number, and a number is
    not a boolean.
    """

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, fields: Any) -> Any:
        """Remove fields with the value null. Clients send null for unset options and in messages they got."""
        given = isinstance(fields, dict)
        return {name: value for name, value in fields.items() if value is not None} if given else fields


class Request(Fields):
    """Fields of all requests."""

    model: str | None = None
    """Name of the model; the first model if absent."""
    user: str | None = None
    """Accepted because clients send it, but not used."""


class StreamOptions(Fields):
    include_usage: Flag = False


class Generation(Request):
    """Fields that completions and chat share."""

    temperature: Annotated[float, Field(strict=True, ge=0, le=100, allow_inf_nan=False)] = 1.0
    top_p: Annotated[float, Field(strict=True, ge=1e-6, le=1)] = 1.0
    top_k: Annotated[int, Field(strict=True, ge=0, lt=2**31)] = 0
    min_p: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, Field(strict=True, ge=0.01, le=100)] = 1.0
    logit_bias: dict[Annotated[Byte, BeforeValidator(_byte)], Bias] | None = None
    """Byte values, "0" to "255", each with a number that is added to its logit."""
    seed: Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    n: Annotated[int, Field(strict=True, ge=1, le=128)] = 1
    utf8: Flag = False
    """Sample only bytes that keep the text valid UTF-8."""
    stream: Flag = False
    stream_options: StreamOptions | None = None

    def sampling(self, index: int, max_bytes: int, top: int | None, stops: Sequence[str] = ()) -> Sampling:
        """Options of choice `index` of a prompt. `top`: number of most likely bytes to report, None for no logprobs."""
        fields = self.model_dump(include=SHARED) | {
            "max_bytes": max_bytes,
            "seed": None if self.seed is None else (self.seed + index + 2**63) % 2**64 - 2**63,
            "stop": (*([self.stop] if isinstance(self.stop, str) else self.stop or ()), *stops),
            "logprobs": top is not None,
            "top_logprobs": top or 0,
        }
        try:
            return Sampling(**fields)
        except UserError as error:
            raise BadRequest(str(error)) from None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


Prompt = Text | list[Byte] | list[Text] | list[list[Byte]]


class CompletionRequest(Generation):
    """POST /v1/completions."""

    prompt: Prompt | None = None
    """A text or a list of byte values (0 to 255), or a list of several texts or such lists."""
    prompt_b64: str | None = None
    """Instead of `prompt`: any bytes, in base64."""
    max_tokens: Annotated[int, Field(strict=True, ge=0)] = 16
    """Maximum bytes to generate."""
    echo: Flag = False
    logprobs: Annotated[int, Field(strict=True, ge=0, le=5)] | None = None
    suffix: str | None = None
    """Refused: the model generates from left to right only."""

    def prompts(self) -> list[bytes]:
        """Each prompt as bytes."""
        prompt = self.prompt
        several = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
        return [data_of(text, self.prompt_b64, "prompt") for text in (prompt if several else [prompt])]

    def check(self, limits: Limits) -> list[bytes]:
        """The prompts as bytes. Raises BadRequest if the request exceeds the limits or cannot be carried out."""
        if self.suffix is not None:
            raise BadRequest("suffix is not supported: the model writes from left to right", param="suffix")
        prompts = self.prompts()
        check_lengths(prompts, self.max_tokens, len(prompts) * self.n, limits, "max_tokens")
        return prompts


class Part(Fields):
    type: Literal["text"]
    text: Text


class Message(Fields):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part]
    name: Text | None = None

    @property
    def text(self) -> str:
        """The content as one string; parts are joined."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Generation):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(strict=True, ge=0)] | None = None
    max_completion_tokens: Annotated[int, Field(strict=True, ge=0)] | None = None
    """Maximum bytes to generate, also called `max_tokens`; 256 if neither is given."""
    logprobs: Flag = False
    top_logprobs: Annotated[int, Field(strict=True, ge=0, le=5)] | None = None

    @property
    def max_bytes(self) -> int:
        asked = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        return 256 if asked is None else asked

    def prompt(self) -> bytes:
        """The messages in the plain template: `Role: content` for each, separated by empty lines."""
        return plain([(message.name or message.role.capitalize(), message.text) for message in self.messages]).encode()

    def check(self, limits: Limits) -> bytes:
        """The prompt. Raises BadRequest if the request exceeds the limits or cannot be carried out."""
        if self.top_logprobs is not None and not self.logprobs:
            raise BadRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
        prompt = self.prompt()
        check_lengths([prompt], self.max_bytes, self.n, limits, "max_completion_tokens")
        return prompt


class PatchesRequest(Request):
    """POST /v1/patches."""

    input: Text | list[Byte] | None = None
    input_b64: str | None = None
    threshold_bits: Annotated[float, Field(strict=True, ge=-1e6, le=1e6, allow_inf_nan=False)] | None = None
    """Replaces the model's own threshold. Refused if the rule has no threshold."""
    tokens: Text | None = None
    """Name of a tokenizer. The answer then also has its tokens."""
    compare: Flag = False
    """Also give the patches of other rules, with about the same mean length."""

    def check(self, limits: Limits) -> bytes:
        """The text as bytes. Raises BadRequest if it is missing, given twice or too long."""
        data = data_of(self.input, self.input_b64, "input")
        if len(data) > limits.patch_bytes:
            raise BadRequest(f"a text of {len(data)} bytes is longer than {limits.patch_bytes}", param="input")
        return data


def data_of(text: str | list[int] | None, base_64: str | None, param: str) -> bytes:
    """The bytes of a text, given as it is or in base64. Raises BadRequest unless exactly one is given and valid."""
    if (text is None) == (base_64 is None):
        raise BadRequest(f"give either {param} or {param}_b64", param=param)
    if base_64 is None:
        return text.encode() if isinstance(text, str) else bytes(text or ())
    try:
        return base64.b64decode(base_64, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(f"{param}_b64 is no base64", param=f"{param}_b64") from None


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def check_lengths(prompts: list[bytes], most: int, texts: int, limits: Limits, param: str) -> None:
    """Raises BadRequest for a request that exceeds a limit, so that it could never be admitted."""
    if (longest := max(map(len, prompts), default=0)) > limits.prompt_bytes:
        raise BadRequest(f"a prompt of {longest} bytes is longer than {limits.prompt_bytes}", param="prompt")
    if most > limits.output_bytes:
        raise BadRequest(f"{param} may be at most {limits.output_bytes} bytes here, not {most}", param=param)
    if not 0 < texts <= limits.rows + limits.queue:
        raise BadRequest(f"a request asks for 1 to {limits.rows + limits.queue} texts here, not {texts}", param="n")
