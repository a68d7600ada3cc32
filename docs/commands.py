"""Writes docs/commands.md from what `bytequilt VERB --help` says: python docs/commands.py."""

import io
import os
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path

os.environ |= {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}  # before anything asks how wide the terminal is

PAGE = Path(__file__).with_name("commands.md")
HEAD = """# Commands

What `--help` says of each verb. This page is written by `python docs/commands.py`; a test keeps it true. Fields of
recipes are listed by `bytequilt train RECIPE --help`.
"""


def page() -> str:
    """The whole page."""
    from bytequilt.cli import VERBS

    parts = [HEAD, f"```\n{_help('--help')}\n```\n"]
    for verb in VERBS:
        parts.append(f"## {verb}\n\n```\n{_help(verb, '--help')}\n```\n")
    return "\n".join(parts)


def _help(*arguments: str) -> str:
    from bytequilt.cli import main

    out = io.StringIO()
    with redirect_stdout(out), suppress(SystemExit):
        main(list(arguments))
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


if __name__ == "__main__":
    if sys.argv[1:] == ["-"]:
        sys.stdout.reconfigure(encoding="utf-8")
        sys.stdout.write(page())
    else:
        PAGE.write_text(page(), encoding="utf-8", newline="\n")
