import contextlib
import json

import numpy as np
import pytest
import torch
from conftest import RULES, blt, ids_of, noise, patcher
from safetensors import safe_open
from safetensors.torch import save_file

from bytequilt.config import NgramConfig, RuleConfig, UserError
from bytequilt.infer import saved
from bytequilt.infer.session import Session
from bytequilt.lm import LM
from bytequilt.model.ngram import NgramEntropy
from bytequilt.patching.patcher import Patcher

IDS = ids_of(noise(70, 1), noise(60, 2))[0]


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("reserve", [0, 5])
def test_a_restored_session_goes_on_as_if_nothing_had_been(tmp_path, kind, reserve):
    lm = LM(blt(), patcher(kind))
    session = lm.session(reserve)
    for at in (0, 3, 50):
        session.feed(IDS[at : {0: 3, 3: 50, 50: 60}[at]])
        session.save(tmp_path / "text.safetensors")
        restored = lm.restore(tmp_path / "text.safetensors")
        assert (restored.text_patches, restored.counts) == (session.text_patches, session.counts)
        if at == 50:
            restored.crop(reserve)
            session.crop(reserve)
        assert torch.equal(restored.fork().feed(IDS[60:99]), session.fork().feed(IDS[60:99]))
    assert torch.equal(restored.feed(IDS[99:]), session.feed(IDS[99:]))
    assert [path.name for path in tmp_path.iterdir()] == ["text.safetensors"]


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("kind", RULES)
def test_a_state_is_a_copy_for_all_who_load_it(kind, native):
    model, patch = blt(), patcher(kind)
    sessions = [Session(model, patch, 4, native=native) for _ in range(3)]
    sessions[0].feed(IDS[:50])
    state = sessions[0].state()
    told = sessions[0].fork().feed(IDS[50:80])
    sessions[0].feed(IDS[90:99])  # changes neither the state nor those who load it
    for other in sessions[1:]:
        other.load(state)
    sessions[1].crop(3)
    sessions[1].feed(IDS[100:120])
    assert torch.equal(sessions[2].feed(IDS[50:80]), told)


def test_texts_side_by_side_are_saved_together(tmp_path):
    lm = LM(blt(), patcher("entropy"))
    session = Session(lm.model, lm.patcher, rows=3)
    session.feed(IDS[:40], 0)
    session.feed(IDS[:7], 2)
    session.save(tmp_path / "two")
    restored = lm.restore(tmp_path / "two")
    for a, b in zip(IDS[40:60], IDS[7:27], strict=True):
        ids_R = torch.stack([a, b])
        assert torch.equal(restored.step(ids_R, [0, 2]), session.step(ids_R, [0, 2]))


