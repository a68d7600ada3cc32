"""Labels are right by another route, held-out words stay held out, and answers are counted as they should be."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytequilt import load
from bytequilt.config import UserError
from bytequilt.evals.answers import answer_in, baselines, evaluate
from bytequilt.evals.characters import TASKS, Item, held_out_items, records, shots, write_records
from bytequilt.evals.words import Lexicon, is_held_out, levenshtein

LEXICON = Lexicon.read()
REPEATING = Lexicon(
    tuple("".join(letters) for size in (3, 4, 5) for letters in product("abc", repeat=size)),
    tuple(
        f"{a.capitalize()} {b} {a} {c} {a.upper()}."
        for a, b, c in permutations(("that", "the", "then", "of", "he", "I"), 3)
    ),
)
"""Words of few letters and sentences of few words, so that what is asked for is often there several times."""


def edited(sentence, word):
    """Each word by way of a function, the mark at the end untouched."""
    body, end = sentence[:-1], sentence[-1]
    return " ".join(new for old in body.split() if (new := word(old))) + end


ORACLES = {
    "spell": lambda w: re.sub("(?<=.)(?=.)", " ", w),
    "spell_inverse": lambda w: w.replace(" ", ""),
    "reverse": lambda w: "".join(reversed(w)),
    "contains_char": lambda w, c: "Yes" if c in w else "No",
    "ins_char": lambda w, c, new: w.replace(c, c + new),
    "del_char": lambda w, c: w.replace(c, ""),
    "sub_char": lambda w, c, new: w.replace(c, new),
    "swap_char": lambda w, a, b: w.translate(str.maketrans(a + b, b + a)),
    "contains_word": lambda s, w: "Yes" if re.search(rf"\b{w}\b", s, re.IGNORECASE) else "No",
    "ins_word": lambda s, w, new: re.sub(rf"\b({w})\b", rf"\1 {new}", s, flags=re.IGNORECASE),
    "del_word": lambda s, w: edited(s, lambda old: "" if old.lower() == w else old),
    "sub_word": lambda s, w, new: edited(s, lambda old: new if old.lower() == w else old),
    "swap_word": lambda s, a, b: edited(s, lambda old: {a: b, b: a}.get(old.lower(), old)),
    "orth": lambda w, a, b: min((a, b), key=lambda other: distance(w, other)),
    "count_char": lambda w, c: str(len(re.findall(c, w))),
    "count_sentence": lambda s, c: str(len(re.findall(c, s, re.IGNORECASE))),
    "compare": lambda a, b: a if int(a) > int(b) else b,
    "add": lambda a, b: str(int(a) + int(b)),
    "order": lambda a, b: "Yes" if int(a) < int(b) else "No",
}


def distance(a, b):
    """Levenshtein's, by its definition."""
    table = {(i, 0): i for i in range(len(a) + 1)} | {(0, j): j for j in range(len(b) + 1)}
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            same = table[i - 1, j - 1] + (a[i - 1] != b[j - 1])
            table[i, j] = min(same, table[i - 1, j] + 1, table[i, j - 1] + 1)
    return table[len(a), len(b)]


@pytest.mark.parametrize("lexicon", [LEXICON, REPEATING], ids=["real", "repeating"])
@pytest.mark.parametrize("name", TASKS)
def test_answers_are_right_by_another_route(name, lexicon):
    for item in held_out_items(TASKS[name], lexicon, 40, seed=3):
        assert TASKS[name].accepts(ORACLES[name](*item.fields), item), item
        assert not item.choices or item.answer in item.choices


def test_there_are_thirteen_tasks_of_the_kinds_of_cute_and_six_more():
    assert len(TASKS) == 19
    assert set(TASKS) == set(ORACLES)


