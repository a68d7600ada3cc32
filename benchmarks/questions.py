"""Random questions about letters and numbers, for training and for tests, without overlap; scores of answers."""

import string
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice
from random import Random

from working import answer, worked

from bytequilt.config import DataConfig
from bytequilt.data.sources import documents
from bytequilt.evals.answers import Model
from bytequilt.evals.ask import ask, prompt
from bytequilt.evals.wordings import LANGUAGES, MOST_DIGITS, MOST_LETTERS, TASKS, Language, Name, Question
from bytequilt.evals.words import TRIES, Lexicon, Retry, is_held_out

RUSSIAN_WORDS = "package:words-ru.txt.xz"
KEPT_STEMS = ("strawberr", "карбюратор")
KEPT_NUMBERS = range(375, 386)
COUNTS = (0, 1, 2, 3, 4, 5)
FOREIGN = 0.15  # share of training questions about a word of the other language
RANDOM = 0.5  # share of random strings of letters among the training words
TEST_LETTERS, TEST_DIGITS = range(3, 13), {"larger": 5, "order": 5, "add": 4, "subtract": 4}


# --------------------------------------------------------------------------------------------------- what is held out


def is_kept(field: str) -> bool:
    """True if a word, or a number of at least three digits, is reserved for tests."""
    if field.isdigit():
        return int(field) in KEPT_NUMBERS or (len(field) > 2 and is_held_out(field))
    return field.startswith(KEPT_STEMS) or is_held_out(field)


def is_for_training(question: Question) -> bool:
    """True if a question contains nothing that is reserved for tests. Pairs of short numbers are reserved as pairs."""
    if question.is_of_words:
        return not is_kept(question.fields[0])
    result = answer(question).lstrip("-")
    known = any(map(is_kept, question.fields)) or (result.isdigit() and int(result) in KEPT_NUMBERS)
    return not known and not is_held_out(" ".join(question.fields))


def is_for_tests(question: Question) -> bool:
    """True if the word of a question, or each number of at least three digits, is reserved for tests."""
    if question.is_of_words:
        return is_kept(question.fields[0])
    long = [field for field in question.fields if len(field) > 2]
    return all(map(is_kept, long)) if long else is_held_out(" ".join(question.fields))


# -------------------------------------------------------------------------------------------------------------- draws


@dataclass(frozen=True)
class Words:
    """The training words or the test words of one language."""

    language: Language
    words: tuple[str, ...]

    @cached_property
    def by_count(self) -> dict[int, list[tuple[str, str]]]:
        """(word, letter) pairs by the number of times that the letter occurs in the word."""
        pairs = defaultdict(list)
        for word in self.words:
            for letter, times in Counter(word).items():
                pairs[times].append((word, letter))
        return pairs


def read_words(kept: bool) -> dict[str, Words]:
    """The words of the package's lists by language: those reserved for tests if `kept`, otherwise the training
    words."""
    lists = {"English": Lexicon.read(most=30_000).words, "Russian": _russian_words()}
    lengths = TEST_LETTERS if kept else range(1, MOST_LETTERS + 1)
    return {
        language.name: Words(
            language, tuple(word for word in lists[language.name] if len(word) in lengths and is_kept(word) == kept)
        )
        for language in LANGUAGES
    }


def _russian_words() -> list[str]:
    (document,) = documents(RUSSIAN_WORDS, DataConfig())
    return document.data.decode().split()


