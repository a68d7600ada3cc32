"""Tasks on the letters of words, the words of sentences and the digits of numbers.

Thirteen tasks are those of CUTE (Edman et al. 2024, arXiv 2409.15452), with new wording and other words, so results
cannot be compared with CUTE's. Its fourteenth task is left out: which of two words is closer in meaning does not depend
on letters. Counting, reversing, comparing, adding and ordering are added. The prompt has CUTE's form: an instruction,
four numbered examples, a question, and an answer in double quotes.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Literal

from ..config import UserError
from ..files import write_text
from .words import LENGTHS, LETTERS, TRIES, WORDS, ItemSampler, Kind, Lengths, Lexicon, Parts, Retry, levenshtein

Level = Literal["char", "word", "number"]
YES_NO = ("Yes", "No")
SHOTS = 4
WITHIN = 9  # largest difference between two numbers in an ordering task


@dataclass(frozen=True)
class Item:
    """The fields of one question and its correct answer."""

    fields: tuple[str, ...]
    """Values for the wording; the first one is the text or number that the question is about."""
    answer: str
    choices: tuple[str, ...] = ()
    """The two possible answers, if the question names them; otherwise empty."""

    @property
    def label(self) -> str | int:
        """What a constant guess can match: the index of the answer among the choices or, without choices, the
        answer."""
        return self.choices.index(self.answer) if self.choices else self.answer


@dataclass(frozen=True)
class Task:
    """A kind of question."""

    name: str
    level: Level
    """What the task works on. Answers of level `word` are compared without regard to case."""
    kind: Kind
    """What items are built from."""
    instruction: str
    wording: str
    """The question, with numbered braces for the fields."""
    draw: Callable[[ItemSampler], Item]
    """Draws an item. Raises Retry if the drawn words or numbers do not suit the task."""

    def item(self, sampler: ItemSampler) -> Item:
        """Draw the next item. Raises UserError if no suitable item is drawn after many attempts."""
        for _ in range(TRIES**2):
            with suppress(Retry):
                return self.draw(sampler)
        raise UserError(f"{self.name}: {sampler.about(self.kind)} allow no question")

    def items(self, sampler: ItemSampler, count: int) -> list[Item]:
        """Draw `count` different items; of two possible answers, each is correct equally often. Raises UserError if too
        few exist."""
        items, labels = dict[Item, None](), Counter[str | int]()
        for _ in range(TRIES * count):
            item = self.item(sampler)
            if item not in items and not (item.choices and 2 * labels[item.label] >= count):
                items[item] = None
                labels[item.label] += 1
            if len(items) == count:
                return list(items)
        raise UserError(f"{self.name}: {count} items are needed, and {sampler.about(self.kind)} give only {len(items)}")

    def question(self, item: Item) -> str:
        """The question with the beginning of its answer, up to the opening quote."""
        return f'{self.wording.format(*item.fields)} Answer: "'

    def few_shot(self, item: Item, shots: Sequence[Item]) -> str:
        """A prompt: the instruction, numbered examples with answers, and the question as the last number."""
        done = "".join(f'{n}. {self.question(shot)}{shot.answer}"\n' for n, shot in enumerate(shots, 1))
        opening = f"{self.instruction} The first {len(shots)} are done.\n\n"
        return f"{opening}{done}{len(shots) + 1}. {self.question(item)}"

    def accepts(self, answer: str, item: Item) -> bool:
        """True if the answer is correct."""
        return answer == item.answer or (self.level == "word" and answer.lower() == item.answer.lower())


def find_tasks(names: Sequence[str] = ()) -> list[Task]:
    """The tasks with these names; all tasks by default. Raises UserError for an unknown name."""
    if unknown := [name for name in names if name not in TASKS]:
        raise UserError(f"no task named {', '.join(unknown)}; there are {', '.join(TASKS)}")
    return [TASKS[name] for name in names or TASKS]


def held_out_items(task: Task, lexicon: Lexicon, count: int, seed: int = 0, lengths: Lengths = LENGTHS) -> list[Item]:
    """`count` different test items from held-out words and numbers."""
    return task.items(ItemSampler(lexicon, True, lengths, f"test {task.name} {seed}"), count)


def shots(task: Task, lexicon: Lexicon, seed: int = 0, lengths: Lengths = LENGTHS) -> list[Item]:
    """The four examples of few-shot prompts, from training words and numbers."""
    return task.items(ItemSampler(lexicon, False, lengths, f"shots {task.name} {seed}"), SHOTS)


def records(
    lexicon: Lexicon, count: int, tasks: Sequence[str] = (), seed: int = 0, lengths: Lengths = LENGTHS
) -> Iterator[dict[str, str]]:
    """Questions for fine-tuning from training words and numbers; the tasks take turns, and a question may occur twice.
    A record has `id`, `prompt` and `text`. Only `text` is to be learnt: set `prompt_field = "prompt"` in `[data]`."""
    samplers = [
        (task, ItemSampler(lexicon, False, lengths, f"training {task.name} {seed}")) for task in find_tasks(tasks)
    ]
    for number, (task, sampler) in enumerate(islice(cycle(samplers), count)):
        item = task.item(sampler)
        yield {"id": f"{task.name}-{seed}-{number}", "prompt": task.question(item), "text": f'{item.answer}"'}


def write_records(path: Path, records: Iterable[Mapping[str, str]]) -> None:
    """Write records as a JSONL file; it appears under its name only when complete."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def _spell(sampler: ItemSampler) -> Item:
    word = sampler.word()
    return Item((word,), " ".join(word))


