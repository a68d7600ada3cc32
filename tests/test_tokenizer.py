"""Tokens that are shown beside patches: of files of every kind, covering the bytes that they stand for."""

import base64
import json
import lzma
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytequilt.baselines.tokenizer import DEFAULT, Tokenizer
from bytequilt.baselines.vocabulary import BPE
from bytequilt.cli import main
from bytequilt.config import UserError

tokenizers = pytest.importorskip("tokenizers")
TEXT = "Straße, 380 + 381; привет 日本語 🦙!\n\tх = f(y)\n"


def learnt(tmp_path) -> BPE:
    pytest.importorskip("tiktoken")
    return BPE.learn([TEXT.encode() * 3, b"the cat the hat the"], 280)


def library(tokenizer: str = "default"):
    return tokenizers.Tokenizer.from_buffer(lzma.decompress(DEFAULT.read_bytes()))


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=100), st.text(max_size=60).map(str.encode)))
def test_the_tokens_of_the_default_are_the_bytes_in_order(data):
    pieces = DEFAULT_TOKENIZER.pieces(data)
    assert [start for start, _ in pieces] == [sum(length for _, length in pieces[:n]) for n in range(len(pieces))]
    assert sum(length for _, length in pieces) == len(data)
    assert all(length > 0 for _, length in pieces)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    assert len(pieces) == len(LIBRARY.encode(text).ids)


DEFAULT_TOKENIZER, LIBRARY = Tokenizer.find("default"), library()


def test_the_default_is_small_and_keeps_digits_together():
    assert DEFAULT.stat().st_size < 1_000_000
    assert 16_000 <= LIBRARY.get_vocab_size() <= 32_768
    assert any(token.isdigit() and len(token) > 1 for token in LIBRARY.get_vocab())
    english = len(DEFAULT_TOKENIZER.pieces("The President of the United States spoke to the people of the country."))
    assert english < 20


def test_ranks_as_llama_3_writes_them(tmp_path):
    bpe = learnt(tmp_path)
    bpe.save(tmp_path / "tokenizer.model")
    for source in (tmp_path / "tokenizer.model", tmp_path):
        found = Tokenizer.find(str(source))
        data = TEXT.encode() + b"\xff"
        lengths = [len(bpe.text(id)) for id in bpe.encode(data, bos=False).tolist()]
        assert [length for _, length in found.pieces(data)] == lengths
        assert sum(lengths) == len(data)
    assert found.about == "280 ranks"


def test_a_tokenizer_that_drops_and_shares_characters(tmp_path):
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"ab": 0, "日": 1, "[UNK]": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "words.json"))
    assert Tokenizer.find(str(tmp_path / "words.json")).pieces("ab  日 ?") == [(0, 2), (4, 3), (8, 1)]
    vocabulary = {"a": 0, "<unk>": 1} | {f"<0x{byte:02X}>": byte + 2 for byte in range(256)}
    pieces = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    pieces.save(str(tmp_path / "fallback.json"))
    assert Tokenizer.find(str(tmp_path / "fallback.json")).pieces("a日a") == [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("missing", None, "no tokenizer '.*missing'"),
        ("x.json", b"{}", "is not a tokenizer.json"),
        ("x.json", b'{"version": 1', "is not a tokenizer.json"),
        ("x.model", b"\xff\xfe", "is not a tokenizer of ranks"),
        ("x.model", base64.b64encode(b"a") + b" 0\n", "every byte must have one"),
    ],
)
def test_what_is_no_tokenizer_is_told(tmp_path, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message) as error:
        Tokenizer.find(str(tmp_path / name))
    assert len(str(error.value)) <= 300


def test_patch_shows_tokens_as_json(capsys):
    main(["patch", "--tokens", "default", "--json", "380 381 strawberry"])
    found = json.loads(capsys.readouterr().out)["tokens"]
    assert (found["name"], found["count"]) == ("default", len(found["pieces"]))
    assert sum(piece["length"] for piece in found["pieces"]) == 18


def test_an_unknown_tokenizer_ends_before_the_model_is_loaded(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "bytequilt.lm", None)
    with pytest.raises(SystemExit) as stopped:
        main(["patch", "--tokens", "nothing", "text"])
    assert stopped.value.code == 2
    assert "no tokenizer 'nothing'" in capsys.readouterr().err
