"""Words, sentences and numbers for the tasks, divided into training and held-out ones."""

import re
import string
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from random import Random
from typing import Literal

from ..config import DataConfig, UserError
from ..data.sources import documents

CORPUS = "package:sotu.jsonl.xz"
HELD_OUT = 0.2
TRIES = 50  # number of draws after which we give up

Kind = Literal["words", "sentences", "numbers"]
Lengths = Mapping[Kind, Collection[int]]
"""Allowed numbers of letters in words, of words in sentences, and of digits in numbers."""
LENGTHS: Lengths = {"words": range(3, 31), "sentences": range(3, 11), "numbers": range(2, 5)}
UNITS: dict[Kind, str] = {"words": "letters", "sentences": "words", "numbers": "digits"}

WORD = re.compile(r"[a-z]{3,}")
SENTENCE = re.compile(r"[A-Z][a-z]*(?: [A-Za-z][a-z]*){2,9}[.!?]")
BETWEEN_SENTENCES = re.compile(r"(?<=[.!?])\s+|\n+")
PUNCTUATION = string.punctuation + "“”‘’–—"


def is_held_out(text: str, share: float = HELD_OUT) -> bool:
    """True if a word or a string of digits is held out for tests, which is a share of about `share`. Only a hash of the
    text decides. So the answer never depends on the list or the seed."""
    return int.from_bytes(blake2b(text.lower().encode(), digest_size=4).digest(), "big") < share * 2**32


def has_held_out(sentence: str) -> bool:
    """True if a sentence contains a held-out word of at least three letters; then the sentence is held out too."""
    return any(is_held_out(word) for word in words_of(sentence) if len(word) >= 3)


def words_of(sentence: str) -> list[str]:
    """The words of a sentence from a lexicon, without its final mark."""
    return sentence[:-1].split(" ")


@dataclass(frozen=True)
class Lexicon:
    """Words and sentences, training and held-out ones together."""

    words: tuple[str, ...]
    """Words of at least three letters, all from a to z; the most frequent first."""
    sentences: tuple[str, ...]
    """Sentences of three to ten words that consist of letters only, ending with . ! or ?"""

    @classmethod
    def read(cls, sources: Sequence[str] = (CORPUS,), field: str = "text", most: int = 10_000) -> "Lexicon":
        """The `most` most frequent words of the sources, and all their sentences. Sources are those of `documents`.

        Words with capitals are ignored, which excludes most names. A word list is a valid source: equally frequent
        words keep their order. Raises UserError for a source that cannot be read.
        """
        pieces, sentences = Counter[str](), dict[str, None]()
        for source in sources:
            for document in documents(source, DataConfig(field=field)):
                text = document.data.decode("utf-8", "replace")
                pieces.update(text.split())
                sentences |= dict.fromkeys(filter(SENTENCE.fullmatch, BETWEEN_SENTENCES.split(text)))
        words = Counter[str]()
        for piece, count in pieces.items():
            words[piece.strip(PUNCTUATION)] += count
        frequent = [word for word, _ in words.most_common() if WORD.fullmatch(word)]
        return cls(tuple(frequent[:most]), tuple(sentences))


class Retry(Exception):
    """The drawn words or numbers do not suit the task; another draw may."""


