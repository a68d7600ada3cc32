"""What colours mean, and the lines of words below every picture."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .patched import Patch, PatchedText


# From easy and cool to hard and warm, of equal lightness (OKLCH 0.70, chroma 0.125).
BITS = ("#00b5bd", "#37abde", "#769dec", "#ab8ce0", "#d27eb7", "#e17c85", "#dc8653")
NEUTRAL = "#9aa0a6"
ACCENT = "#e8590c"


@dataclass(frozen=True)
class Scale:
    """Colours for entropies: they span those that occur, from the lowest to the highest, in equal steps."""

    low: float
    """In bits, as is `high`."""
    high: float

    @classmethod
    def of(cls, patches: "Iterable[Patch]") -> "Scale | None":
        """None where no entropy opened any of the patches."""
        bits = [patch.entropy_bits for patch in patches if patch.entropy_bits is not None]
        return cls(min(bits), max(bits)) if bits else None

    def level(self, patch: "Patch") -> int | None:
        """An index of `BITS`; None for a patch that no entropy opened."""
        if patch.entropy_bits is None:
            return None
        if self.high <= self.low:
            return len(BITS) // 2
        part = (patch.entropy_bits - self.low) / (self.high - self.low)
        return max(0, min(int(part * len(BITS)), len(BITS) - 1))

    @property
    def levels(self) -> tuple[int, ...]:
        """The colours that there are, from low to high."""
        return tuple(range(len(BITS))) if self.high > self.low else (len(BITS) // 2,)

    @property
    def ends(self) -> tuple[str, str]:
        """What the first and the last colour stand for."""
        return f"{self.low:.1f}", f"{self.high:.1f} bits"


def level(scale: Scale | None, patch: "Patch") -> int | None:
    """The colour of a patch as an index of `BITS`; None where it is grey."""
    return None if scale is None else scale.level(patch)


def summary(patched: "PatchedText") -> str:
    """One line: count and mean length of the patches, and the threshold where there is one."""
    return totals(len(patched), len(patched.data), patched.threshold_bits, patched.summed)


def totals(patches: int, size: int, threshold_bits: float | None, summed: bool) -> str:
    """Count and mean length of the patches, and the threshold if any; `summed` as in PatchedText."""
    mean = size / patches if patches else 0.0
    words = f"{patches:,} patch{'es' * (patches != 1)}, mean {mean:.2f} bytes"
    if threshold_bits is None:
        return words
    return f"{words} · threshold {threshold_bits:.2f} bits{', summed over a patch' * summed}"


def token_summary(patched: "PatchedText") -> str:
    """One line: bytes, characters, token count and mean bytes of a token; empty where there are no tokens."""
    if patched.tokens is None:
        return ""
    size, count = len(patched.data), len(patched.tokens.pieces)
    characters = len(patched.data.decode("utf-8", "replace"))
    mean = f", mean {size / count:.2f} bytes" if count else ""
    about = f" ({patched.tokens.about})" if patched.tokens.about else ""
    return f"{size:,} bytes, {characters:,} characters · {count:,} tokens of {patched.tokens.name}{about}{mean}"
