"""The questions that `ask` understands: how they are worded in English and Russian, and how a text is read as one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

Name = Literal["count", "contains", "spell", "reverse", "larger", "order", "add", "subtract"]

MOST_LETTERS = 16  # as long as words and numbers are in training; longer ones are answered wrongly
MOST_DIGITS = {"larger": 7, "order": 7, "add": 6, "subtract": 6}
QUOTES = "\"'`“”„‟«»‘’"


@dataclass(frozen=True, eq=False)
class Language:
    """One language of questions."""

    name: str
    alphabet: str
    yes: str
    no: str
    wordings: Mapping[Name, tuple[str, ...]]
    """Of each task, the wording that a model sees, and then others that mean the same. W is a word, L a letter, and
    A and B are numbers."""


ENGLISH = Language(
    "English",
    "abcdefghijklmnopqrstuvwxyz",
    "Yes",
    "No",
    {
        "count": (
            'How many "L" are in "W"?',
            "How many L in W?",
            "How many L's are in W?",
            "How many L's in W?",
            "How many letters L are in W?",
            "How many times is L in W?",
        ),
        "contains": ('Does "W" contain "L"?', "Is L in W?", "Is L a letter of W?"),
        "spell": ('Spell "W".', "Which letters is W made of?"),
        "reverse": ('Reverse "W".', "What is W written backwards?", "Write W backwards."),
        "larger": ("Which is larger, A or B?", "Which is greater, A or B?", "Which is bigger, A or B?"),
        "order": ("Does A come before B?", "Is A before B?"),
        "add": ("What is A + B?", "How much is A + B?", "A + B"),
        "subtract": ("What is A - B?", "How much is A - B?", "A - B"),
    },
)
RUSSIAN = Language(
    "Russian",
    "абвгдежзийклмнопрстуфхцчшщъыьэюяё",
    "Да",
    "Нет",
    {
        "count": (
            'Сколько букв "L" в слове "W"?',
            "Сколько L в слове W?",
            "Сколько букв L в W?",
            "Сколько L в W?",
            "Сколько раз буква L встречается в слове W?",
        ),
        "contains": (
            'Есть ли буква "L" в слове "W"?',
            "Есть ли L в слове W?",
            "Есть ли L в W?",
            "Содержит ли слово W букву L?",
        ),
        "spell": (
            'Назови буквы слова "W".',
            "Назови слово W по буквам.",
            "Назови W по буквам.",
            "Произнеси слово W по буквам.",
            "Из каких букв состоит слово W?",
        ),
        "reverse": (
            'Переверни слово "W".',
            "Переверни W.",
            "Напиши слово W наоборот.",
            "Напиши W наоборот.",
            "Как пишется слово W наоборот?",
        ),
        "larger": ("Какое число больше, A или B?", "Что больше, A или B?", "Какое больше, A или B?"),
        "order": (
            "Идёт ли A перед B?",
            "Стоит ли A перед B?",
            "A идёт перед B?",
            "A идёт раньше B?",
            "Меньше ли A, чем B?",
        ),
        "add": ("Сколько будет A + B?", "Чему равно A + B?"),
        "subtract": ("Сколько будет A - B?", "Чему равно A - B?"),
    },
)
LANGUAGES = (ENGLISH, RUSSIAN)
TASKS: tuple[Name, ...] = tuple(ENGLISH.wordings)
FIELDS = {"W": r"(?P<W>[^\W\d_]+)", "L": r"(?P<L>[^\W\d_])", "A": r"(?P<A>\d+)", "B": r"(?P<B>\d+)"}


@dataclass(frozen=True)
class Question:
    """What is asked: of a word, of a word and one of its letters, or of two numbers."""

    task: Name
    language: Language
    fields: tuple[str, ...]
    """The word, and then the letter; or the numbers."""

    @property
    def text(self) -> str:
        """In the wording that a model sees."""
        fields = dict(zip("WL" if self.is_of_words else "AB", self.fields, strict=False))
        return re.sub(r"\b[WLAB]\b", lambda place: fields[place[0]], self.language.wordings[self.task][0])

    @property
    def is_of_words(self) -> bool:
        return self.task not in MOST_DIGITS

    @property
    def fits(self) -> bool:
        """Whether it is about no more letters or digits than training had."""
        limit = MOST_DIGITS.get(self.task, MOST_LETTERS)
        return all(len(field) <= limit for field in self.fields)


def understand(text: str) -> Question | None:
    """The question that a text asks in one of the wordings, None where it asks none.

    Quotes, capitals, spaces and the mark at the end do not matter; words are taken in lower case, and numbers without
    zeros in front.
    """
    plain = " ".join(_unquoted(text).replace("−", "-").split()).lower()
    for language in LANGUAGES:
        for task, patterns in _patterns(language.name).items():
            for pattern in patterns:
                if match := pattern.fullmatch(plain):
                    return Question(task, language, _fields(match.groupdict()))
    return None


def _fields(named: dict[str, str]) -> tuple[str, ...]:
    if "A" in named:
        return str(int(named["A"])), str(int(named["B"]))
    return (named["W"], named["L"]) if "L" in named else (named["W"],)


@cache
def _patterns(name: str) -> dict[Name, list[re.Pattern[str]]]:
    language = next(language for language in LANGUAGES if language.name == name)
    return {task: [_pattern(wording) for wording in wordings] for task, wordings in language.wordings.items()}


def _pattern(wording: str) -> re.Pattern[str]:
    """A wording as it looks without quotes; commas, and spaces around signs, are optional."""
    parts = re.split(r"\b([WLAB])\b", wording.rstrip("?."))
    plain = [FIELDS.get(part, re.escape(_unquoted(part).lower())) for part in parts]
    parts = [re.sub(r"\\ ([-+]|\\[-+])\\ ", r" ?\1 ?", part).replace(",", ",?") for part in plain]
    return re.compile("".join(parts) + r" ?[?.!]?")


def _unquoted(text: str) -> str:
    return text.translate(dict.fromkeys(map(ord, QUOTES)))
