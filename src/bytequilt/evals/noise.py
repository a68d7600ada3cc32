"""Robustness to noise: bits per byte of a clean text, and of the text with five kinds of noise.

The kinds are those of Pagnoni et al. 2024 (arXiv 2412.09871, table 3), who measured accuracy on HellaSwag. Here they
are applied to any text, and bits are measured. A byte that is not UTF-8 counts as one character.
"""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from ..baselines.baseline import Baseline
from ..codec import as_bytes
from ..config import UserError
from ..infer.score import Score
from ..lm import LM
from ..view.progress import progress

CLEAN = "clean"


def ant_speak(text: str, seed: int = 0) -> str:
    """Upper case, with a space between all characters. Not random."""
    return " ".join(text.upper())


def drop(text: str, seed: int = 0) -> str:
    """Each character is removed with probability 10 %."""
    draw = Random(seed).random
    return "".join(character for character in text if draw() >= 0.1)


def random_case(text: str, seed: int = 0) -> str:
    """Each character becomes upper or lower case with probability 50 % each."""
    draw = Random(seed).random
    return "".join(character.upper() if draw() < 0.5 else character.lower() for character in text)


def repeat(text: str, seed: int = 0) -> str:
    """Each character is repeated with probability 20 %, two to four times in a row."""
    draw = Random(seed).random
    return "".join(character * (2 + int(3 * draw()) if draw() < 0.2 else 1) for character in text)


def upper_case(text: str, seed: int = 0) -> str:
    """Upper case. Not random."""
    return text.upper()


NOISES: Mapping[str, Callable[[str, int], str]] = {
    "AntSpeak": ant_speak,
    "Drop": drop,
    "RandomCase": random_case,
    "Repeat": repeat,
    "UpperCase": upper_case,
}


def noised(text: bytes, name: str, seed: int = 0) -> bytes:
    """The text with noise of one kind in `NOISES`; the same seed gives the same bytes."""
    if name not in NOISES:
        raise UserError(f"no noise named '{name}'; there are {', '.join(NOISES)}")
    return as_bytes(NOISES[name](text.decode("utf-8", "surrogateescape"), seed))


class Noised:
    """A model whose contexts and prompts get noise of one kind; scored continuations stay clean."""

    def __init__(self, model: Any, name: str, seed: int = 0) -> None:
        """`model` needs the methods `score` and `generate`, as LM has them."""
        self.model, self.name, self.seed = model, name, seed

    def score(self, pairs: Sequence[tuple[str | bytes, str | bytes]]) -> list[Score]:
        """Add noise to the first text of each pair, and score the second text, without noise, given the first."""
        return self.model.score([(self._noised(context), continuation) for context, continuation in pairs])

    def generate(self, prompt: Sequence[str | bytes], **sampling: Any) -> Sequence[Any]:
        """Add noise to each prompt and continue it."""
        return self.model.generate([self._noised(text) for text in prompt], **sampling)

    def _noised(self, text: str | bytes) -> bytes:
        return noised(as_bytes(text), self.name, self.seed)


def robustness(model: LM | Baseline, documents: Sequence[bytes], seed: int = 0) -> dict[str, dict[str, float | None]]:
    """Score documents without noise ("clean") and with each kind of noise; one row per kind.

    Noise changes the length of a text, so the total bits (EOS included) are divided by two lengths: `bpb` is per byte
    of the noisy text, which has `bytes` bytes, and `bits_per_clean_byte` per byte of the clean text. `mean_patch_bytes`
    is that of the noisy text; None if the model has no patches. Raises UserError if there is no text.
    """
    clean_bytes = sum(map(len, documents))
    if not clean_bytes:
        raise UserError("noise needs text to change, but there is none")
    rows = {}
    with progress() as bar:
        for name in bar.track((CLEAN, *NOISES), description="score"):
            texts = documents
            if name != CLEAN:
                texts = [noised(document, name, seed + index) for index, document in enumerate(documents)]
            score = Score.total(model.score_documents(texts))
            rows[name] = {
                "bpb": score.bits_per_byte,
                "bits_per_clean_byte": score.bits / clean_bytes,
                "bytes": score.bytes,
                "mean_patch_bytes": score.patch_bytes or None,
            }
    return rows
