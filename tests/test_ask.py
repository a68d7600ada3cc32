"""Questions are read as they are meant, worked out right, kept apart from tests, and answered by the network alone."""

import re
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from questions import held_out_questions, is_for_training, is_kept, longer_questions, records
from working import answer, worked

from bytequilt import load
from bytequilt.cli import main
from bytequilt.config import UserError
from bytequilt.evals.ask import ABLE, MARK, ROOM, Reply, ask, prompt, read_question
from bytequilt.evals.wordings import ENGLISH, LANGUAGES, MOST_DIGITS, RUSSIAN, TASKS, Question, understand

ASKED = 12  # held-out questions of a task and language here; benchmarks/letters.py asks 200
KNOWN = [
    ('How many "r" are in "strawberry"?', "3"),
    ("How many r in strawberry", "3"),
    ("how many “R” are in ‘Strawberry’ ?", "3"),
    ('Сколько букв "р" в слове "карбюратор"?', "3"),
    ("Сколько букв р в слове карбюратор?", "3"),
    ('Does "banana" contain "n"?', "Yes"),
    ('Is "z" a letter of "banana"?', "No"),
    ("Есть ли буква «щ» в слове «борщ»?", "Да"),
    ('Spell "sun".', "s u n"),
    ('Which letters is "sun" made of?', "s u n"),
    ('Reverse "sun"', "nus"),
    ('What is "sun" written backwards?', "nus"),
    ("Which is larger, 380 or 381?", "381"),
    ("Does 380 come before 381?", "Yes"),
    ("Does 381 come before 380?", "No"),
    ("Идёт ли 381 перед 380?", "Нет"),
    ("What is 480+975?", "1455"),
    ("How much is 480 + 975?", "1455"),
    ("What is 380 - 381?", "-1"),
    ("Сколько будет 1000 − 1?", "999"),
]

ORACLES = {
    "count": lambda word, letter: str(len(re.findall(letter, word))),
    "contains": lambda word, letter: {letter} <= set(word),
    "spell": lambda word, _: re.sub("(?<=.)(?=.)", " ", word),
    "reverse": lambda word, _: "".join(reversed(word)),
    "larger": lambda a, b: a if int(a) - int(b) > 0 else b,
    "order": lambda a, b: int(b) - int(a) > 0,
    "add": lambda a, b: str(int(a) + int(b)),
    "subtract": lambda a, b: str(int(a) - int(b)),
}


@pytest.fixture(scope="module")
def letters():
    return load("letters")


# ------------------------------------------------------------------------------------------------- reading, by code


@pytest.mark.parametrize(("text", "right"), KNOWN)
def test_a_question_is_understood_and_its_answer_is_known(text, right):
    assert answer(read_question(text)) == right


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.name)
@pytest.mark.parametrize("task", TASKS)
def test_every_wording_means_its_task_with_or_without_quotes(language, task):
    fields = ("17", "8") if task in MOST_DIGITS else ("word", "o") if task in ("count", "contains") else ("word",)
    question = Question(task, language, fields)
    assert understand(question.text) == question
    names = dict(zip("AB" if question.is_of_words is False else "WL", fields, strict=False))
    for wording in language.wordings[task]:
        for plain in expanded(wording):
            text = re.sub(r"\b[WLAB]\b", lambda place: names[place[0]], plain)
            for asked in (text, text.replace('"', ""), f"  {text.upper()} ", text.rstrip("?."), text.replace("ё", "е")):
                meant = understand(asked)
                assert meant is not None, asked
                assert (meant.task, meant.fields) == (task, fields), asked


def expanded(wording: str) -> list[str]:
    """Every text that a wording stands for, by rewriting its innermost brackets."""
    inner = re.search(r"([\[{])([^\[\]{}]*)[\]}]", wording)
    if inner is None:
        return [" ".join(wording.split())]
    choices = inner[2].split("|") + [""] * (inner[1] == "[")
    return [text for choice in choices for text in expanded(wording[: inner.start()] + choice + wording[inner.end() :])]


@pytest.mark.parametrize(
    ("text", "task", "fields"),
    [
        ("how many r are there in Strawberry", "count", ("strawberry", "r")),
        ("Count the letter r in 'strawberry'!", "count", ("strawberry", "r")),
        ("сколько раз буква Р встречается в «карбюратор» ?", "count", ("карбюратор", "р")),
        ('Сколько "r" в слове "strawberry"', "count", ("strawberry", "r")),
        ("how many Р in КАРБЮРАТОР", "count", ("карбюратор", "р")),
        ("Is there an r in strawberry", "contains", ("strawberry", "r")),
        ("Is a in banana?", "contains", ("banana", "a")),
        ("Напиши ёлку задом наперед", "reverse", ("ёлку",)),
        ("Скажи по буквам: мёд", "spell", ("мёд",)),
        ("which is larger: 007 or 8", "larger", ("7", "8")),
        ("Что больше — 380 или 381?", "larger", ("380", "381")),
        ("Is 381 larger than 380?", "order", ("380", "381")),
        ("381 больше 380?", "order", ("380", "381")),
        ("Subtract 345 from 12", "subtract", ("12", "345")),
        ("12 – 345 = ?", "subtract", ("12", "345")),
        ("What's 12,345 plus 1", "add", ("12345", "1")),
    ],
)
def test_plain_phrasings_are_understood(text, task, fields):
    meant = understand(text)
    assert (meant.task, meant.fields) == (task, fields)


@pytest.mark.parametrize(
    "text",
    [
        "Spellsun",
        "How many letters are in sun?",
        "Which is larger -5 or 3?",
        "What is -3 + 5?",
        "Spell the word",
        "1 + 2 + 3",
    ],
)
def test_what_means_something_else_is_not_understood(text):
    assert understand(text) is None


