"""What colours mean, and the line of words below every picture."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .patched import Patch, PatchedText


# One colour a bit, of equal lightness (OKLCH 0.70, chroma 0.125), from easy and cool to hard and warm.
BITS = ("#00b5bd", "#37abde", "#769dec", "#ab8ce0", "#d27eb7", "#e17c85", "#dc8653")
NEUTRAL = "#9aa0a6"
ACCENT = "#e8590c"


def level(patch: "Patch") -> int | None:
    """Whole bits of the entropy that opened the patch, as an index of `BITS`; None where no entropy did."""
    return None if patch.entropy_bits is None else max(0, min(int(patch.entropy_bits), len(BITS) - 1))


def colour(patch: "Patch") -> str:
    """The colour of a patch, as #rrggbb."""
    at = level(patch)
    return NEUTRAL if at is None else BITS[at]


def has_levels(patched: "PatchedText") -> bool:
    """Whether the entropy colours appear, and need explaining."""
    return any(patch.entropy_bits is not None for patch in patched)


def summary(patched: "PatchedText") -> str:
    """Numbers of a patched text on one line."""
    words = f"{len(patched):,} patch{'es' * (len(patched) != 1)}, mean {patched.mean_patch_bytes:.2f} bytes"
    return words if patched.threshold_bits is None else f"{words} · threshold {patched.threshold_bits:.2f} bits"
