"""Decodes the bytes of a choice into pieces of text while the choice is generated."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..codec import TextStream
from ..infer.writer import Step
from .scoring import Entry, Top

LEAST = -9999.0  # stands for minus infinity, which JSON does not have
END = "<eos>"


@dataclass
class Piece:
    """A part of a choice that was added at once, or the whole choice."""

    text: str = ""
    """New text. A piece has whole characters only; the texts of all pieces join to the decoding of all bytes."""
    data: bytes = b""
    entries: list[Entry] = field(default_factory=list)
    """One for each byte, if the request asks for log-probabilities."""
    offsets: list[int] = field(default_factory=list)
    """Position of each entry, in characters of the choice's text."""
    finish_reason: str | None = None


class Choice:
    """Converts the bytes of a choice to pieces of text, as the bytes arrive."""

    def __init__(self) -> None:
        self._stream, self._characters = TextStream(), 0

    def add(self, data: bytes, entries: Sequence[Entry] = (), finish_reason: str | None = None) -> Piece:
        """Decode new bytes to a piece. A piece with a finish reason is the last piece."""
        piece = Piece(data=data, entries=list(entries), finish_reason=finish_reason)
        if entries:
            for at in range(len(data)):
                piece.offsets.append(self._take(piece, data[at : at + 1]))
            piece.offsets += [self._characters] * (len(entries) - len(data))
        else:
            self._take(piece, data)
        if finish_reason is not None:
            piece.text += self._stream.close()
        return piece

    def _take(self, piece: Piece, data: bytes) -> int:
        """Decode more bytes into `piece`. Return the position of the character that contains the newest byte."""
        text = self._stream.feed(data)
        piece.text += text
        self._characters += len(text)
        return self._characters - bool(text)


def entries_of(steps: list[Step]) -> list[Entry]:
    """The log-probabilities of the bytes of these steps."""
    entries = []
    for step in steps:
        tops = step.top_logprobs or ((),) * len(step.data)
        entries += [Entry(*entry) for entry in zip(step.data, step.logprobs, tops, strict=True)]
    return entries


def finish_reason_of(step: Step) -> str | None:
    """The finish reason in OpenAI's terms (`eos` becomes "stop"); None if the text is not finished."""
    return "stop" if step.finish_reason == "eos" else step.finish_reason


def token(byte: int | None) -> str:
    """A byte in OpenAI's notation: an ASCII character, else `bytes:\\xNN`. None means the end of the text."""
    if byte is None:
        return END
    return chr(byte) if byte < 0x80 else f"bytes:\\x{byte:02x}"


def tops_of(entry: Entry, count: int) -> Top:
    """The `count` most likely bytes, and also the entry's own byte if it is not among them."""
    top = entry.top[:count]
    return top if any(byte == entry.byte for byte, _ in top) else (*top, (entry.byte, entry.logprob))


def finite(logprob: float) -> float:
    return max(logprob, LEAST)
