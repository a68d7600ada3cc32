"""The docs: the command reference says what --help says, and the site builds without a warning."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bytequilt.cli import VERBS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def test_the_command_reference_is_what_help_says():
    written = subprocess.check_output([sys.executable, str(DOCS / "commands.py"), "-"], encoding="utf-8")
    assert (DOCS / "commands.md").read_text(encoding="utf-8") == written, "run python docs/commands.py"
    assert re.findall(r"^## (\S+)$", written, re.MULTILINE) == list(VERBS)


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "WARNING" not in done.stderr
    pages = {path.relative_to(tmp_path / "site").with_suffix(".md") for path in (tmp_path / "site").rglob("*.html")}
    assert {path.relative_to(DOCS) for path in DOCS.rglob("*.md")} <= pages
    assert 'href="../' not in (tmp_path / "site" / "faq.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["faq.md", "index.md", "train.md"])
def test_verbs_that_pages_name_exist(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    assert set(re.findall(r"^bytequilt ([a-z]+) ", text, re.MULTILINE)) <= set(VERBS)
