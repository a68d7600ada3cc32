"""A choice of an answer as it grows: its bytes, and the text that they are so far."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..codec import TextStream
from ..infer.writer import Step
from .scoring import Entry, Top

LEAST = -9999.0  # stands for minus infinity, which JSON has not
END = "<eos>"


@dataclass
class Piece:
    """What came to a choice at once, or all of it."""

    text: str = ""
    """Joined over the pieces of a choice, the decoding of all its bytes: characters come whole."""
    data: bytes = b""
    entries: list[Entry] = field(default_factory=list)
    """One for each byte, where log-probabilities were asked for."""
    offsets: list[int] = field(default_factory=list)
    """Of the entries: in characters of the choice's text."""
    finish_reason: str | None = None

    def __add__(self, other: "Piece") -> "Piece":
        return Piece(
            self.text + other.text,
            self.data + other.data,
            self.entries + other.entries,
            self.offsets + other.offsets,
            other.finish_reason,
        )


class Choice:
    """Turns bytes into pieces of text, as they come."""

    def __init__(self) -> None:
        self._stream, self._characters = TextStream(), 0

    def add(self, data: bytes, entries: Sequence[Entry] = (), finish_reason: str | None = None) -> Piece:
        """The piece that these bytes make; with a reason it is the last one."""
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
        """Decode further; where the character starts that the newest byte belongs to."""
        text = self._stream.feed(data)
        piece.text += text
        self._characters += len(text)
        return self._characters - bool(text)


def entries_of(steps: list[Step]) -> list[Entry]:
    """Log-probabilities of the bytes of some steps."""
    entries = []
    for step in steps:
        tops = step.top_logprobs or ((),) * len(step.data)
        entries += [Entry(*entry) for entry in zip(step.data, step.logprobs, tops, strict=True)]
    return entries


def finish_reason_of(step: Step) -> str | None:
    """The finish reason in OpenAI's words, where `eos` is "stop"; None while the text goes on."""
    return "stop" if step.finish_reason == "eos" else step.finish_reason


def token(byte: int | None) -> str:
    """A byte as OpenAI writes it: a character of ASCII, or `bytes:\\xNN` for one that is no character alone."""
    if byte is None:
        return END
    return chr(byte) if byte < 0x80 else f"bytes:\\x{byte:02x}"


def tops_of(entry: Entry, count: int) -> Top:
    """The `count` likeliest bytes, and the entry's own byte where it is not among them."""
    top = entry.top[:count]
    return top if any(byte == entry.byte for byte, _ in top) else (*top, (entry.byte, entry.logprob))


def finite(logprob: float) -> float:
    return max(logprob, LEAST)
