"""`PatchedText`: a text cut into patches, for display and as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Patch:
    """One patch of a text."""

    start: int
    """Byte offset in the text."""
    length: int
    """Length in bytes."""
    data: bytes
    entropy_bits: float | None
    """The entropy of the first byte, if it opened the patch. None for the first patch of a text, and if something else
    opened the patch: a space, a stride, a digit, the maximum length."""

    @property
    def text(self) -> str:
        """The patch as text; incomplete or invalid characters become U+FFFD."""
        return self.data.decode("utf-8", "replace")

    def json(self) -> dict[str, Any]:
        """The patch as a dictionary for JSON."""
        return {
            "start": self.start,
            "length": self.length,
            "text": self.text,
            "hex": self.data.hex(),
            "entropy_bits": self.entropy_bits,
        }


@dataclass(frozen=True)
class Tokens:
    """The tokens of the same text by a tokenizer."""

    name: str
    pieces: tuple[tuple[int, int], ...]
    """Start and length of each token in bytes, in order. Bytes without a token are left out."""
    about: str = ""
    """A short description of the tokenizer for people."""

    def runs(self, size: int) -> list[tuple[int, bool]]:
        """The tokens and the gaps between them, in a text of `size` bytes: (start, True for a token)."""
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
    """A text and its patches. Its `repr` is coloured in a terminal; in a notebook it is a figure.

    Raises ValueError if the patches do not join to the text, if the number of entropies differs from the number of
    bytes, or if tokens overlap or exceed the text.
    """

    data: bytes
    patches: tuple[Patch, ...]
    threshold_bits: float | None
    """The threshold in bits that an entropy (with `summed`, a sum of entropies) exceeds to start a patch, or None."""
    entropy_bits: tuple[float, ...] | None
    """For each byte, the entropy in bits of the distribution that predicts it; None if the rule needs no entropy."""
    tokens: Tokens | None = None
    """Tokens to show beside the patches."""
    summed: bool = False
    """True for kind `budget`: the threshold applies to the sum of the patch's entropies and that of the next byte."""

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
        """A text cut before each byte in `starts`: in rising order from 0, or empty for an empty text.

        `entropy_bits`, one per byte, are given if entropies opened all patches. Raises ValueError as the class does.
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
        """Mean bytes per patch; 0.0 for an empty text."""
        return len(self.data) / len(self.patches) if self.patches else 0.0

    def json(self) -> dict:
        """A dictionary for JSON, without the entropies inside patches. `hex` is exact for any bytes, `text` is not."""
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
        """Restore the result of `json`, without tokens. The caller may add `summed` to the dictionary."""
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