class ItemSampler:
    """Draws training or held-out words and sentences of a lexicon, and numbers; the seed determines all draws."""

    def __init__(self, lexicon: Lexicon, held_out: bool, lengths: Lengths, seed: str) -> None:
        """`lengths` replace entries of LENGTHS. Raises UserError for invalid lengths."""
        if unknown := sorted(set(lengths) - set(LENGTHS)):
            raise UserError(f"unknown lengths: {', '.join(unknown)}; there are lengths of {', '.join(LENGTHS)}")
        if bad := [kind for kind, sizes in lengths.items() if min(sizes, default=0) < 1]:
            raise UserError(f"lengths of {bad[0]} must be a list of numbers, each at least 1")
        self.lexicon, self.held_out, self.lengths = lexicon, held_out, {**LENGTHS, **lengths}
        self.random = Random(seed)

    @cached_property
    def words(self) -> list[str]:
        own = [word for word in self.lexicon.words if is_held_out(word) == self.held_out]
        return self._of_length("words", own, len)

    @cached_property
    def sentences(self) -> list[str]:
        own = [sentence for sentence in self.lexicon.sentences if has_held_out(sentence) == self.held_out]
        return self._of_length("sentences", own, lambda sentence: len(words_of(sentence)))

    def _of_length(self, kind: Kind, own: list[str], length: Callable[[str], int]) -> list[str]:
        texts = [text for text in own if length(text) in self.lengths[kind]]
        if not texts:
            others = f"; there are {len(own)} of {_span(map(length, own))}" if own else ", and none of any other length"
            raise UserError(f"there are no {self.about(kind)}{others}")
        return texts

    def about(self, kind: Kind) -> str:
        """A description of the words, sentences or numbers that can be drawn, for messages."""
        part = "held-out" if self.held_out else "training"
        return f"{part} {kind} of {_span(self.lengths[kind])} {UNITS[kind]}"

    def word(self) -> str:
        return self.random.choice(self.words)

    def sentence(self) -> str:
        return self.random.choice(self.sentences)

    def letter(self) -> str:
        return self.random.choice(string.ascii_lowercase)

    def digits(self) -> int:
        """A random allowed number of digits."""
        return self.random.choice(sorted(set(self.lengths["numbers"])))

    def number(self, digits: int, start: str = "") -> str:
        """A random number with `digits` digits that begins with `start`."""
        for _ in range(TRIES):
            number = start + "".join(self.random.choices(string.digits, k=digits - len(start)))
            if number[0] != "0" and self._has_number(number):
                return number
        raise Retry

    def neighbour(self, number: str, within: int) -> str:
        """A different number that differs from `number` by at most `within`."""
        every = (int(number) + step for step in range(-within, within + 1) if step)
        return self.one_of(str(other) for other in every if other > 0 and self._has_number(str(other)))

    def _has_number(self, number: str) -> bool:
        return len(number) in self.lengths["numbers"] and is_held_out(number) == self.held_out

    def coin(self) -> bool:
        return self.random.random() < 0.5

    def one_of(self, texts: Iterable[str]) -> str:
        return self.some_of(texts, 1)[0]

    def some_of(self, texts: Iterable[str], count: int) -> list[str]:
        """`count` different strings in random order. Raises Retry if there are fewer."""
        choice = sorted(set(texts))
        if len(choice) < count:
            raise Retry
        return self.random.sample(choice, count)

    def near(self, word: str) -> list[str]:
        """Words that are one or two edits away: both words become equal if a letter is removed from one or from
        each."""
        return [other for key in _lacking(word) for other in self._by_lacking[key] if other != word]

    def alike(self, word: str) -> list[str]:
        """The words with the same length and first letter, including `word`."""
        return self._by_look[len(word), word[0]]

    @cached_property
    def _by_lacking(self) -> dict[str, list[str]]:
        words = defaultdict(list)
        for word in self.words:
            for key in _lacking(word):
                words[key].append(word)
        return words

    @cached_property
    def _by_look(self) -> dict[tuple[int, str], list[str]]:
        words = defaultdict(list)
        for word in self.words:
            words[len(word), word[0]].append(word)
        return words


def _lacking(word: str) -> set[str]:
    """The word, and all words that result from removing one of its letters."""
    return {word, *(word[:index] + word[index + 1 :] for index in range(len(word)))}


def _span(lengths: Iterable[int]) -> str:
    sizes = sorted(set(lengths))
    whole = len(sizes) > 2 and sizes == list(range(sizes[0], sizes[-1] + 1))
    return f"{sizes[0]} to {sizes[-1]}" if whole else " or ".join(map(str, sizes))


@dataclass(frozen=True)
class Parts:
    """How tasks divide a text into parts: a word into letters, or a sentence into words."""

    name: str
    whole: str
    text: Callable[[ItemSampler], str]
    another: Callable[[ItemSampler], str]
    """Draws a random part, not related to a text."""
    split: Callable[[str], list[str]]
    join: Callable[[list[str]], str]

    def of(self, text: str) -> list[str]:
        """The parts that questions may use, in lower case."""
        return [part.lower() for part in self.split(text) if part.isalpha()]

    def edited(self, text: str, instead: Mapping[str, list[str]]) -> str:
        """The text with some parts replaced, given as lower-case part -> new parts."""
        return self.join([new for part in self.split(text) for new in instead.get(part.lower(), [part])])


LETTERS = Parts("letter", "word", ItemSampler.word, ItemSampler.letter, list, "".join)
WORDS = Parts(
    "word",
    "sentence",
    ItemSampler.sentence,
    ItemSampler.word,
    lambda sentence: [*words_of(sentence), sentence[-1]],
    lambda parts: " ".join(parts[:-1]) + parts[-1],
)


def levenshtein(a: str, b: str) -> int:
    """The Levenshtein distance between two words."""
    row = list(range(len(b) + 1))
    for done, letter in enumerate(a, 1):
        before, row = row, [done]
        for index, other in enumerate(b):
            row.append(min(row[index] + 1, before[index + 1] + 1, before[index] + (letter != other)))
    return row[-1]
