"""Tasks on the letters of words, the words of sentences and the digits of numbers, which bytes should make easy.

Thirteen are the tasks of CUTE (Edman et al. 2024, arXiv 2409.15452) in wordings and with words of our own, so results
are not to be put beside published ones. Its fourteenth, which of two words is more related to a third, is left out: it
is about meaning, and what is right would have to come from word vectors or people. Counting, reversing, comparing, adding and ordering
are ours. The protocol is CUTE's: an instruction, four numbered examples, a question, and an answer in double quotes.
"""

import json
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Literal

from ..config import UserError
from .words import TRIES, Deck, Kind, Lengths, Lexicon, NoFit, words_of

Level = Literal["char", "word", "number"]
YES_NO = ("Yes", "No")
SHOTS = 4


@dataclass(frozen=True)
class Item:
    """What a question asks about, and its answer."""

    fields: tuple[str, ...]
    """What the question's wording is filled with; the first is what is worked on."""
    answer: str
    choices: tuple[str, ...] = ()
    """The answers there are, where the question names them or is answered by Yes or No."""

    @property
    def label(self) -> str | int:
        """The answer, or its place among the choices: what somebody could learn without looking at the fields."""
        return self.choices.index(self.answer) if self.choices else self.answer


@dataclass(frozen=True)
class Task:
    """One kind of question."""

    name: str
    level: Level
    """What is worked with; answers of level `word` are compared in lower case."""
    kind: Kind
    """What items are made of."""
    instruction: str
    wording: str
    """The question, with the number of a field in braces where it goes."""
    draw: Callable[[Deck], Item]
    """Draws an item. Raises NoFit where the words drawn suit no question."""

    def question(self, item: Item) -> str:
        """The question and the opening quote of its answer."""
        return f'{self.wording.format(*item.fields)} Answer: "'

    def record(self, item: Item) -> str:
        ...
