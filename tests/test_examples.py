"""Examples run as they stand there, with fewer steps."""

import json
import re
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def cells(name: str) -> list[str]:
    """The code of a notebook, cell by cell."""
    notebook = json.loads((EXAMPLES / name).read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.ipynb")))
def test_notebooks_run(name, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(cells(name))
    short, count = re.subn(r"^STEPS = \d+$", "STEPS = 2", code, flags=re.MULTILINE)
    assert count == 1
    exec(compile(short, name, "exec"), variables := {"__name__": "__main__"})
    assert variables["report"]["steps"] == 2
    assert set(variables["report"]["example"]) == {"prompt", "wanted", "before", "after"}


def test_notebooks_hold_no_outputs():
    for path in EXAMPLES.glob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            assert not cell.get("outputs"), path.name


def test_every_example_is_listed():
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in EXAMPLES.iterdir() if path.name != "README.md" and path.name not in listed] == []