@given(st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_levenshtein_is_its_definition(a, b):
    assert levenshtein(a, b) == distance(a, b)


@settings(deadline=None, max_examples=10)
@given(st.sampled_from(sorted(TASKS)), st.integers(0, 99))
def test_a_seed_gives_the_same_items(name, seed):
    one, again = (held_out_items(TASKS[name], LEXICON, 5, seed) for _ in range(2))
    assert one == again
    assert len(set(one)) == 5
    assert held_out_items(TASKS[name], LEXICON, 5, seed + 1) != one


def held_out_among(*texts):
    """Whether some word or number is held out; letters that are spelt out make up a word."""
    joined = [re.sub(r"\b(\w) (?=\w\b)", r"\1", text.lower()) for text in texts]
    return any(is_held_out(word) for text in joined for word in re.findall("[a-z]{3,}|[0-9]+", text))


@pytest.mark.parametrize("name", TASKS)
def test_what_is_held_out_is_tested_and_never_trained_on(name):
    task = TASKS[name]
    assert all(held_out_among(item.fields[0]) for item in held_out_items(task, LEXICON, 30))
    assert not any(held_out_among(*item.fields) for item in shots(task, LEXICON))
    for record in records(LEXICON, 60, [name]):
        question = record["prompt"].removesuffix('Answer: "')
        assert not held_out_among(*re.findall('"(.*?)"' if task.kind != "numbers" else "[0-9]+", question))


def test_a_fifth_is_held_out_whatever_the_case():
    assert sum(map(is_held_out, LEXICON.words)) / len(LEXICON.words) == pytest.approx(0.2, abs=0.02)
    assert [is_held_out(word.upper()) for word in LEXICON.words[:50]] == list(map(is_held_out, LEXICON.words[:50]))
    assert not any(is_held_out(word, share=0) for word in LEXICON.words)
    assert all(is_held_out(word, share=1) for word in LEXICON.words)


def test_words_come_by_frequency_and_sentences_whole(tmp_path):
    text = (
        'The ship was old. The ship, "old" as it was, left! In 1900 it sank. It left us all behind? USA is here. Go on.'
    )
    (tmp_path / "a.txt").write_text(text)
    found = Lexicon.read([str(tmp_path / "a.txt")])
    assert found.words == ("ship", "was", "old", "left", "sank", "all", "behind", "here")
    assert found.sentences == ("The ship was old.", "It left us all behind?")


def test_lengths_are_those_asked_for():
    lengths = {"words": [5], "sentences": [4], "numbers": [6]}
    assert {len(i.fields[0]) for i in held_out_items(TASKS["reverse"], LEXICON, 20, lengths=lengths)} == {5}
    assert {len(i.fields[0].split()) for i in held_out_items(TASKS["del_word"], LEXICON, 9, lengths=lengths)} == {4}
    assert {len(n) for i in held_out_items(TASKS["add"], LEXICON, 20, lengths=lengths) for n in i.fields} == {6}
    with pytest.raises(UserError, match="no held-out words of 99 letters; there are"):
        held_out_items(TASKS["reverse"], LEXICON, 5, lengths={**lengths, "words": [99]})


@pytest.mark.parametrize(
    "name", [name for name, task in TASKS.items() if "contains" in name or name in ("orth", "order")]
)
def test_two_choices_are_right_equally_often(name):
    assert set(Counter(item.label for item in held_out_items(TASKS[name], LEXICON, 40)).values()) == {20}


def test_records_are_balanced_and_end_with_a_quote(tmp_path):
    found = list(records(LEXICON, 2 * len(TASKS), seed=1))
    assert Counter(Counter(record["id"].split("-")[0] for record in found).values()) == {2: len(TASKS)}
    assert all(record["prompt"].endswith('Answer: "') and record["text"].endswith('"') for record in found)
    assert len({record["id"] for record in found}) == len(found)
    write_records(tmp_path / "tasks.jsonl", found)
    assert [json.loads(line) for line in (tmp_path / "tasks.jsonl").read_text().splitlines()] == found


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('Yes"', "Yes"),
        ('Yes" and more "', "Yes"),
        ("Yes", None),
        ("", None),
        ('"', None),
        (' "', None),
        ('a b"', "a b"),
    ],
)
def test_an_answer_ends_at_its_quote(text, answer):
    assert answer_in(text) == answer


def test_case_counts_but_for_words():
    item = Item(("Ab cd.",), "Cd Ab.")
    assert TASKS["swap_word"].accepts("cd ab.", item)
    assert not TASKS["swap_char"].accepts("cd ab.", item)


def test_baselines_are_the_best_constant_and_the_copy():
    items = [Item(("a",), "1"), Item(("1",), "1"), Item(("b",), "2")]
    assert baselines(TASKS["count_char"], items) == {"constant": 2 / 3, "copy": 1 / 3}


@dataclass
class Text:
    text: str


