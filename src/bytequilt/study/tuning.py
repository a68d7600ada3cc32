"""How trained models of a study learn the tasks on letters and numbers: a section of its recipe."""

from itertools import pairwise
from typing import Annotated

from pydantic import Field, model_validator

from ..config import Config, Positive, Seed
from ..evals.characters import TASKS
from ..evals.words import Lengths

Amount = Annotated[float, Field(gt=0)]


class Spans(Config):
    """Shortest and longest words, sentences and numbers of questions."""

    words: tuple[Positive, Positive]
    """In letters."""
    sentences: tuple[Positive, Positive]
    """In words."""
    numbers: tuple[Positive, Positive]
    """In digits."""

    @model_validator(mode="after")
    def _shortest_first(self) -> "Spans":
        if not all(self.ranges.values()):
            raise ValueError("the shortest comes first")
        return self

    @property
    def ranges(self) -> Lengths:
        """All lengths from the shortest to the longest."""
        words, sentences, numbers = (range(a, b + 1) for a, b in (self.words, self.sentences, self.numbers))
        return {"words": words, "sentences": sentences, "numbers": numbers}


class FineTune(Config):
    """How trained models learn the tasks on letters and numbers, all from the same examples."""

    models: Annotated[tuple[str, ...], Field(min_length=1)]
    size: str
    seeds: tuple[Seed, ...] = (0,)
    """Of the trained models; each seed has its own examples and questions."""
    tasks: tuple[str, ...] = ()
    """Tasks to learn, mixed in equal parts; all where none is named."""
    examples: Annotated[tuple[Positive, ...], Field(min_length=1)]
    """Numbers of examples after which accuracy is measured, fewest first; it is also measured before the first."""
    rows: Positive = 20
    """Examples of a step."""
    lr: Annotated[tuple[Amount, ...], Field(min_length=1)]
    """Learning rates that every model tries; the one with the best answers to other training questions is taken."""
    tried: Positive = 2000
    """Examples in a try."""
    items: Positive = 60
    """Held-out questions of each task."""
    lengths: Spans = Spans(words=(3, 10), sentences=(3, 8), numbers=(2, 4))
    """Of examples, and of held-out questions."""
    longer: Spans = Spans(words=(11, 12), sentences=(9, 10), numbers=(5, 6))
    """Of more held-out questions, longer than any example."""

    @model_validator(mode="after")
    def _counts_are_whole_steps(self) -> "FineTune":
        if any(a >= b for a, b in pairwise(self.examples)):
            raise ValueError("`examples` must rise")
        if uneven := [count for count in (*self.examples, self.tried) if count % self.rows]:
            raise ValueError(f"{uneven[0]} examples are no whole number of steps of {self.rows} `rows`")
        if unknown := sorted(set(self.tasks) - set(TASKS)):
            raise ValueError(f"no task named {unknown[0]}; there are {', '.join(TASKS)}")
        return self
