"""The text that a model learns to write after a question: the working, an answer mark, and the answer.

The working is a chain of small steps; each step depends on little more than the step before it:

- Counting or finding a letter: the word is spelled, with the count so far after each letter:
  `s0 t0 r1 a1 w1 b1 e1 r2 r3 y3 = 3`.
- Reversing a word: its letters in order come first: `s u n = nus`. Spelling needs no working: `= s u n`.
- Comparing numbers: digit by digit; the sign between two digits tells how the numbers compare up to that digit:
  `3=3 8=8 0<1 = 381`.
- Adding: column by column from the ones; a step shows both digits, the carry, and the digit of the sum:
  `0+5=05 8+7=15 4+9=14 = 1455`.
- Subtracting: first a comparison; then the smaller number is subtracted from the larger in the same way, with
  borrowing: `3=3 8=8 0<1 1-0=01 8-8=00 3-3=00 = -1`.
"""

from collections.abc import Callable

from bytequilt.evals.ask import MARK
from bytequilt.evals.wordings import Name, Question


def worked(question: Question) -> str:
    """The working, the mark and the answer, as a model learns to write them after the question."""
    return _WORKED[question.task](question)


def answer(question: Question) -> str:
    """The correct answer."""
    return worked(question).rpartition(MARK)[2]


def _count(question: Question) -> str:
    word, letter = question.fields
    return f"{_counted(word, letter)} {MARK}{word.count(letter)}"


def _contains(question: Question) -> str:
    word, letter = question.fields
    return f"{_counted(word, letter)} {MARK}{_yes_no(question, letter in word)}"


def _counted(word: str, letter: str) -> str:
    return " ".join(f"{own}{word[: index + 1].count(letter)}" for index, own in enumerate(word))


def _spell(question: Question) -> str:
    return MARK + " ".join(question.fields[0])


def _reverse(question: Question) -> str:
    word = question.fields[0]
    return f"{' '.join(word)} {MARK}{word[::-1]}"


def _larger(question: Question) -> str:
    a, b = question.fields
    return f"{_compared(a, b)} {MARK}{max(a, b, key=int)}"


def _order(question: Question) -> str:
    a, b = question.fields
    return f"{_compared(a, b)} {MARK}{_yes_no(question, int(a) < int(b))}"


def _compared(a: str, b: str) -> str:
    pairs = _columns(a, b)
    signs = [_sign(x, y) for x, y in zip(_prefixes(a, len(pairs)), _prefixes(b, len(pairs)), strict=True)]
    return " ".join(f"{x}{sign}{y}" for (x, y), sign in zip(pairs, signs, strict=True))


def _columns(a: str, b: str) -> list[tuple[str, str]]:
    """The digits of two numbers in pairs; the shorter number gets leading zeros."""
    width = max(len(a), len(b))
    return list(zip(a.zfill(width), b.zfill(width), strict=True))


def _prefixes(number: str, width: int) -> list[int]:
    return [int(number.zfill(width)[: index + 1]) for index in range(width)]


def _sign(x: int, y: int) -> str:
    return "=" if x == y else "<" if x < y else ">"


def _add(question: Question) -> str:
    a, b = question.fields
    steps, carried = [], 0
    for x, y in reversed(_columns(a, b)):
        total = int(x) + int(y) + carried
        steps.append(f"{x}+{y}={total:02}")
        carried = total // 10
    return f"{' '.join(steps)} {MARK}{int(a) + int(b)}"


def _subtract(question: Question) -> str:
    a, b = question.fields
    more, less = (a, b) if int(a) >= int(b) else (b, a)
    steps, borrowed = [], 0
    for x, y in reversed(_columns(more, less)):
        left = int(x) - int(y) - borrowed
        borrowed = int(left < 0)
        steps.append(f"{x}-{y}={borrowed}{left % 10}")
    return f"{_compared(a, b)} {' '.join(steps)} {MARK}{int(a) - int(b)}"


def _yes_no(question: Question, yes: bool) -> str:
    return question.language.yes if yes else question.language.no


_WORKED: dict[Name, Callable[[Question], str]] = {
    "count": _count,
    "contains": _contains,
    "spell": _spell,
    "reverse": _reverse,
    "larger": _larger,
    "order": _order,
    "add": _add,
    "subtract": _subtract,
}