class Draw:
    """Draws random questions for training or, if `kept`, for tests. The seed determines all draws."""

    def __init__(self, words: dict[str, Words], kept: bool, seed: str) -> None:
        self.words, self.kept, self.random = words, kept, Random(seed)
        self.digits = TEST_DIGITS if kept else MOST_DIGITS
        self.fits = is_for_tests if kept else is_for_training

    def question(self, task: Name, language: Language) -> Question:
        """Draw the next question of a task in a language."""
        make = self._of_words if task not in MOST_DIGITS else self._of_numbers
        for _ in range(TRIES**2):
            question = Question(task, language, make(task, language))
            if self.fits(question):
                return question
        raise Retry

    # ------------------------------------------------------------------------------------------------------- words

    def _of_words(self, task: Name, language: Language) -> tuple[str, ...]:
        foreign = not self.kept and self.random.random() < FOREIGN
        words = self.words[next(other.name for other in LANGUAGES if (other != language) == foreign)]
        made_up = not self.kept and self.random.random() < RANDOM
        if task in ("spell", "reverse"):
            return (self._letters(words.language) if made_up else self.random.choice(words.words),)
        times = self.random.choice(COUNTS) if task == "count" else self.random.choice((0, 1, 1, 2, 0, 0))
        if made_up or (times and not self.kept and len(words.by_count[times]) < 100):
            return self._planted(words.language, times)
        return self._word_with(words, times)

    def _word_with(self, words: Words, times: int) -> tuple[str, str]:
        """A word, and a letter that occurs in it `times` times, or fewer times if there is no such word."""
        if times:
            return self.random.choice(next(pairs for n in range(times, 0, -1) if (pairs := words.by_count.get(n))))
        word, other = self.random.choice(words.words), self.random.choice(words.words)
        absent = sorted(set(other) - set(word)) or sorted(set(words.language.alphabet) - set(word))
        return word, self.random.choice(absent)

    def _letters(self, language: Language) -> str:
        """Random letters, from a random subset of the alphabet."""
        few = self.random.sample(language.alphabet, self.random.randint(3, 26))
        return "".join(self.random.choices(few, k=self.random.randint(1, MOST_LETTERS)))

    def _planted(self, language: Language, times: int) -> tuple[str, str]:
        """Random letters, and a letter that occurs `times` times among them."""
        letter = self.random.choice(language.alphabet)
        length = self.random.randint(max(1, times), MOST_LETTERS)
        few = [other for other in self.random.sample(language.alphabet, self.random.randint(3, 26)) if other != letter]
        letters = [letter] * times + self.random.choices(few, k=length - times)
        self.random.shuffle(letters)
        return "".join(letters), letter

    # ----------------------------------------------------------------------------------------------------- numbers

    def _of_numbers(self, task: Name, language: Language) -> tuple[str, ...]:
        most = self.digits[task]
        digits = self.random.randint(1, most)
        a, kind = self._number(digits), self.random.random()
        if kind < 0.35:
            b = self._number(self.random.randint(1, most))
        elif task in ("larger", "order") and kind < 0.55:
            b = str(max(0, int(a) + self.random.randint(-9, 9)))
        else:
            b = self._number(digits, a[: self.random.randrange(digits)] if task != "add" else "")
        if len(b) > most or (a == b and self.kept):
            b = self._number(digits)
        return (b, a) if self.random.random() < 0.5 else (a, b)

    def _number(self, digits: int, start: str = "") -> str:
        """A random number of at most `digits` digits, as text. Its digits begin with `start`, which counts towards
        `digits`. Leading zeros are dropped, so the number may be shorter, or 0."""
        return str(int(start + "".join(self.random.choices(string.digits, k=digits - len(start)))))


# ------------------------------------------------------------------------------------------------------------ records


def records(examples: int, seed: int = 0, tasks: Sequence[Name] = TASKS) -> Iterator[dict[str, str]]:
    """Training questions with tasks and languages taking turns; set `prompt_field = "prompt"` in `[data]`."""
    draw = Draw(read_words(kept=False), False, f"training {seed}")
    turns = cycle([(task, language) for task in tasks for language in LANGUAGES])
    for number, (task, language) in enumerate(islice(turns, examples)):
        question = draw.question(task, language)
        yield {"id": f"{task}-{seed}-{number}", "prompt": prompt(question), "text": worked(question)}


def held_out_questions(task: Name, language: Language, items: int, seed: int = 0) -> list[Question]:
    """`items` different test questions, on words and numbers that are not in the training questions."""
    draw = Draw(read_words(kept=True), True, f"test {task} {language.name} {seed}")
    questions: dict[Question, None] = {}
    while len(questions) < items:
        questions[draw.question(task, language)] = None
    return list(questions)


def longer_questions(task: Name, language: Language, items: int, seed: int = 0) -> list[Question]:
    """`items` questions on random strings of letters and on numbers that are longer than any in training, by 1 to 4
    letters or 1 to 2 digits."""
    random, questions = Random(f"longer {task} {language.name} {seed}"), []
    for _ in range(items):
        if task in MOST_DIGITS:
            size = MOST_DIGITS[task] + random.randint(1, 2)
            fields = tuple(str(random.randrange(10 ** (size - 1), 10**size)) for _ in range(2))
        else:
            word = "".join(random.choices(language.alphabet, k=MOST_LETTERS + random.randint(1, 4)))
            letter = random.choice(random.choice([word, language.alphabet]))
            fields = (word,) if task in ("spell", "reverse") else (word, letter)
        questions.append(Question(task, language, fields))
    return questions


def examine(model: Model, items: int, seed: int = 0, longer: bool = False) -> dict[str, dict[str, int]]:
    """Number of correct answers to `items` held-out questions, by task and language; `longer`: to longer questions."""
    drawn = longer_questions if longer else held_out_questions

    def right(task: Name, language: Language) -> int:
        replies = ask(model, drawn(task, language, items, seed))
        return sum(reply.answer == answer(reply.question) for reply in replies)

    return {task: {language.name: right(task, language) for language in LANGUAGES} for task in TASKS}
