"""The JSON of answers, for completions and for chat."""

import json
import secrets
import time
from typing import Any, Protocol

from ..infer.writer import Stats
from .choice import Piece, finite, token, tops_of
from .schema import to_base64
from .scoring import Entry

dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
"""Encodes JSON without spaces. All chunks share one encoder; `json.dumps` would create one per chunk."""


class Form(Protocol):
    """The format of the choices of an answer."""

    object: str
    chunk_object: str
    prefix: str
    top: int | None
    """Number of most likely bytes to list at each byte; None: no log-probabilities."""

    def opening(self, index: int) -> dict[str, Any] | None:
        """The first chunk of a choice in a stream, before any text; None if there is none."""

    def choice(self, index: int, piece: Piece) -> dict[str, Any]:
        """The JSON of a whole choice."""

    def chunk(self, index: int, piece: Piece) -> dict[str, Any]:
        """The JSON of a piece of a choice in a stream."""


class Envelope:
    """The fields around the choices. They are the same in all chunks of an answer, and are encoded once."""

    def __init__(self, form: Form, model: str) -> None:
        self.form = form
        self.head = {"id": f"{form.prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._begin = dumps({**self.head, "object": form.chunk_object})[:-1]

    def whole(self, pieces: list[Piece], usage: dict[str, int]) -> dict[str, Any]:
        choices = [self.form.choice(index, piece) for index, piece in enumerate(pieces)]
        return {**self.head, "object": self.form.object, "choices": choices, "usage": usage}

    def chunk(self, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> str:
        """A chunk of a stream, as a JSON string."""
        return f'{self._begin},"choices":{dumps(choices)},"usage":{dumps(usage)}}}'


class CompletionForm:
    """The form `text_completion`. A chunk has the same form as a whole choice."""

    object = chunk_object = "text_completion"
    prefix = "cmpl"

    def __init__(self, top: int | None) -> None:
        self.top = top

    def opening(self, index: int) -> None:
        return None

    def choice(self, index: int, piece: Piece) -> dict[str, Any]:
        return {
            "index": index,
            "text": piece.text,
            "bytes_b64": to_base64(piece.data),
            "logprobs": None if self.top is None else self._logprobs(piece, self.top),
            "finish_reason": piece.finish_reason,
        }

    chunk = choice

    def _logprobs(self, piece: Piece, count: int) -> dict[str, Any]:
        return {
            "tokens": [token(entry.byte) for entry in piece.entries],
            "token_logprobs": [finite(entry.logprob) for entry in piece.entries],
            "top_logprobs": [{token(byte): finite(p) for byte, p in tops_of(entry, count)} for entry in piece.entries],
            "text_offset": piece.offsets,
        }


class ChatForm:
    """The form `chat.completion`. Its chunks have a `delta` instead of a `message`."""

    object, chunk_object = "chat.completion", "chat.completion.chunk"
    prefix = "chatcmpl"

    def __init__(self, top: int | None) -> None:
        self.top = top

    def opening(self, index: int) -> dict[str, Any]:
        return self._choice(index, Piece(), "delta", {"role": "assistant", "content": ""})

    def choice(self, index: int, piece: Piece) -> dict[str, Any]:
        return self._choice(index, piece, "message", {"role": "assistant", "content": piece.text, "refusal": None})

    def chunk(self, index: int, piece: Piece) -> dict[str, Any]:
        return self._choice(index, piece, "delta", {"content": piece.text})

    def _choice(self, index: int, piece: Piece, name: str, message: dict[str, Any]) -> dict[str, Any]:
        logprobs = None
        if self.top is not None:
            logprobs = {"content": [self._entry(entry, self.top) for entry in piece.entries], "refusal": None}
        return {
            "index": index,
            name: message,
            "bytes_b64": to_base64(piece.data),
            "logprobs": logprobs,
            "finish_reason": piece.finish_reason,
        }

    def _entry(self, entry: Entry, count: int) -> dict[str, Any]:
        top = [_token(byte, p) for byte, p in entry.top[:count]]
        return {**_token(entry.byte, entry.logprob), "top_logprobs": top}


def _token(byte: int | None, logprob: float) -> dict[str, Any]:
    return {"token": token(byte), "logprob": finite(logprob), "bytes": [] if byte is None else [byte]}


def usage_of(prompts: list[bytes], stats: list[Stats]) -> dict[str, int]:
    """The `usage` of an answer, in bytes instead of tokens. A prompt with several choices counts once."""
    prompted, written = sum(map(len, prompts)), sum(text.bytes for text in stats)
    return {
        "prompt_tokens": prompted,
        "completion_tokens": written,
        "total_tokens": prompted + written,
        "patches": sum(text.patches for text in stats),
    }
