"""The JSON of answers: of completions, and of chat."""

import json
import secrets
import time
from collections.abc import Callable
from typing import Any, Protocol

from ..infer.writer import Stats
from .choice import Piece, finite, token, tops_of
from .schema import to_base64
from .scoring import Entry

dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
"""JSON without spaces. One encoder serves all: `json.dumps` would make one for each chunk."""


class Form(Protocol):
    """How the pieces of an answer are written."""

    object: str
    chunk_object: str
    prefix: str
    top: int | None
    """Alternatives to each byte; None for no log-probabilities."""

    def opening(self) -> Callable[[int], dict[str, Any]] | None:
        """What a stream says of each choice before its first piece."""

    def choice(self, index: int, piece: Piece) -> dict[str, Any]:
        """A whole choice."""

    def chunk(self, index: int, piece: Piece) -> dict[str, Any]:
        """What a stream adds to a choice."""


class Envelope:
    """What is the same in all chunks of an answer."""

    def __init__(self, form: Form, model: str) -> None:
        self.form = form
        self.head = {"id": f"{form.prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._begin = dumps({**self.head, "object": form.chunk_object})[:-1]

    def whole(self, pieces: list[Piece], usage: dict[str, int]) -> dict[str, Any]:
        choices = [self.form.choice(index, piece) for index, piece in enumerate(pieces)]
        return {**self.head, "object": self.form.object, "choices": choices, "usage": usage}

    def chunk(self, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> str:
        """Of a stream, as JSON."""
        return f'{self._begin},"choices":{dumps(choices)},"usage":{dumps(usage)}}}'


class CompletionForm:
    """`text_completion`: a chunk has the form of the whole."""

    object = chunk_object = "text_completion"
    prefix = "cmpl"

    def __init__(self, top: int | None) -> None:
        self.top = top

    def opening(self) -> None:
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
    """`chat.completion`, and its chunks with a `delta`."""

    object, chunk_object = "chat.completion", "chat.completion.chunk"
    prefix = "chatcmpl"

    def __init__(self, top: int | None) -> None:
        self.top = top

    def opening(self) -> Callable[[int], dict[str, Any]]:
        return lambda index: self._choice(index, Piece(), "delta", {"role": "assistant", "content": ""})

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
    """Bytes, where others count tokens; a prompt counts once however many choices follow it."""
    prompted, written = sum(map(len, prompts)), sum(text.bytes for text in stats)
    return {
        "prompt_tokens": prompted,
        "completion_tokens": written,
        "total_tokens": prompted + written,
        "patches": sum(text.patches for text in stats),
    }
