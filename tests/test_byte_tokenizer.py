"""What leaves for Transformers brings a tokenizer of bytes: its ids are ours, and any text comes back."""

import json

import pytest
from conftest import blt, patcher
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bytequilt import LM, convert, load
from bytequilt.codec import encode

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("hf")
    LM(blt(cross_heads=2), patcher("entropy")).save(path / "ours")
    convert(path / "ours", path / "theirs", "hf")
    return path / "theirs"


@pytest.fixture(scope="module")
def tokenizer(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)


@settings(max_examples=60, deadline=None)
@given(st.text())
@example("<bos>a<eos> <bpe>\r\n\0  ")
@example("Привет 日本 🌍\u00ad\ufeff e\u0301")
@example("")
def test_ids_are_ours_and_text_comes_back(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert ids == encode(text).tolist()
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_lone_bytes_are_tokens_and_show_as_unknown(tokenizer):
    ids = encode(b"a\xff\xd0b", bos=False).tolist()
    units = tokenizer.convert_ids_to_tokens(ids)
    assert tokenizer.convert_tokens_to_ids(units) == ids
    assert tokenizer.decode(ids) == "a\ufffd\ufffdb"


def test_every_id_has_a_token_of_its_own(tokenizer, folder):
    units = tokenizer.convert_ids_to_tokens(range(260))
    assert len(set(units)) == 260
    assert len(tokenizer) == json.loads((folder / "config.json").read_text())["vocab_size"] == 260
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)


def test_texts_of_a_batch_are_padded_on_the_left(tokenizer):
    batch = tokenizer(["ab", "abcd"], padding=True)
    assert batch["input_ids"][0][:3] == [0, 0, 1]
    assert batch["attention_mask"][0] == [0, 0, 1, 1, 1]


def test_a_tokenizer_that_is_saved_again_is_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert again("<bos>é")["input_ids"] == encode("<bos>é").tolist()


def test_a_pipeline_writes_what_the_model_writes_here(folder):
    write = transformers.pipeline("text-generation", str(folder))
    text = write("Once é", max_new_tokens=12, do_sample=False, return_full_text=False)[0]["generated_text"]
    assert text == load(folder).generate("Once é", max_bytes=12, temperature=0).text
