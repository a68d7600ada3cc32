"""Ask a model questions about letters and numbers. The model itself writes the working and the answer."""

from dataclasses import dataclass

from ..config import UserError
from .answers import Model
from .wordings import LANGUAGES, MOST_DIGITS, MOST_LETTERS, Question, understand

MARK = "= "
"""The mark between the working and the answer."""
ROOM = 200  # limit of an answer in bytes, working included; the longest one in training has 82
ABLE = (
    'how many "r" are in "w", does "w" contain "r", spell "w", reverse "w", which is larger, 3 or 5, '
    f"does 3 come before 5, what is 3 + 5, or 5 - 3; words to {MOST_LETTERS} letters, numbers to "
    f"{min(MOST_DIGITS.values())} digits, in English or Russian"
)


@dataclass(frozen=True)
class Reply:
    """The text that a model wrote after a question."""

    question: Question
    text: str

    @property
    def answer(self) -> str | None:
        """The text after the last answer mark; None if there is no mark or no text."""
        _, mark, answer = self.text.rpartition(MARK)
        return answer.strip() if mark and answer.strip() else None


def read_question(text: str) -> Question:
    """Parse a question. Raises UserError if it is unknown, too long, or in other letters than those of the two
    languages."""
    question = understand(text)
    if question is None:
        raise UserError(f"no such question is known; what can be asked: {ABLE}")
    letters = set("".join(language.alphabet for language in LANGUAGES))
    if not question.fits or (question.is_of_words and not letters.issuperset("".join(question.fields))):
        raise UserError(f"that is beyond what the model has learnt, in length or in letters; what can be asked: {ABLE}")
    return question


def prompt(question: Question) -> str:
    """The prompt for the model: the question and a line break."""
    return f"{question.text}\n"


def ask(model: Model, questions: list[Question]) -> list[Reply]:
    """The model's greedy replies to questions, each asked in the wording that the model was trained on."""
    prompts = [prompt(question) for question in questions]
    completions = model.generate(prompts, max_bytes=ROOM, temperature=0.0, stop=["\n"])
    return [Reply(question, reply.text) for question, reply in zip(questions, completions, strict=True)]
