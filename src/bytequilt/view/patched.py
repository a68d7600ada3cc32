"""A text cut into patches, as people see it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Patch:
    """A run of bytes of a text."""

    start: int
    """Where it starts, in bytes of the text."""
    length: int
    """In bytes."""
    data: bytes
    entropy_bits: float | None
    """That of its first byte, where it opened the patch; None for the first patch, and where something else did: a
    space, a stride, a digit, the longest length."""

    @property
    def text(self) -> str:
        """The patch as text; bytes that are no whole character become U+FFFD."""
        return self.data.decode("utf-8", "replace")

    def json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "start": self.start,
            "length": self.length,
            "text": self.text,
            "hex": self.data.hex(),
            "entropy_bits": self.entropy_bits,
        }


@dataclass(frozen=True)
class Tokens:
    """The same text as a tokenizer cuts it."""

    name: str
    pieces: tuple[tuple[int, int], ...]
    """Start and length of each token, in bytes of the text, in order; bytes that no token stands for are left out."""
    about: str = ""
    """What the tokenizer is, for people."""

    def runs(self, size: int) -> list[tuple[int, bool]]:
        """Where each token and each gap of a text of `size` bytes starts, and whether it is a token."""
        values: list[tuple[int, bool]] = []
        end = 0
        for start, length in (piece for piece in self.pieces if piece[1]):
            if start > end:
                values.append((end, False))
            values.append((start, True))
            end = start + length
        return [*values, (end, False)] if end < size else values


@dataclass(frozen=True, repr=False)
class PatchedText:
    """A text and its patches. Shows itself in colour in a terminal, and as a figure in a notebook.

    Raises ValueError where the patches are not the bytes of the text, cut, or the entropies are not one a byte.
    """

    data: bytes
    patches: tuple[Patch, ...]
    threshold_bits: float | None
    """What an entropy, or with `summed` a sum of them, must exceed for a patch to start; None where nothing must."""
    entropy_bits: tuple[float, ...] | None
    """How hard each byte was: the entropy of the distribution from which it was predicted."""
    tokens: Tokens | None = None
    """What to show beside the patches."""
    summed: bool = False
    """Whether the threshold is about the sum of a patch's entropies and that of the next byte, as in kind `budget`."""

    def __post_init__(self) -> None:
        at = 0
        for patch in self.patches:
            if patch.start != at or not 0 < patch.length == len(patch.data):
                raise ValueError(f"the patch at byte {patch.start} of {patch.length} bytes does not follow byte {at}")
            at += patch.length
        if b"".join(patch.data for patch in self.patches) != self.data:
            raise ValueError("the patches together are not the bytes of the text")
        if self.entropy_bits is not None and len(self.entropy_bits) != len(self.data):
            raise ValueError(f"{len(self.entropy_bits)} entropies for {len(self.data)} bytes")
        at = 0
        for start, length in self.tokens.pieces if self.tokens else ():
            if start < at or length < 0 or start + length > len(self.data):
                raise ValueError(f"the token at byte {start} of {length} bytes does not follow byte {at}")
            at = start + length

    @classmethod
    def cut(
        cls,
        data: bytes,
        starts: Sequence[int],
        *,
        entropy_bits: Sequence[float] | None = None,
        threshold_bits: float | None = None,
        summed: bool = False,
    ) -> "PatchedText":
        """A text cut before the bytes `starts`, which ascend from 0 (none for an empty text).

        Entropies are given where they decided, one a byte. Raises ValueError as the class does.
        """
        places = [int(start) for start in starts]
        if places[:1] != [0][: len(data)]:
            raise ValueError("the first patch of a text starts at byte 0, and an empty text has none")
        bits = None if entropy_bits is None else tuple(float(value) for value in entropy_bits)
        ends = [*places[1:], len(data)][: len(places)]
        patches = tuple(
            Patch(start, end - start, data[start:end], bits[start] if bits and 0 < start < len(bits) else None)
            for start, end in zip(places, ends, strict=True)
        )
        return cls(data, patches, threshold_bits, bits, summed=summed)

    @property
    def mean_patch_bytes(self) -> float:
        """Bytes per patch; 0.0 for an empty text."""
        return len(self.data) / len(self.patches) if self.patches else 0.0

    def json(self) -> dict:
        """Everything but the entropies inside patches, as JSON types. `hex` is exact where `text` cannot be."""
        values = {
            "text": self.data.decode("utf-8", "replace"),
            "mean_patch_bytes": self.mean_patch_bytes,
            "threshold_bits": self.threshold_bits,
            "patches": [patch.json() for patch in self.patches],
        }
        if self.tokens is not None:
            pieces = [{"start": start, "length": length} for start, length in self.tokens.pieces]
            values["tokens"] = {"name": self.tokens.name, "count": len(pieces), "pieces": pieces}
        return values

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "PatchedText":
        """What `json` gave, without the entropies inside patches and the tokens; `summed` where it was added."""
        patches = tuple(
            Patch(patch["start"], patch["length"], bytes.fromhex(patch["hex"]), patch["entropy_bits"])
            for patch in value["patches"]
        )
        data = b"".join(patch.data for patch in patches)
        return cls(data, patches, value["threshold_bits"], None, summed=value.get("summed", False))

    def __iter__(self) -> Iterator[Patch]:
        return iter(self.patches)

    def __len__(self) -> int:
        return len(self.patches)

    def __repr__(self) -> str:
        from .terminal import shown

        return shown(self)

    def _repr_html_(self) -> str:
        from .html import fragment

        return fragment(self)
