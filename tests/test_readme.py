"""What the README says, done: its commands and its Python run as they stand there.

Two kinds of lines are not: `make` and `pip` set up a machine, which whoever runs this has done, and `bytequilt train`
takes minutes, so it runs with `SHORT` added, which cuts the corpus and the steps.
"""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from bytequilt.cli import VERBS, main
from bytequilt.config import recipe_path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SHORT = """
--data.train texts --data.val-every 3 --patching.target-bytes 3 --report.max-bytes 20
--entropy-train.steps 2 --entropy-train.rows 2 --entropy-train.row-bytes 128
--train.steps 2 --train.rows 2 --train.row-bytes 128
"""


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    """Every `bytequilt` line of the shell blocks, as arguments."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("bytequilt ")]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A directory like that of a reader, with some text of her own."""
    (tmp_path / "texts").mkdir()
    for number in range(9):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"Text {number}. It was the best of times. " * 9)
    (tmp_path / "held-out.txt").write_text("It was the worst of times.")
    shutil.copy(ROOT / "README.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_run_in_order(home, capfd):
    assert commands()
    for arguments in commands():
        main([*arguments, *(shlex.split(SHORT) if arguments[0] == "train" else [])])
        assert capfd.readouterr().out.strip(), arguments
    assert json.loads((home / "runs" / "mine" / "report.json").read_text())["steps"] == 2


def test_python_runs(capfd):
    assert blocks("python")
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
    assert capfd.readouterr().out.strip()


def test_other_lines_are_only_make_and_pip():
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]
    assert {line.split()[0] for line in lines} <= {"bytequilt", "make", "pip"}
    targets = {line.split()[1] for line in lines if line.startswith("make ")}
    assert all(f"\n{target}:" in (ROOT / "Makefile").read_text() for target in targets)


def test_first_screen_shows_both_commands_and_a_picture():
    first = README[: README.index("## ")]
    assert "make demo" in first
    assert "bytequilt patch" in first
    assert re.search(r"!\[[^]]+\]\(docs/patches\.svg\)", first)


def test_links_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", ["README.md", "docs/train.md", "docs/generate.md", "docs/evaluate.md"])
def test_verbs_recipes_and_options_that_pages_name_exist(page):
    text = (ROOT / page).read_text()
    assert set(re.findall(r"(?:^|`)bytequilt ([a-z]+) ", text, re.MULTILINE)) <= set(VERBS)
    for name in re.findall(r"bytequilt (?:train|prepare) ([a-z][\w-]*)(?:\s|$)", text):
        assert recipe_path(name).is_file()
    assert [verb for verb in VERBS if f"`bytequilt {verb}" not in README] == []
