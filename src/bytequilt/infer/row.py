"""What a session knows of one of its texts."""

from typing import Any

from ..codec import BOS, OFFSET
from ..model.blt import BLT
from ..model.cache import StackCache, Tape
from ..patching import rules
from ..patching.patcher import Patcher


class Row:
    """Where the patches of a text end, and the past of the latent transformer."""

    def __init__(self, model: BLT, patcher: Patcher, reserve: int) -> None:
        self.reserve = reserve
        self.rule = rules.Stream(patcher.rule)
        self.length = 0
        """Bytes of the patch that the newest byte lies in."""
        self.closed = True
        """Whether the newest byte closed it."""
        self.patches = 0
        """Complete patches, which the latent transformer has seen or is about to see."""
        self.text_patches = 0
        """Patches so far that begin with a byte of text, the open one among them."""
        self.latent = StackCache(model.config.latent, reserve)
        self.latents = Tape(1, reserve + 1)
        """Latents (1, patches, D) of the newest complete patches."""
        self.marks = [self._mark()]
        """Where the text stood after each byte that a crop may go back to, the newest last."""

    @property
    def held(self) -> int:
        """Bytes of the open patch, whose states wait for its end."""
        return 0 if self.closed else self.length

    @property
    def wanted(self) -> int:
        """Byte states to keep: those of the open patch, here and wherever a crop may lead."""
        if not self.reserve:
            return self.held
        return max(back + (0 if closed else length) for back, (_, length, closed, *_) in enumerate(self.marks[::-1]))

    def decide(self, id: int, nats: float | None) -> bool:
        """Whether this id, after which the next byte has this entropy, closes its patch."""
        self.patches += id == BOS and self.held > 0  # a document that begins ends the patch before it
        begins = self.closed or id == BOS
        self.text_patches += begins and id >= OFFSET
        self.length = 1 if begins else self.length + 1
        self.closed = self.rule.feed(id, nats)
        self.patches += self.closed
        if self.reserve:
            self.marks.append(self._mark())
            del self.marks[: -self.reserve - 1]
        return self.closed

    def crop(self, count: int) -> None:
        """Go back by so many bytes, and by the patches that they completed."""
        del self.marks[len(self.marks) - count :]
        before = self.patches
        self.rule.state, self.length, self.closed, self.patches, self.text_patches = self.marks[-1]
        self.latent.crop(before - self.patches)
        self.latents.crop(before - self.patches)

    def _mark(self) -> tuple[Any, int, bool, int, int]:
        return self.rule.state, self.length, self.closed, self.patches, self.text_patches