def _damaged(path, change):
    """The file with another state, its tensors sound."""
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["session"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(about, tensors)
    save_file(tensors, path, {"session": json.dumps(about)})


def _lose(about, tensors):
    tensors.pop("state.encoder.stack.kv")


def _other_dtype(about, tensors):
    tensors["state.patch"] = tensors["state.patch"].half()


DAMAGE = {
    "no state": lambda about, tensors: about.pop("state"),
    "a list": lambda about, tensors: about.update(state=[1, 2]),
    "a word for a number": lambda about, tensors: about["state"].update(reserve="x"),
    "no rows": lambda about, tensors: about["state"].update(rows=[]),
    "too many rows": lambda about, tensors: about["state"]["rows"].append(about["state"]["rows"][0]),
    "other counts": lambda about, tensors: about["state"]["rows"][0]["marks"][0].pop(),
    "negative": lambda about, tensors: about["state"]["latent"].update(lengths=[-1]),
    "a longer text": lambda about, tensors: about["state"]["latent"].update(lengths=[10**9]),
    "null": lambda about, tensors: about["state"].update(encoder=None),
    "an unknown tensor": lambda about, tensors: about["state"].update(patch={"tensor": "nowhere"}),
    "a tensor less": _lose,
    "another type": _other_dtype,
    "other numbers": lambda about, tensors: tensors["state.patch"].add_(1),
}


@pytest.mark.parametrize("seen", [True, False], ids=["digest", "no digest"])
@pytest.mark.parametrize("name", DAMAGE)
def test_every_damage_is_one_line(tmp_path, monkeypatch, name, seen):
    """Seen by the digest, and where it is made to fit, by the caches themselves."""
    lm, path = LM(blt(), patcher("entropy")), tmp_path / "text"
    session = lm.session(3)
    session.feed(IDS[:30])
    session.save(path)
    _damaged(path, DAMAGE[name])
    if not seen:
        monkeypatch.setattr(saved, "_digest", lambda state, tensors: None)
        _damaged(path, lambda about, tensors: about.pop("digest"))
        if name == "other numbers":
            return
    with pytest.raises(UserError, match="damaged") as caught:
        lm.restore(path)
    assert len(str(caught.value)) < 300 + len(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reserve", [0, 3])
def test_counts_of_single_steps_are_saved(tmp_path, reserve):
    lm = LM(blt(), patcher("budget"))
    session = lm.session(reserve)
    for id in IDS[:30].tolist():
        session.step([id])
    session.save(tmp_path / "text")
    again, text = lm.restore(tmp_path / "text").rows[0], session.rows[0]
    assert vars(again) == vars(text)
    assert again.ids == 30


TENSORS = [{"tensor": "state.patch"}, {"tensor": 3}]
VALUES = [None, True, -1, 7, 10**9, 10**30, 1.5, float("nan"), "x", [], [[]], {}, *TENSORS]


def places(state, at=()):
    """The way to every field of a nested state."""
    inside = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    for key, value in inside:
        yield (*at, key)
        yield from places(value, (*at, key))


@pytest.mark.parametrize("kind", ["budget", "space-max"])
def test_no_field_of_a_state_can_be_damaged_unnoticed(tmp_path, monkeypatch, kind):
    """Where a digest is made to fit the damage: one line, or a session that goes on. A lost field is one line."""
    monkeypatch.setattr(saved, "_digest", lambda state, tensors: None)
    lm, path = LM(blt(), patcher(kind)), tmp_path / "text"
    session = lm.session(3)
    session.feed(IDS[:30])
    session.save(path)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["session"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for *way, last in places(about["state"]):
        for value in [*VALUES, "lost"]:
            changed = json.loads(json.dumps(about))
            inside = changed["state"]
            for key in way:
                inside = inside[key]
            if value == "lost":
                del inside[last]
            else:
                inside[last] = value
            save_file(tensors, path, {"session": json.dumps(changed)})
            restored = restored_or_none(lm, path)
            if restored is not None:
                assert value != "lost" or way in (["counts"], ["rows", 0, "marks"]), (way, last)
                restored.fork().feed(IDS[30:60])
                restored.crop(0)


def restored_or_none(lm, path):
    """The session; None where it is refused with one line."""
    with contextlib.suppress(UserError):
        return lm.restore(path)
    with pytest.raises(UserError, match=r"is damaged: [^\n]{1,200}$"):
        lm.restore(path)


def test_other_files_and_other_models_are_refused(tmp_path):
    lm = LM(blt(), patcher("entropy"))
    lm.session().save(tmp_path / "text")
    for other in (LM(blt(1), patcher("entropy")), LM(blt(), patcher("combined"))):
        with pytest.raises(UserError, match="another model"):
            other.restore(tmp_path / "text")
    (tmp_path / "noise").write_bytes(noise(100))
    save_file({"a": torch.zeros(1)}, tmp_path / "weights")
    save_file({"a": torch.zeros(1)}, tmp_path / "empty", {"session": "{}"})
    for name in ("noise", "weights", "empty", "missing"):
        with pytest.raises(UserError, match=f"{name} is not a saved session"):
            lm.restore(tmp_path / name)


def test_another_table_is_another_model(tmp_path):
    tables = [NgramEntropy(NgramConfig(sizes=(2,), rows=7)) for _ in range(2)]
    tables[1].single.add_(1)
    one, other = (LM(blt(), Patcher(RuleConfig(threshold=1.0), table)) for table in tables)
    one.session().save(tmp_path / "text")
    one.restore(tmp_path / "text")
    with pytest.raises(UserError, match="another model"):
        other.restore(tmp_path / "text")


def test_a_saved_session_is_as_small_as_what_can_be_seen(tmp_path):
    lm = LM(blt(), patcher("fixed"))
    sizes = []
    for length in (200, 400):
        session = Session(lm.model, lm.patcher)
        for id in ids_of(noise(length), eos=False)[0]:
            session.step(id[None])
        session.save(tmp_path / "text")
        sizes.append((tmp_path / "text").stat().st_size)
    latents = 2 * 2 * 2 * 12 * 4  # bytes a patch: layers, keys and values, heads, head_dim, fp32
    assert np.diff(sizes)[0] == pytest.approx(latents * 200 / 3, rel=0.02)
