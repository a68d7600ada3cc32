"""What the host knows of one text of a session: where its patches end."""

from typing import Any

import numpy as np

from ..codec import BOS, OFFSET


class Row:
    """Counts of a text, and of each place that a crop may go back to."""

    def __init__(self, reserve: int = 0) -> None:
        self.reserve = reserve
        self.ids = 0
        """Ids that it has read."""
        self.length = 0
        """Bytes of the patch that the newest byte lies in."""
        self.closed = True
        """Whether the newest byte closed it."""
        self.patches = 0
        """Complete patches, which the latent transformer has seen or is about to see."""
        self.text_patches = 0
        """Patches so far that begin with a byte of text, the open one among them."""
        self.marks = [self._mark()]
        """These counts after each byte that a crop may go back to, the newest last."""

    @property
    def open_bytes(self) -> int:
        """Bytes of the open patch, whose states wait for its end."""
        return 0 if self.closed else self.length

    @property
    def needed_states(self) -> int:
        """How many byte states must be kept: the longest open patch at any position a crop may return to."""
        if not self.reserve:
            return self.open_bytes
        return max(back + (0 if closed else length) for back, (_, length, closed, *_) in enumerate(self.marks[::-1]))

    def push(self, id: int, closed: bool) -> None:
        """Take in the next id, which closes its patch or not."""
        self.patches += id == BOS and not self.closed  # a document that begins ends the patch before it
        begins = self.closed or id == BOS
        self.text_patches += begins and id >= OFFSET
        self.length = 1 if begins else self.length + 1
        self.closed = closed
        self.patches += closed
        self.ids += 1
        if self.reserve:
            self.marks.append(self._mark())
            del self.marks[: -self.reserve - 1]

    def feed(self, ids: np.ndarray, closed: np.ndarray) -> None:
        """Take in the next ids (n,); byte by byte only those that a crop may take back."""
        far = max(0, len(ids) - self.reserve)
        if far:
            self._skip(ids[:far], closed[:far])
        for id, closes in zip(ids[far:].tolist(), closed[far:].tolist(), strict=True):
            self.push(id, closes)

    def _skip(self, ids: np.ndarray, closed: np.ndarray) -> None:
        before, bos = np.concatenate([[self.closed], closed[:-1]]), ids == BOS
        begins = before | bos
        self.patches += int(closed.sum()) + int((bos & ~before).sum())
        self.text_patches += int((begins & (ids >= OFFSET)).sum())
        places = np.flatnonzero(begins)
        self.length = len(ids) - int(places[-1]) if len(places) else self.length + len(ids)
        self.closed = bool(closed[-1])
        self.ids += len(ids)
        self.marks = [self._mark()]

    def crop(self, count: int) -> None:
        """Go back by so many bytes, and by the patches that they completed."""
        del self.marks[len(self.marks) - count :]
        self.ids, self.length, self.closed, self.patches, self.text_patches = self.marks[-1]

    def state(self) -> dict[str, Any]:
        """All of it, as plain values."""
        return {"marks": [list(mark) for mark in self.marks]}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned. Raises ValueError where it is of another form."""
        marks = [(int(a), int(b), bool(c), int(d), int(e)) for a, b, c, d, e in state["marks"]]
        if not 1 <= len(marks) <= self.reserve + 1 or any(min(mark) < 0 for mark in marks):
            raise ValueError("the counts of a row are none")
        self.marks = marks
        self.crop(0)

    def _mark(self) -> tuple[int, int, bool, int, int]:
        return self.ids, self.length, self.closed, self.patches, self.text_patches