def _spell_inverse(sampler: ItemSampler) -> Item:
    word = sampler.word()
    return Item((" ".join(word),), word)


def _reverse(sampler: ItemSampler) -> Item:
    word = sampler.word()
    return Item((word,), word[::-1])


def _count_char(sampler: ItemSampler) -> Item:
    """In half of the items the letter occurs several times; with random letters that would be rare."""
    word, several = sampler.word(), sampler.coin()
    letter = sampler.one_of(letter for letter, count in Counter(word).items() if (count > 1) == several)
    return Item((word, letter), str(word.count(letter)))


def _count_sentence(sampler: ItemSampler) -> Item:
    sentence = sampler.sentence()
    letters = [letter for letter in sentence.lower() if letter.isalpha()]
    letter = sampler.one_of(letters)
    return Item((sentence, letter), str(letters.count(letter)))


def _orth(sampler: ItemSampler) -> Item:
    """Both candidates have equal length and the same first letter, which alone decides 78 % of CUTE's items."""
    word = sampler.word()
    near = sampler.one_of(sampler.near(word))
    far = sampler.one_of(sampler.alike(near))
    if levenshtein(word, far) <= levenshtein(word, near):
        raise Retry
    choices = tuple(sampler.some_of((near, far), 2))
    return Item((word, *choices), near, choices)


def _contains(parts: Parts, sampler: ItemSampler) -> Item:
    """An absent part is taken from another text, because frequent parts are also more often present."""
    text, present = parts.text(sampler), sampler.coin()
    own = set(parts.of(text))
    part = sampler.one_of(own if present else set(parts.of(parts.text(sampler))) - own)
    return Item((text, part), YES_NO[not present], YES_NO)


def _insert(parts: Parts, sampler: ItemSampler) -> Item:
    text, old, new = _substitute(parts, sampler).fields
    return Item((text, old, new), parts.edited(text, {old: [old, new]}))


def _delete(parts: Parts, sampler: ItemSampler) -> Item:
    """Draw an item of a deletion task. The text has at least one other part, which remains."""
    text = parts.text(sampler)
    old, _ = sampler.some_of(parts.of(text), 2)
    return Item((text, old), parts.edited(text, {old: []}))


