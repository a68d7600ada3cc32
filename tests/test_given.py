"""What Python callers give: anything wrong is said in plain words, and what numpy, torch and pathlib give is taken."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blt, patcher

from bytequilt import BLT, LM, EntropyModel, Patcher, Session, UserError, convert, load
from bytequilt.codec import decode, encode
from bytequilt.infer.sampling import Sampling

BAD = [3, None, 3.5, [], {}, object(), b"\xff", "no such", np.array(3), [1, 2], ["a", 3], (None,), True, len]
BAD += [torch.tensor([1.5, 2]), Path("no/such/x"), "", [b"a", None], np.int64(7), float("nan"), -1, 10**30, Ellipsis]
BAD += [torch.zeros(0, 5, dtype=torch.int64), torch.zeros(1, 0, dtype=torch.int64)]
BAD += [torch.ones(shape, dtype=kind) for shape in (5, (1, 5)) for kind in (torch.int16, torch.uint8, torch.bool)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given") / "model"
    LM(blt(), patcher("entropy")).save(folder)
    return folder


@pytest.fixture(scope="module")
def lm(folder):
    return load(folder)


def entries(lm, folder, scratch):
    """Every way in from Python, of one argument each, which may be anything."""
    text = [b"some text with words in it, and more of it"]
    session = lm.session(reserve=4)
    session.feed(torch.from_numpy(encode("Hello")))
    return {
        "load": load,
        "load device": lambda v: load(folder, device=v),
        "load dtype": lambda v: load(folder, dtype=v),
        "load native": lambda v: load(folder, native=v),
        "load entropy_dtype": lambda v: load(folder, entropy_dtype=v),
        "to": lambda v: lm.to(v),
        "generate": lambda v: lm.generate(v, max_bytes=1),
        "speculate": lambda v: lm.generate("a", max_bytes=1, speculate=v),
        "stream": lambda v: next(lm.stream(v, max_bytes=1)),
        "patch": lm.patch,
        "score": lm.score,
        "score after": lambda v: lm.score("a", v),
        "score before": lambda v: lm.score(v, "a"),
        "bits_per_byte": lm.bits_per_byte,
        "score_documents": lm.score_documents,
        "score context": lambda v: lm.score_documents(text, context=v),
        "save": lambda v: lm.save(v if not isinstance(v, str | bytes | Path) or not v else scratch / "saved"),
        "save dtype": lambda v: lm.save(scratch / "typed", v),
        "restore": lm.restore,
        "session": lm.session,
        "batcher": lambda v: lm.batcher(v),
        "insert": lambda v: lm.batcher(1).insert(v, Sampling()),
        "feed": lambda v: lm.session().feed(v),
        "crop": lambda v: session.fork().crop(v),
        "session save": lambda v: session.save(v if not isinstance(v, str | bytes | Path) or not v else scratch / "s"),
        "encode": lm.encode,
        "logits": lm.logits,
        "patcher": lm.patcher,
        "model": lambda v: lm.model(torch.from_numpy(encode("a"))[None], v),
        "calibrate": lambda v: load(folder).patcher.calibrate(v, 4),
        "calibrate to": lambda v: load(folder).patcher.calibrate(text, v),
        "codec.encode": encode,
        "codec.decode": decode,
        "BLT": BLT,
        "EntropyModel": EntropyModel,
        "Patcher": Patcher,
        "Patcher model": lambda v: Patcher(lm.patcher.rule, v),
        "LM": lambda v: LM(v, lm.patcher),
        "LM patcher": lambda v: LM(lm.model, v),
        "Session": lambda v: Session(v, lm.patcher),
        "convert": lambda v: convert(v, scratch / "converted"),
        "convert to": lambda v: convert(folder, scratch / "other", v),
        "convert dtype": lambda v: convert(folder, scratch / str(abs(hash(str(v)))), dtype=v),
        "from_pretrained": LM.from_pretrained,
    }


def fault(way, value):
    """What is wrong with how a way in takes a value; None where it takes it, or refuses it in plain words."""
    try:
        way(value)
    except UserError as error:
        said = str(error)
        return None if 0 < len(said) <= 300 and "\n" not in said else said
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def test_every_way_in_says_in_plain_words_what_is_wrong(lm, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, way in entries(lm, folder, tmp_path).items():
        wrong = [(value, said) for value in BAD if (said := fault(way, value)) and "ids must lie" not in said]
        assert not wrong, (name, wrong)
        with pytest.raises(UserError):
            way(object())


@pytest.mark.parametrize("number", [3, 3.0, np.int64(3), None, ["a", 3], ("a", None)], ids=repr)
def test_a_number_is_no_text(lm, number):
    for way in (lm.generate, lm.patch, lm.bits_per_byte, encode, lambda text: lm.score("a", text)):
        with pytest.raises(UserError, match=r"must be str or bytes, not|are wanted"):
            way(number)


def test_what_numpy_torch_and_pathlib_give_is_taken(lm, folder, tmp_path):
    plain = lm.generate(["ab", "c"], max_bytes=4, seed=1)
    same = lm.generate(("ab", b"c"), max_bytes=np.int32(4), seed=torch.tensor(1), top_p=np.float32(1), stop=None)
    assert [one.data for one in same] == [one.data for one in plain]
    assert lm.generate("a", max_bytes=3, temperature=0, speculate=np.int64(2)).data
    assert lm.score_documents(iter(["ab"]), context=np.int64(9)) == lm.score_documents(["ab"], context=9)
    assert decode(torch.from_numpy(encode("é"))) == decode(encode("é").tolist()) == "é".encode()
    paths = [str(tmp_path / "a"), tmp_path / "b", bytes(tmp_path / "c")]
    for path, dtype in zip(paths, ["bfloat16", torch.bfloat16, None], strict=True):
        lm.save(path, dtype)
        assert load(path).patch("a b") == load(folder).patch("a b")
    session = lm.session(np.int64(2))
    session.feed(torch.from_numpy(encode("Hello")))
    session.crop(np.int64(1))
    session.save(bytes(tmp_path / "session"))
    assert lm.restore(str(tmp_path / "session")).rows[0].ids == 5
