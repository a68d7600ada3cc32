"""The text of an answer out of its bytes, and the other parts of the server that need no model."""

import base64
import random

import pytest
from serving import TEXTS, limits

from bytequilt.infer.sampling import Sampling
from bytequilt.serve.choice import Choice, finite, token, tops_of
from bytequilt.serve.errors import BadRequest, Overloaded
from bytequilt.serve.guard import Rates
from bytequilt.serve.schema import ChatRequest, CompletionRequest
from bytequilt.serve.scoring import Entry

# --------------------------------------------------------------------------------------------------------------- text


def cut(random, data, most=6):
    """The bytes in pieces at random places; where most is 1 every byte is one."""
    pieces, at = [], 0
    while at < len(data):
        size = random.randint(1, most)
        pieces.append(data[at : at + size])
        at += size
    return pieces


def test_pieces_join_to_the_decoding_of_all_bytes_wherever_a_text_is_cut():
    dice, whole = random.Random(0), " ".join(TEXTS).encode()
    for turn in range(10_000):
        start = dice.randrange(len(whole))
        data = whole[start : start + dice.randint(1, 40)]  # begins and breaks off anywhere, inside characters too
        if turn % 5 == 0:
            data = bytes(dice.choice([*data, 0xFF, 0xC3, 0xE2, 0x41]) for _ in data)
        parts = cut(dice, data, 1 + turn % 6)
        choice = Choice()
        pieces = [
            choice.add(part, finish_reason="length" if i == len(parts) - 1 else None) for i, part in enumerate(parts)
        ]
        assert b"".join(piece.data for piece in pieces) == data
        assert "".join(piece.text for piece in pieces) == data.decode("utf-8", "replace")


def test_no_replacement_character_comes_where_the_bytes_are_valid():
    dice, whole = random.Random(1), " ".join(TEXTS)
    for _ in range(300):
        choice = Choice()
        assert all("\ufffd" not in choice.add(part).text for part in cut(dice, whole.encode(), 4))


def test_an_offset_is_that_of_the_character_that_the_byte_belongs_to():
    data = "aéж道🧵b".encode()
    entries = [Entry(byte, -1.0, ()) for byte in data]
    choice, offsets = Choice(), []
    for part in (slice(0, 2), slice(2, 7), slice(7, None)):
        offsets += choice.add(data[part], entries[part]).offsets
    assert offsets == [0, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 4, 5]


def test_pieces_add_up():
    choice = Choice()
    parts = [choice.add(b"\xd0", [Entry(0xD0, -1.0, ())]), choice.add(b"\xb6!", [Entry(0xB6, -2.0, ())] * 2, "stop")]
    assert "".join(part.text for part in parts) == "ж!"
    assert parts[-1].finish_reason == "stop"


def test_bytes_are_written_as_openai_writes_them():
    assert [token(byte) for byte in b"a\n\xe2"] == ["a", "\n", "bytes:\\xe2"]
    assert token(None) == "<eos>"
    assert finite(-float("inf")) == -9999.0
    entry = Entry(97, -3.0, ((98, -1.0), (99, -2.0)))
    assert tops_of(entry, 1) == ((98, -1.0), (97, -3.0))
    assert tops_of(entry._replace(byte=98), 2) == entry.top


# ----------------------------------------------------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("fields", "prompts"),
    [
        ({"prompt": "é"}, ["é".encode()]),
        ({"prompt": ["a", "b"]}, [b"a", b"b"]),
        ({"prompt": [255, 0]}, [b"\xff\0"]),
        ({"prompt": [[255], [0, 1]]}, [b"\xff", b"\0\1"]),
        ({"prompt": []}, [b""]),
        ({"prompt_b64": base64.b64encode(b"\xff").decode()}, [b"\xff"]),
    ],
)
def test_a_prompt_may_be_text_or_bytes(fields, prompts):
    assert CompletionRequest(**fields).check(limits()) == prompts


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "prompt_b64": "YQ=="}, "prompt"),
        ({"prompt_b64": "?"}, "prompt_b64"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a" * 10_000}, "prompt"),
        ({"prompt": "a", "max_tokens": 10**6}, "max_tokens"),
        ({"prompt": "a", "n": 128}, "n"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fields, param):
    with pytest.raises(BadRequest) as refusal:
        CompletionRequest(**fields).check(limits())
    assert refusal.value.param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"logit_bias": {"256": 1}},
        {"logit_bias": {"1": 101}},
        {"logit_bias": {" 1": 1}},
        {"logit_bias": {"1.0": 1}},
        {"max_tokens": True},
        {"max_tokens": "2"},
        {"temperature": "1"},
        {"seed": 1.5},
        {"stream": "true"},
        {"echo": 1},
        {"stream_options": {"include_usage": "yes"}},
        {"prompt": [True]},
        {"stop": ["a"] * 5},
        {"stop": ""},
        {"stop": "\ud800"},
        {"prompt": [256]},
        {"logprobs": 6},
        {"best_of": 2},
    ],
)
def test_fields_out_of_range_or_unknown_are_errors(fields):
    with pytest.raises(ValueError):
        CompletionRequest(**({"prompt": "a"} | fields))


def test_each_choice_has_a_seed_of_its_own_and_a_stop_is_one_or_many():
    asked = CompletionRequest(prompt="a", seed=2**63 - 1, stop="x")
    assert [asked.sampling(index, 9, None).seed for index in (0, 1)] == [2**63 - 1, -(2**63)]
    assert asked.sampling(0, 9, None) == Sampling(max_bytes=9, temperature=1.0, seed=2**63 - 1, stop="x")


def test_the_template_of_chat_is_plain():
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    asked = ChatRequest(messages=[{"role": "system", "content": "Be kind."}, {"role": "user", "content": parts}])
    assert asked.prompt() == b"System: Be kind.\n\nUser: Hi\n\nAssistant: "


# -------------------------------------------------------------------------------------------------------------- rates


def test_a_caller_has_so_many_requests_a_minute_and_its_own(monkeypatch):
    clock = 0.0
    monkeypatch.setattr("bytequilt.serve.guard.time.monotonic", lambda: clock)
    rates = Rates(60)
    for _ in range(60):
        rates.take(b"a")
    with pytest.raises(Overloaded) as refusal:
        rates.take(b"a")
    assert refusal.value.retry_after == 1
    rates.take(b"b")
    clock = 2.0
    rates.take(b"a")
    rates.take(b"a")
    with pytest.raises(Overloaded):
        rates.take(b"a")