class Oracle:
    """Answers the last question of a prompt by what was asked; knows nothing else, and finds all texts alike."""

    def __init__(self, wrong=""):
        self.wrong = wrong
        self.answers = {
            task.question(item): item.answer for task in TASKS.values() for item in held_out_items(task, LEXICON, 4)
        }

    def generate(self, prompt, *, max_bytes, temperature, stop):
        asked = [re.sub(r"^5\. ", "", one.splitlines()[-1]) for one in prompt]
        return [Text(f'{self.answers[one]}{self.wrong}"') for one in asked]

    def score(self, pairs):
        return [Cost(0)] * len(pairs)


@pytest.mark.parametrize("form", ["few-shot", "fine-tuned"])
def test_who_knows_all_has_all_right(form):
    found = evaluate(Oracle(), items=4, form=form, lexicon=LEXICON)
    assert set(found["tasks"]) == set(TASKS)
    assert {row["accuracy"] for row in found["tasks"].values()} == {1.0}
    assert (found["means"]["all"]["accuracy"], found["means"]["all"]["tasks"]) == (1.0, 19)
    none = evaluate(Oracle("x"), items=4, form=form, lexicon=LEXICON)["tasks"]
    assert {row["accuracy"] for row in none.values()} == {0.0}


class Answers:
    """Says the same to everything, and finds some texts cheaper than others."""

    def __init__(self, text, bits=lambda prompt, answer: 0):
        self.text, self.bits = text, bits
        self.asked = []

    def generate(self, prompt, *, max_bytes, temperature, stop):
        self.asked = [(one, max_bytes, temperature, stop) for one in prompt]
        return [Text(self.text)] * len(prompt)

    def score(self, pairs):
        return [Cost(self.bits(*pair)) for pair in pairs]


@dataclass
class Cost:
    bits: float


def test_prompts_are_an_instruction_four_examples_and_a_question():
    model = Answers("")
    evaluate(model, ["contains_char"], items=2, lexicon=LEXICON)
    prompt, max_bytes, temperature, stop = model.asked[0]
    instruction, empty, *lines = prompt.split("\n")
    assert (instruction, empty) == ("Say whether a letter is in a word: Yes or No. The first 4 are done.", "")
    assert [line[:7] for line in lines] == [f'{n}. Is "' for n in range(1, 6)]
    assert sorted(line.split('Answer: "')[1] for line in lines) == ["", 'No"', 'No"', 'Yes"', 'Yes"']
    assert (max_bytes, temperature, stop) == (19, 0, ["\n"])


@pytest.mark.parametrize(
    ("text", "accuracy", "unparsed"), [('Yes"', 0.5, 0), ('yes"', 0, 0), ("Yes", 0, 1), ("", 0, 1)]
)
def test_what_is_no_answer_is_wrong_and_counted(text, accuracy, unparsed):
    row = evaluate(Answers(text), ["order"], items=10, lexicon=LEXICON)["tasks"]["order"]
    assert (row["accuracy"], row["unparsed"], row["constant"]) == (accuracy, unparsed, 0.5)
    assert row["stderr"] == pytest.approx((accuracy * (1 - accuracy) / 10) ** 0.5)


def test_the_likelier_answer_counts_whatever_is_written():
    items = {TASKS["compare"].question(item): item for item in held_out_items(TASKS["compare"], LEXICON, 10)}
    for sign in (1, -1):
        model = Answers("", lambda prompt, answer: sign * (answer != items[prompt].answer + '"'))  # noqa: B023
        row = evaluate(model, ["compare"], items=10, form="fine-tuned", lexicon=LEXICON)["tasks"]["compare"]
        assert (row["accuracy"], row["likelihood"]["accuracy"]) == (0, (1 + sign) / 2)


def test_a_model_is_asked_for_the_likelier_answer_too():
    found = evaluate(load("tiny"), ["order", "count_char"], items=2, lexicon=LEXICON)["tasks"]
    assert found["count_char"]["likelihood"] is None
    assert 0 <= found["order"]["likelihood"]["accuracy"] <= 1
    assert found["order"]["items"] == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [({"tasks": ["chess"]}, "no task named chess"), ({"form": "oral"}, "no form"), ({"items": 0}, "items")],
)
def test_what_cannot_be_asked_is_said(options, said):
    with pytest.raises(UserError, match=said):
        evaluate(Oracle(), **options)


def test_too_few_words_are_counted():
    with pytest.raises(UserError, match=r"spell: 500 items are needed, and .* give"):
        held_out_items(TASKS["spell"], Lexicon(LEXICON.words[:50], LEXICON.sentences), 500)
