"""The recipe section for fine-tuning on letters and numbers."""

from itertools import pairwise
from typing import Annotated

from pydantic import Field, model_validator

from ..config import Config, Positive, Seed
from ..evals.characters import TASKS
from ..evals.words import Lengths

Amount = Annotated[float, Field(gt=0)]


class Spans(Config):
    """Shortest and longest words, sentences and numbers in questions."""

    words: tuple[Positive, Positive]
    """Smallest and largest number of letters in a word."""
    sentences: tuple[Positive, Positive]
    """Smallest and largest number of words in a sentence."""
    numbers: tuple[Positive, Positive]
    """Smallest and largest number of digits in a number."""

    @model_validator(mode="after")
    def _shortest_first(self) -> "Spans":
        if not all(self.ranges.values()):
            raise ValueError("the shortest comes first")
        return self

    @property
    def ranges(self) -> Lengths:
        """All allowed lengths, as ranges."""
        words, sentences, numbers = (range(a, b + 1) for a, b in (self.words, self.sentences, self.numbers))
        return {"words": words, "sentences": sentences, "numbers": numbers}


class FineTune(Config):
    """Settings of fine-tuning; all models get the same examples."""

    models: Annotated[tuple[str, ...], Field(min_length=1)]
    size: str
    seeds: tuple[Seed, ...] = (0,)
    """Seeds of the trained models; each seed has its own examples and questions."""
    tasks: tuple[str, ...] = ()
    """Tasks to train on, in equal parts; by default all."""
    examples: Annotated[tuple[Positive, ...], Field(min_length=1)]
    """Numbers of examples after which accuracy is measured, rising. It is also measured before training."""
    rows: Positive = 20
    """Examples per step."""
    lr: Annotated[tuple[Amount, ...], Field(min_length=1)]
    """Learning rates to try for every model; the one with the best answers to other training questions is used."""
    tried: Positive = 2000
    """Number of examples in a try."""
    items: Positive = 60
    """Number of held-out questions of each task."""
    lengths: Spans = Spans(words=(3, 10), sentences=(3, 8), numbers=(2, 4))
    """Lengths in training examples and held-out questions."""
    longer: Spans = Spans(words=(11, 12), sentences=(9, 10), numbers=(5, 6))
    """Lengths in additional held-out questions, longer than in any example."""

    @model_validator(mode="after")
    def _counts_are_whole_steps(self) -> "FineTune":
        if any(a >= b for a, b in pairwise(self.examples)):
            raise ValueError("`examples` must rise")
        if uneven := [count for count in (*self.examples, self.tried) if count % self.rows]:
            raise ValueError(f"{uneven[0]} examples are no whole number of steps of {self.rows} `rows`")
        if unknown := sorted(set(self.tasks) - set(TASKS)):
            raise ValueError(f"no task named {unknown[0]}; there are {', '.join(TASKS)}")
        return self