@pytest.mark.parametrize(
    "text", ["", "What is the capital of France?", "How many?", "Spell", "What is 3 + x?", "Spell 12"]
)
def test_what_is_no_question_is_refused_with_what_can_be_asked(text):
    with pytest.raises(UserError) as refused:
        read_question(text)
    assert ABLE in str(refused.value)
    assert len(str(refused.value)) <= 300


@pytest.mark.parametrize("text", [f"Spell {'a' * 17}", "What is 1234567 + 1?", "Spell λόγος"])
def test_what_was_never_learnt_is_refused(text):
    with pytest.raises(UserError, match="beyond"):
        read_question(text)


@given(st.text(max_size=40))
def test_any_text_is_a_question_or_none(text):
    question = understand(text)
    assert question is None or question.fields


# --------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.name)
@pytest.mark.parametrize("task", TASKS)
def test_working_out_agrees_with_another_way_to_the_answer(language, task):
    """Each step of a sum follows from its own digits and what is carried; other answers are Python's own."""
    longer = longer_questions(task, language, 100)
    assert not any(question.fits for question in longer)
    for question in [*held_out_questions(task, language, 100), *longer]:
        steps, mark, right = worked(question).rpartition(MARK)
        a, b = (*question.fields, "")[:2]
        expected = ORACLES[task](a, b)
        if isinstance(expected, bool):
            expected = language.yes if expected else language.no
        assert (mark, right) == (MARK, expected)
        columns = re.findall(r"(\d)([-+])(\d)=(\d)(\d)", steps)
        carried = 0
        for x, sign, y, ten, unit in columns:
            total = eval(f"{x}{sign}{y}{sign}{carried}")
            carried = int(ten)
            assert total == (10 * carried + int(unit) if sign == "+" else int(unit) - 10 * carried)
        assert bool(columns) == (task in ("add", "subtract"))
        assert len(worked(question).encode()) < ROOM


def test_training_has_nothing_of_the_tests():
    examples = list(islice(records(4000), 4000))
    text = "\n".join(example["prompt"] + example["text"] for example in examples)
    assert not re.search(r"strawberr|карбюратор|\b38[0-5]\b|\b37[5-9]\b", text)
    for example in examples:
        question = understand(example["prompt"])
        assert is_for_training(question)
        assert prompt(question) == example["prompt"]
        assert worked(question) == example["text"]
        if question.is_of_words:
            assert not is_kept(question.fields[0])
        else:
            assert not any(is_kept(number) for number in question.fields)


def test_the_same_seed_draws_the_same_examples():
    assert list(records(50, seed=3)) == list(records(50, seed=3)) != list(records(50, seed=4))


def test_counts_are_drawn_flat():
    counts = [answer(understand(e["prompt"])) for e in records(3000, tasks=("count",))]
    assert min(counts.count(str(times)) for times in range(6)) > 0.1 * len(counts)


# ------------------------------------------------------------------------------------------- answers, by the network


def test_an_answer_is_what_follows_the_mark():
    question = Question("spell", ENGLISH, ("ab",))
    assert Reply(question, "= a b").answer == "a b"
    assert Reply(question, "3=3 8<9 = 9").answer == "9"
    assert Reply(question, "3=3 8<9").answer is None
    assert Reply(question, "a0 = ").answer is None


def test_the_shipped_model_answers_what_no_example_had(letters):
    questions = [
        question for task in TASKS for language in LANGUAGES for question in held_out_questions(task, language, ASKED)
    ]
    right = [reply.answer == answer(reply.question) for reply in ask(letters, questions)]
    assert sum(right) >= 0.95 * len(right)


@pytest.mark.parametrize(("text", "right"), KNOWN[:4] + KNOWN[12:16])
def test_what_it_is_known_for_is_right(letters, text, right):
    (reply,) = ask(letters, [read_question(text)])
    assert reply.answer == right


def test_an_answer_does_not_hang_on_what_else_is_asked(letters):
    """Patches of all texts end together here, and texts come and go."""
    questions = [read_question(text) for text, _ in KNOWN]
    alone = [ask(letters, [question])[0].text for question in questions]
    assert [reply.text for reply in ask(letters, questions)] == alone


def test_with_noise_for_weights_the_answers_fail():
    """Nothing but the network knows them."""
    noisy = load("letters")
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in noisy.model.parameters():
            weight.copy_(torch.randn_like(weight) * weight.std())
    questions = [question for task in TASKS for question in held_out_questions(task, RUSSIAN, 5)]
    assert not any(reply.answer == answer(reply.question) for reply in ask(noisy, questions))


# ----------------------------------------------------------------------------------------------------------- the verb


def test_the_verb_prints_the_answer_last_and_names_the_model(capfd):
    main(["ask", "Does 381 come before 380?"])
    plain = capfd.readouterr()
    assert plain.out == "No\n"
    assert "letters" in plain.err
    main(["ask", "Reverse strawberry"])
    assert capfd.readouterr().out == "y r r e b w a r t s\n"
    main(["ask", "How many r in strawberry?", "--show"])
    shown = capfd.readouterr().out
    assert shown.endswith("\n3\n")
    assert "s0 t0 r1 " in shown.replace("|", "")


def test_the_verb_refuses_other_questions_before_it_loads_a_model(capfd):
    with pytest.raises(SystemExit) as stop:
        main(["ask", "Why?", "--model", "no-such-model"])
    assert stop.value.code == 2
    assert ABLE in capfd.readouterr().err
