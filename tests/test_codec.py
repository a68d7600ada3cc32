import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytequilt.codec import BOE, BOS, BPE_DELIMITER, EOS, OFFSET, VOCAB_SIZE, TextStream, as_bytes, decode, encode


@given(st.binary(), st.booleans(), st.booleans())
def test_any_bytes_come_back(data, bos, eos):
    assert decode(encode(data, bos=bos, eos=eos)) == data


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_text_is_its_utf8(text):
    assert decode(encode(text)) == text.encode()


def test_ids_are_those_of_the_released_models():
    assert (BOE, BOS, EOS, BPE_DELIMITER, OFFSET, VOCAB_SIZE) == (0, 1, 2, 3, 4, 260)
    assert encode(b"\x00A\xff", eos=True).tolist() == [1, 4, 69, 259, 2]
    assert encode(b"").tolist() == [1]
    assert encode(b"", bos=False).tolist() == []


def test_special_ids_are_dropped_wherever_they_stand():
    assert decode([BOE, BOS, 69, BPE_DELIMITER, 70, EOS]) == b"AB"


@pytest.mark.parametrize("id", [-1, 260])
def test_ids_outside_the_vocabulary_are_refused(id):
    with pytest.raises(ValueError, match=r"0\.\.259"):
        decode([BOS, id])


def test_surrogates_of_the_command_line_give_their_bytes_back():
    data = b"caf\xe9 \xff"
    assert as_bytes(data.decode("utf-8", "surrogateescape")) == data


MIXED = st.lists(st.one_of(st.binary(max_size=5), st.text(max_size=3).map(lambda t: t.encode("utf-8", "replace"))))


@given(MIXED.map(b"".join), st.lists(st.integers(0, 40)))
def test_a_text_stream_loses_and_doubles_nothing(data, cuts):
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    stream = TextStream()
    pieces = [stream.feed(data[a:b]) for a, b in itertools.pairwise(edges)]
    assert "".join(pieces) + stream.close() == data.decode("utf-8", "replace")


def test_a_character_comes_whole_with_its_last_byte():
    stream = TextStream()
    assert [stream.feed(bytes([b])) for b in "€".encode()] == ["", "", "€"]
    assert stream.close() == ""
    assert stream.feed("€".encode()[:2]) == ""
    assert stream.close() == "\ufffd"
