import json
import math

import pytest
from conftest import blt, noise, patcher

from bytequilt.cli import main
from bytequilt.config import RuleConfig
from bytequilt.evals.scripts import report, script_of
from bytequilt.lm import LM


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("scripts")
    LM(blt(), patcher(RuleConfig(kind="fixed", stride=3))).save(path / "model")
    (path / "a.txt").write_bytes("1 ab я人\N{GRINNING FACE}".encode() + b"\xff")
    (path / "noise.txt").write_bytes(noise(500))
    (path / "empty.jsonl").write_text('{"text": ""}\n{"text": "abc"}\n')
    return path


@pytest.mark.parametrize(
    ("character", "script"),
    [
        *(("a", "Latin"), ("ё", "Cyrillic"), ("人", "Han"), ("カ", "Japanese"), ("글", "Hangul"), ("ก", "Thai")),
        *(("क", "Devanagari"), ("አ", "Ethiopic"), ("\N{GRINNING FACE}", "emoji"), ("Ա", "other"), ("\udcff", "other")),
        *((" ", None), ("7", None), ("。", None), ("\n", None), ("\N{COMBINING ACUTE ACCENT}", None)),
    ],
)
def test_characters_have_scripts(character, script):
    assert script_of(character) == script


def test_a_report_counts_by_script(folder):
    found = report(LM(blt(), patcher(RuleConfig(kind="fixed", stride=3))), [str(folder / "a.txt")])
    # Cut after the BOS and every three bytes: 1 a|b.D1|8F.E4.BA|BA.F0.9F|98.80.FF
    rows = {row.pop("script"): row for row in found["scripts"]}
    assert next(iter(rows)) == "Latin"  # 1, which comes before it, and both spaces count for it
    assert [rows[name]["bytes"] for name in ("Latin", "Cyrillic", "Han", "emoji", "other")] == [5, 2, 3, 4, 1]
    assert [rows[name]["characters"] for name in ("Latin", "Cyrillic", "Han", "emoji", "other")] == [5, 1, 1, 1, 1]
    assert [rows[name]["patches"] for name in ("Latin", "Cyrillic", "Han", "emoji", "other")] == [2, 1, 1, 1, 0]
    assert [rows[name]["cuts_inside"] for name in ("Latin", "Cyrillic", "Han", "emoji", "other")] == [0, 1, 1, 1, 0]
    assert rows["Latin"]["bytes_per_patch"] == 2.5
    assert found["all"]["bytes"] == 15
    assert found["all"]["bits_per_patch"] is None


@pytest.mark.parametrize("rule", ["entropy", "budget", "words"])
def test_files_and_scripts_have_the_same_sums(folder, rule):
    lm = LM(blt(), patcher(rule))
    files = [str(folder / name) for name in ("a.txt", "noise.txt", "empty.jsonl")]
    found = report(lm, files)
    for key in ("bytes", "characters", "patches", "cuts_inside"):
        sums = {sum(row[key] for row in rows) for rows in (found["scripts"], found["files"], [found["all"]])}
        assert len(sums) == 1
    data = (folder / "noise.txt").read_bytes()
    row = found["files"][1]
    assert row["patches"] == len(lm.patch(data).patches)
    assert row["longest"] == max(patch.length for patch in lm.patch(data).patches)
    if rule == "entropy":
        bits = lm.patcher.entropies([data])[0][: len(data)].sum() / math.log(2)
        assert row["bits_per_patch"] * row["patches"] == pytest.approx(bits, rel=1e-5)


def test_the_verb_reports(folder, capfd):
    files = [str(folder / "a.txt"), str(folder / "noise.txt")]
    main(["patch", "--report", str(folder / "model"), *files, "--json"])
    found = json.loads(capfd.readouterr().out)
    assert [row["path"] for row in found["files"]] == files
    main(["patch", "--report", str(folder / "model"), *files])
    out = capfd.readouterr().out
    assert "Cyrillic" in out
    assert "a.txt" in out


@pytest.mark.parametrize("arguments", [["--report", "tiny"], ["--report", "tiny", "absent.txt"]])
def test_a_report_needs_files(arguments, capfd):
    with pytest.raises(SystemExit) as stop:
        main(["patch", *arguments])
    assert stop.value.code == 2
    assert len(capfd.readouterr().err.splitlines()) == 1
