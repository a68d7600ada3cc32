"""Requests, with their limits: OpenAI's fields, those of other servers that make sense here, and no others."""

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ..config import UserError
from ..infer.sampling import Sampling
from .errors import BadRequest
from .limits import Limits


def _unicode(text: str) -> str:
    """Lone surrogates, which JSON can write, are no text."""
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("not valid Unicode; bytes that are no text go in base64")
    return text


def _byte(key: Any) -> Any:
    """The keys of a JSON object are texts."""
    return int(key) if isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) < 4 else key


Flag = Annotated[bool, Field(strict=True)]
Byte = Annotated[int, Field(strict=True, ge=0, le=255)]
Text = Annotated[str, AfterValidator(_unicode)]
Stop = Annotated[str, Field(min_length=1), AfterValidator(_unicode)]
Bias = Annotated[float, Field(strict=True, ge=-100, le=100, allow_inf_nan=False)]
Penalty = Annotated[float, Field(strict=True, ge=-2, le=2, allow_inf_nan=False)]


class Fields(BaseModel):
    """A field that there is not is an error: what is not done must not look as if it were. One of null is left out.

    Numbers and truth values are no texts, and neither is the other.
    """

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, fields: Any) -> Any:
        """Clients write null for what they do not ask for, and send messages back as they came."""
        return (
            {name: value for name, value in fields.items() if value is not None} if isinstance(fields, dict) else fields
        )


class Request(Fields):
    """What all requests have in common."""

    model: str | None = None
    """Which of the models; the first where it is left out."""
    user: str | None = None
    """Accepted, because clients send it; nothing depends on it."""


class StreamOptions(Fields):
    include_usage: Flag = False


class Generation(Request):
    """What completions and chat have in common."""

    temperature: Annotated[float, Field(strict=True, ge=0, le=100, allow_inf_nan=False)] = 1.0
    top_p: Annotated[float, Field(strict=True, ge=1e-6, le=1)] = 1.0
    top_k: Annotated[int, Field(strict=True, ge=0, lt=2**31)] = 0
    min_p: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, Field(strict=True, ge=0.01, le=100)] = 1.0
    logit_bias: (
        dict[
            Annotated[Byte, BeforeValidator(_byte)],
            Annotated[float, Field(strict=True, ge=-100, le=100, allow_inf_nan=False)],
        ]
        | None
    ) = None
    """By byte value, "0" to "255"."""
    seed: Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    n: Annotated[int, Field(strict=True, ge=1, le=128)] = 1
    utf8: Flag = False
    """Draw only what keeps the text valid UTF-8."""
    stream: Flag = False
    stream_options: StreamOptions | None = None

    def sampling(self, index: int, max_bytes: int, top: int | None, stops: Sequence[str] = ()) -> Sampling:
        """Options of choice `index` of a prompt. `top`: log-probabilities of so many likeliest bytes, None for none."""
        fields = {
            "max_bytes": max_bytes,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "seed": None if self.seed is None else (self.seed + index + 2**63) % 2**64 - 2**63,
            "stop": (*([self.stop] if isinstance(self.stop, str) else self.stop or ()), *stops),
            "utf8": self.utf8,
            "logprobs": top is not None,
            "logit_bias": self.logit_bias,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
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
    """A text, several, or the values 0 to 255 of its bytes."""
    prompt_b64: str | None = None
    """In place of `prompt`: any bytes, in base64."""
    max_tokens: Annotated[int, Field(strict=True, ge=0)] = 16
    """Bytes to generate at most."""
    echo: Flag = False
    logprobs: Annotated[int, Field(strict=True, ge=0, le=5)] | None = None
    suffix: str | None = None
    """Refused: the model writes from left to right."""

    def prompts(self) -> list[bytes]:
        """Each prompt as bytes."""
        if (self.prompt is None) == (self.prompt_b64 is None):
            raise BadRequest("give either prompt or prompt_b64", param="prompt")
        if self.prompt_b64 is not None:
            return [from_base64(self.prompt_b64, "prompt_b64")]
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt.encode()]
        if prompt and not isinstance(prompt[0], int):
            return [text.encode() if isinstance(text, str) else bytes(text) for text in prompt]
        return [bytes(prompt or ())]

    def check(self, limits: Limits) -> list[bytes]:
        """The prompts. Raises BadRequest for what is beyond the limits, or cannot be done."""
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
        """Its content, parts one after another."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Generation):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(strict=True, ge=0)] | None = None
    max_completion_tokens: Annotated[int, Field(strict=True, ge=0)] | None = None
    """Bytes to generate at most, 256 where neither is given."""
    logprobs: Flag = False
    top_logprobs: Annotated[int, Field(strict=True, ge=0, le=5)] | None = None

    @property
    def max_bytes(self) -> int:
        asked = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        return 256 if asked is None else asked

    def prompt(self) -> bytes:
        """The messages in the plain template: each with its role before it, and an empty line between them."""
        lines = [f"{message.name or message.role.capitalize()}: {message.text}" for message in self.messages]
        return "\n\n".join([*lines, "Assistant: "]).encode()

    def check(self, limits: Limits) -> bytes:
        """The prompt. Raises BadRequest for what is beyond the limits, or cannot be done."""
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
    """In place of the model's own threshold; for rules without one it is refused."""
    tokens: Text | None = None
    """Name of a tokenizer whose tokens are to be told, too."""
    compare: Flag = False
    """Whether the answer also has the patches of other rules, as long in the mean."""

    def check(self, limits: Limits) -> bytes:
        """The text. Raises BadRequest for what is beyond the limits."""
        if (self.input is None) == (self.input_b64 is None):
            raise BadRequest("give either input or input_b64", param="input")
        if self.input_b64 is not None:
            data = from_base64(self.input_b64, "input_b64")
        else:
            data = self.input.encode() if isinstance(self.input, str) else bytes(self.input or ())
        if len(data) > limits.patch_bytes:
            raise BadRequest(f"a text of {len(data)} bytes is longer than {limits.patch_bytes}", param="input")
        return data


def from_base64(text: str, param: str) -> bytes:
    """Raises BadRequest for what is no base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(f"{param} is no base64", param=param) from None


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def check_lengths(prompts: list[bytes], most: int, texts: int, limits: Limits, param: str) -> None:
    """Raises BadRequest for what can never be admitted."""
    if (longest := max(map(len, prompts), default=0)) > limits.prompt_bytes:
        raise BadRequest(f"a prompt of {longest} bytes is longer than {limits.prompt_bytes}", param="prompt")
    if most > limits.output_bytes:
        raise BadRequest(f"{param} may be at most {limits.output_bytes} bytes here, not {most}", param=param)
    if not 0 < texts <= limits.rows + limits.queue:
        raise BadRequest(f"a request asks for 1 to {limits.rows + limits.queue} texts here, not {texts}", param="n")
