"""The colour scale of patches, and the summary lines below a patched text."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .patched import Patch, PatchedText


# From cool (low entropy) to warm (high entropy), of equal lightness (OKLCH 0.70, chroma 0.125).
BITS = ("#00b5bd", "#37abde", "#769dec", "#ab8ce0", "#d27eb7", "#e17c85", "#dc8653")
NEUTRAL = "#9aa0a6"
ACCENT = "#e8590c"


@dataclass(frozen=True)
class Scale:
    """Maps the entropies of a text to colours, in equal steps from the lowest entropy to the highest."""

    low: float
    """Lowest entropy in bits."""
    high: float

    @classmethod
    def of(cls, patches: "Iterable[Patch]") -> "Scale | None":
        """The scale of these patches; None if no patch was opened by an entropy."""
        bits = [patch.entropy_bits for patch in patches if patch.entropy_bits is not None]
        return cls(min(bits), max(bits)) if bits else None

    @property
    def levels(self) -> tuple[int, ...]:
        """The indices of `BITS` in use, from low to high."""
        return tuple(range(len(BITS))) if self.high > self.low else (len(BITS) // 2,)

    @property
    def ends(self) -> tuple[str, str]:
        """Labels of the first and the last colour."""
        return f"{self.low:.1f}", f"{self.high:.1f} bits"


def level(scale: Scale | None, patch: "Patch") -> int | None:
    """The colour of a patch as an index of `BITS`; None, which means grey, if no entropy opened the patch."""
    if scale is None or patch.entropy_bits is None:
        return None
    if scale.high <= scale.low:
        return len(BITS) // 2
    part = (patch.entropy_bits - scale.low) / (scale.high - scale.low)
    return max(0, min(int(part * len(BITS)), len(BITS) - 1))


def summary(patched: "PatchedText") -> str:
    """One line: number and mean length of the patches, and the threshold if there is one."""
    return totals(len(patched), len(patched.data), patched.threshold_bits, patched.summed)


def totals(patches: int, size: int, threshold_bits: float | None, summed: bool) -> str:
    """The line of `summary` from plain numbers; `size` is in bytes, `summed` as in PatchedText."""
    mean = size / patches if patches else 0.0
    words = f"{patches:,} patch{'es' * (patches != 1)}, mean {mean:.2f} bytes"
    if threshold_bits is None:
        return words
    return f"{words} · threshold {threshold_bits:.2f} bits{', summed over a patch' * summed}"


def token_summary(patched: "PatchedText") -> str:
    """One line: bytes, characters, number of tokens and mean bytes per token; empty if there are no tokens."""
    if patched.tokens is None:
        return ""
    size, count = len(patched.data), len(patched.tokens.pieces)
    characters = len(patched.data.decode("utf-8", "replace"))
    mean = f", mean {size / count:.2f} bytes" if count else ""
    about = f" ({patched.tokens.about})" if patched.tokens.about else ""
    return f"{size:,} bytes, {characters:,} characters · {count:,} tokens of {patched.tokens.name}{about}{mean}"
