"""Robustness to noise: bits per byte of a text as it is, and with noise of five kinds.

The kinds are those of Pagnoni et al. 2024 (arXiv 2412.09871, table 3), who used them on HellaSwag. Here they are
applied to any text, and bits are measured instead of answers. A byte that is not UTF-8 counts as one character.
"""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Protocol

from ..codec import as_bytes
from ..config import UserError
from ..infer.score import Score
from ..view.progress import progress

CLEAN = "clean"


class Scorer(Protocol):
    """A model that scores documents."""

    def score_documents(self, documents: Sequence[bytes]) -> list[Score]:
        """Scores, EOS included, with the patches of each where there are any."""
        ...


def ant_speak(text: str, seed: int = 0) -> str:
    """Upper case, with a space between each character and the next. Nothing is drawn."""
    return " ".join(text.upper())


def drop(text: str, seed: int = 0) -> str:
    """Without 10 % of the characters."""
    draw = Random(seed).random
    return "".join(character for character in text if draw() >= 0.1)


def random_case(text: str, seed: int = 0) -> str:
    """Each character in upper case or in lower, either with probability 50 %."""
    draw = Random(seed).random
    return "".join(character.upper() if draw() < 0.5 else character.lower() for character in text)


def repeat(text: str, seed: int = 0) -> str:
    """20 % of the characters stand two, three or four times in a row."""
    draw = Random(seed).random
    return "".join(character * (2 + int(3 * draw()) if draw() < 0.2 else 1) for character in text)


def upper_case(text: str, seed: int = 0) -> str:
    """Upper case. Nothing is drawn."""
    return text.upper()


NOISES: Mapping[str, Callable[[str, int], str]] = {
    "AntSpeak": ant_speak,
    "Drop": drop,
    "RandomCase": random_case,
    "Repeat": repeat,
    "UpperCase": upper_case,
}


def noised(text: bytes, name: str, seed: int = 0) -> bytes:
    """A text with noise of one of the names in `NOISES`; the same seed gives the same bytes."""
    if name not in NOISES:
        raise UserError(f"no noise named '{name}'; there are {', '.join(NOISES)}")
    return as_bytes(NOISES[name](text.decode("utf-8", "surrogateescape"), seed))


class Noised:
    """A model whose contexts and prompts get noise of one kind; the continuations that it scores stay clean."""

    def __init__(self, model: Any, name: str, seed: int = 0) -> None:
        """`model` has `score` and `generate`, as an LM."""
        self.model, self.name, self.seed = model, name, seed

    def score(self, pairs: Sequence[tuple[str | bytes, str | bytes]]) -> list[Score]:
        """Put noise into the first text of each pair, and score the second, clean, after it."""
        return self.model.score([(self._noised(context), continuation) for context, continuation in pairs])

    def generate(self, prompt: Sequence[str | bytes], **sampling: Any) -> Sequence[Any]:
        """Put noise into each prompt, and continue it."""
        return self.model.generate([self._noised(text) for text in prompt], **sampling)

    def _noised(self, text: str | bytes) -> bytes:
        return noised(as_bytes(text), self.name, self.seed)


def robustness(model: Scorer, documents: Sequence[bytes], seed: int = 0) -> dict[str, dict[str, float | None]]:
    """Score documents as they are ("clean") and under each noise: a row for each, by name.

    Noise changes lengths, so the bits of all targets, EOS included, are divided by two counts of bytes: `bpb` is per
    byte of the text with its noise (`bytes` of them), `bits_per_clean_byte` per byte of the clean text.
    `mean_patch_bytes` is of the text with its noise, and None where the model has no patches.
    Raises UserError where there is no text.
    """
    clean_bytes = sum(map(len, documents))
    if not clean_bytes:
        raise UserError("noise needs text to change, and there is none")
    rows = {}
    with progress() as bar:
        for name in bar.track((CLEAN, *NOISES), description="score"):
            texts = documents
            if name != CLEAN:
                texts = [noised(document, name, seed + place) for place, document in enumerate(documents)]
            score = Score.total(model.score_documents(texts))
            rows[name] = {
                "bpb": score.bits_per_byte,
                "bits_per_clean_byte": score.bits / clean_bytes,
                "bytes": score.bytes,
                "mean_patch_bytes": score.patch_bytes or None,
            }
    return rows
