"""The questions that `ask` understands: their wordings in English and Russian, and parsing of a text."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

Name = Literal["count", "contains", "spell", "reverse", "larger", "order", "add", "subtract"]

MOST_LETTERS = 16  # longest word in training, in letters; longer words or numbers would be answered wrongly
MOST_DIGITS = {"larger": 7, "order": 7, "add": 6, "subtract": 6}
QUOTES = "\"'`“”„‟«»‘’"
DASHES = "[−–—]"
SYNTAX = {
    "[": "(?:",
    "]": ")?",
    "{": "(?:",
    "}": ")",
    "|": "|",
    # Spaces are optional next to a sign or an omitted part, but two words must not run together.
    " ": r" *(?:\b|(?<=\W))",
    ",": r"(?: ?[,:]| -(?= ))?",
    "ё": "[её]",
}
"""Regular expressions for the special characters of a wording."""


@dataclass(frozen=True, eq=False)
class Language:
    """A language of questions."""

    name: str
    alphabet: str
    yes: str
    no: str
    wordings: Mapping[Name, tuple[str, ...]]
    """The wordings of each task. The model is given the first; the others have the same meaning. W stands for a word, L
    for a letter, A and B for numbers; [x|y] is optional, and {x|y} is a choice."""


ENGLISH = Language(
    "English",
    "abcdefghijklmnopqrstuvwxyz",
    "Yes",
    "No",
    {
        "count": (
            'How many "L" are in "W"?',
            "How many [letters|letter] L['s] [are|are there|there are] in [the word] W?",
            "How many [letters|letter] L['s] does [the word] W {have|contain}?",
            "How many times {is|does} [the letter] L [appear|occur] in [the word] W?",
            "Count [the] [letters|letter] L['s] in [the word] W.",
        ),
        "contains": (
            'Does "W" contain "L"?',
            "Does [the word] W {contain|have|include} [a|an] [the letter|letter] L?",
            "Is [the letter] L in [the word] W?",
            "Is [the letter] L a letter of [the word] W?",
            "Is there [a|an|the] [letter] L in [the word] W?",
        ),
        "spell": (
            'Spell "W".',
            "Spell [out] [the word] W.",
            "How {do you|do I|to} spell [the word] W?",
            "How is [the word] W {spelled|spelt}?",
            "{Which|What} letters {is|are in} [the word] W [made of]?",
            "{What are|Name|List} the letters {of|in} [the word] W.",
        ),
        "reverse": (
            'Reverse "W".',
            "Reverse [the word|the letters of] W.",
            "{What is|What's} [the word] W [written|spelled] {backwards|backward|reversed|in reverse}?",
            "{Write|Spell} [the word] W {backwards|backward|in reverse}.",
        ),
        "larger": ("Which is larger, A or B?", "{Which [number|one]|What} is {larger|greater|bigger|more}, A or B?"),
        "order": (
            "Does A come before B?",
            "{Does|Is} A [come] before B?",
            "{Does|Is} B [come] after A?",
            "Is A {less|smaller} than B?",
            "Is B {larger|greater|bigger|more} than A?",
            "Is A < B?",
            "Is B > A?",
        ),
        "add": (
            "What is A + B?",
            "[What is|What's|How much is|Calculate|Compute] A {+|plus} B?",
            "Add A {and|to} B.",
            "{What is|What's} the sum of A and B?",
        ),
        "subtract": (
            "What is A - B?",
            "[What is|What's|How much is|Calculate|Compute] A {-|minus} B?",
            "Subtract B from A.",
        ),
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
            "Сколько [букв] L [есть] в [слове] W?",
            "Сколько в [слове] W [букв] L?",
            "Сколько раз [буква] L {встречается|есть} в [слове] W?",
            "Сколько раз {встречается|есть} [буква] L в [слове] W?",
            "Сколько раз в [слове] W {встречается|есть} [буква] L?",
            "{Посчитай|Сосчитай} [буквы] L в [слове] W.",
        ),
        "contains": (
            'Есть ли буква "L" в слове "W"?',
            "Есть [ли] [буква] L в [слове] W?",
            "Есть [ли] в [слове] W [буква] L?",
            "В [слове] W есть [буква] L?",
            "Содержит ли [слово] W [букву] L?",
        ),
        "spell": (
            'Назови буквы слова "W".',
            "Назови буквы [слова] W.",
            "{Назови|Произнеси|Скажи|Напиши|Прочитай} [слово] W по буквам.",
            "{Назови|Произнеси|Скажи|Напиши|Прочитай} по буквам, [слово] W.",
            "Из каких букв состоит [слово] W?",
            "Как {пишется|читается|произносится} [слово] W по буквам?",
        ),
        "reverse": (
            'Переверни слово "W".',
            "Переверни [слово] W.",
            "{Напиши|Прочитай|Произнеси|Скажи} [слово] W {наоборот|задом наперёд}.",
            "Как {пишется|читается|будет} [слово] W {наоборот|задом наперёд}?",
        ),
        "larger": ("Какое число больше, A или B?", "{Какое [число|из чисел]|Что} больше, A или B?"),
        "order": (
            "Идёт ли A перед B?",
            "{Идёт|Стоит} ли A {перед|раньше|до} B?",
            "A {идёт|стоит} {перед|раньше|до} B?",
            "{Идёт|Стоит} ли B после A?",
            "B {идёт|стоит} после A?",
            "Меньше ли A, [чем] B?",
            "Больше ли B, [чем] A?",
            "[Верно ли, что] A меньше, [чем] B?",
            "[Верно ли, что] B больше, [чем] A?",
        ),
        "add": (
            "Сколько будет A + B?",
            "{Сколько [будет]|Чему равно|Вычисли|Посчитай} A {+|плюс} B?",
            "A плюс B?",
            "Чему равна сумма [чисел] A и B?",
            "{Сложи|Сложить} A и B.",
        ),
        "subtract": (
            "Сколько будет A - B?",
            "{Сколько [будет]|Чему равно|Вычисли|Посчитай} A {-|минус} B?",
            "A минус B?",
            "Чему равна разность [чисел] A и B?",
            "Вычти B из A.",
        ),
    },
)
LANGUAGES = (ENGLISH, RUSSIAN)
TASKS: tuple[Name, ...] = tuple(ENGLISH.wordings)
FIELDS = {"W": r"(?P<W>[^\W\d_]+)", "L": r"(?P<L>[^\W\d_])", "A": r"(?P<A>\d+)", "B": r"(?P<B>\d+)"}


@dataclass(frozen=True)
class Question:
    """One question that can be asked, without its answer: its task, its language, and the word, the word and letter, or
    the two numbers that it is about."""

    task: Name
    language: Language
    fields: tuple[str, ...]
    """The word, with the letter if there is one; or the two numbers."""

    @property
    def text(self) -> str:
        """The question in the wording that the model is given."""
        fields = dict(zip("WL" if self.is_of_words else "AB", self.fields, strict=False))
        return re.sub(r"\b[WLAB]\b", lambda match: fields[match[0]], self.language.wordings[self.task][0])

    @property
    def is_of_words(self) -> bool:
        return self.task not in MOST_DIGITS

    @property
    def fits(self) -> bool:
        """True if the word or the numbers are not longer than those in training."""
        limit = MOST_DIGITS.get(self.task, MOST_LETTERS)
        return all(len(field) <= limit for field in self.fields)


def understand(text: str) -> Question | None:
    """Parse a question in any known wording; None if the text matches none of them. Quotes, capitals, spaces, ё for е
    in a wording, and the final mark are ignored. Words become lower case; numbers lose leading zeros and commas."""
    plain = " ".join(re.sub(DASHES, "-", _unquoted(text)).split()).lower()
    plain = re.sub(r"(?<=\d),(?=\d{3}\b)", "", plain)
    for language in LANGUAGES:
        for task, patterns in _patterns(language).items():
            for pattern in patterns:
                if match := pattern.fullmatch(plain):
                    return Question(task, language, _fields(match.groupdict()))
    return None


def _fields(named: dict[str, str]) -> tuple[str, ...]:
    if "A" in named:
        return str(int(named["A"])), str(int(named["B"]))
    return (named["W"], named["L"]) if "L" in named else (named["W"],)


@cache
def _patterns(language: Language) -> dict[Name, list[re.Pattern[str]]]:
    return {task: [_pattern(wording) for wording in wordings] for task, wordings in language.wordings.items()}


def _pattern(wording: str) -> re.Pattern[str]:
    """A regular expression for texts in this wording, without quotes and in lower case."""
    parts = re.split(r"\b([WLAB])\b", wording.rstrip("?."))
    plain = (FIELDS.get(part) or _literal(_unquoted(part).lower()) for part in parts)
    return re.compile("".join(plain) + r"(?: ?[?.!=])*")


def _literal(text: str) -> str:
    return "".join(SYNTAX.get(character) or re.escape(character) for character in text)


def _unquoted(text: str) -> str:
    return text.translate(dict.fromkeys(map(ord, QUOTES)))
