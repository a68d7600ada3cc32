"""The host's counts of one text of a session: its ids and its patches."""

from typing import Any

import numpy as np

from ..codec import BOS, OFFSET


class Row:
    """Counts of one text, and a copy of them (a mark) for each position that a crop may return to."""

    def __init__(self, reserve: int = 0) -> None:
        self.reserve = reserve
        self.ids = 0
        """Number of ids read."""
        self.length = 0
        """Number of ids in the newest patch."""
        self.closed = True
        """True if the newest id closed its patch."""
        self.patches = 0
        """Number of complete patches. The latent transformer processes only these."""
        self.text_patches = 0
        """Number of patches that begin with a byte of text (not BOS), the open patch included."""
        self.marks = [self._mark()]
        """These counts at each position that a crop may return to, newest last."""

    @property
    def open_bytes(self) -> int:
        """Number of bytes in the open patch. Their states are kept until the patch closes."""
        return 0 if self.closed else self.length

    @property
    def needed_states(self) -> int:
        """Number of newest byte states to keep, so that the open patch is whole at any position a crop may return
        to."""
        if not self.reserve:
            return self.open_bytes
        return max(back + (0 if closed else length) for back, (_, length, closed, *_) in enumerate(self.marks[::-1]))

    def push(self, id: int, closed: bool) -> None:
        """Count the next id. `closed` is True if the id closes its patch."""
        self.patches += id == BOS and not self.closed  # a BOS ends the patch before it
        begins = self.closed or id == BOS
        self.text_patches += begins and id >= OFFSET
        self.length = 1 if begins else self.length + 1
        self.closed = bool(closed)
        self.patches += self.closed
        self.ids += 1
        self.marks.append(self._mark())
        del self.marks[: -self.reserve - 1]

    def feed(self, ids: np.ndarray, closed: np.ndarray) -> None:
        """Count the next ids (n,). Only the newest `reserve` ids are counted one by one, since a crop may remove
        them."""
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
        """Remove the newest `count` ids: the counts return to what they were before."""
        del self.marks[len(self.marks) - count :]
        self.ids, self.length, self.closed, self.patches, self.text_patches = self.marks[-1]

    def state(self) -> dict[str, Any]:
        """The content as plain values, for saving."""
        return {"marks": [list(mark) for mark in self.marks]}

    def load(self, state: dict[str, Any], ids: int, patches: int, room: int) -> None:
        """Restore a saved state. Raises ValueError if its form is wrong, if it has not counted `ids` ids and `patches`
        patches as the caches have, or if its open patch has more than `room` bytes."""
        marks = [tuple(mark) for mark in state["marks"]]
        if not 1 <= len(marks) <= self.reserve + 1 or not all(map(_sound, marks)):
            raise ValueError("the counts of a row are none")
        if [mark[0] for mark in marks] != list(range(ids - len(marks) + 1, ids + 1)) or marks[-1][3] != patches:
            raise ValueError("the counts of a row do not match its caches")
        self.marks = marks
        self.crop(0)
        if self.needed_states > room:
            raise ValueError("the open patch of a row is longer than what is kept of it")

    def _mark(self) -> tuple[int, int, bool, int, int]:
        return self.ids, self.length, self.closed, self.patches, self.text_patches


def _sound(mark: tuple[Any, ...]) -> bool:
    """Whether this is a mark as `_mark` makes it, with no count above the number of ids."""
    if [type(value) for value in mark] != [int, int, bool, int, int]:
        return False
    ids, length, _, patches, text_patches = mark
    return 0 <= length <= ids and 0 <= patches <= ids and 0 <= text_patches <= ids
