"""`PatchedText`: a text cut into patches, for display and as JSON."""

from collections.abc import Iterator, Mapping
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
    """A text and its patches. Its `repr` is coloured in a terminal; in a notebook it is a figure."""

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