def _substitute(parts: Parts, sampler: ItemSampler) -> Item:
    text = parts.text(sampler)
    old = sampler.one_of(parts.of(text))
    new = sampler.one_of({parts.another(sampler)} - {old})
    return Item((text, old, new), parts.edited(text, {old: [new]}))


def _swap(parts: Parts, sampler: ItemSampler) -> Item:
    """Draw an item of a swap task. Both parts occur exactly once in the text, as in CUTE."""
    text = parts.text(sampler)
    a, b = sampler.some_of((part for part, count in Counter(parts.of(text)).items() if count == 1), 2)
    return Item((text, a, b), parts.edited(text, {a: [b], b: [a]}))


def _compare(sampler: ItemSampler) -> Item:
    """The numbers share a random number of leading digits; the first different digit is there or later."""
    digits = sampler.digits()
    a = sampler.number(digits)
    b = sampler.number(digits, start=a[: sampler.random.randrange(digits)])
    if a == b:
        raise Retry
    return Item((a, b), max(a, b), (a, b))


def _add(sampler: ItemSampler) -> Item:
    digits = sampler.digits()
    a, b = sampler.number(digits), sampler.number(digits)
    return Item((a, b), str(int(a) + int(b)))


def _order(sampler: ItemSampler) -> Item:
    a = sampler.number(sampler.digits())
    b = sampler.neighbour(a, WITHIN)
    return Item((a, b), YES_NO[int(a) > int(b)], YES_NO)


TEXT, A, B = "{0}", "{1}", "{2}"  # placeholders for the fields of an item


def _edits(level: Level, kind: Kind, parts: Parts) -> list[Task]:
    """The tasks that exist both for letters of words and for words of sentences."""
    part, whole = parts.name, parts.whole
    rows = [
        ("contains", f"Say whether a {part} is in a {whole}: Yes or No.", f'Is "{A}" a {part} of "{TEXT}"?', _contains),
        ("ins", f"Insert {part}s into {whole}s.", f'After each {part} "{A}" of "{TEXT}", put "{B}".', _insert),
        ("del", f"Take {part}s out of {whole}s.", f'Take each {part} "{A}" out of "{TEXT}".', _delete),
        ("sub", f"Replace {part}s of {whole}s.", f'For each {part} "{A}" of "{TEXT}", put "{B}".', _substitute),
        ("swap", f"Exchange {part}s of {whole}s.", f'Let {part}s "{A}" and "{B}" of "{TEXT}" change places.', _swap),
    ]
    return [
        Task(f"{name}_{level}", level, kind, instruction, wording, partial(draw, parts))
        for name, instruction, wording, draw in rows
    ]


_ROWS = [
    Task("spell", "char", "words", "Take words apart into letters.", f'Which letters is "{TEXT}" made of?', _spell),
    Task("spell_inverse", "char", "words", "Put letters together.", f'Which word is made of "{TEXT}"?', _spell_inverse),
    *_edits("char", "words", LETTERS),
    *_edits("word", "sentences", WORDS),
    Task("orth", "char", "words", "Compare spellings.", f'Which is fewer edits from "{TEXT}", "{A}" or "{B}"?', _orth),
    Task("count_char", "char", "words", "Count letters in words.", f'How many "{A}" are in "{TEXT}"?', _count_char),
    Task(
        "count_sentence",
        "char",
        "sentences",
        "Count letters in sentences, capitals too.",
        f'How many "{A}" are in "{TEXT}"?',
        _count_sentence,
    ),
    Task("reverse", "char", "words", "Write words backwards.", f'What is "{TEXT}" written backwards?', _reverse),
    Task("compare", "number", "numbers", "Tell which number is larger.", f"Which is larger, {TEXT} or {A}?", _compare),
    Task("add", "number", "numbers", "Add numbers.", f"How much is {TEXT} + {A}?", _add),
    Task("order", "number", "numbers", "Say whether numbers rise: Yes or No.", f"Does {TEXT} come before {A}?", _order),
]
TASKS = {task.name: task for task in _ROWS}
