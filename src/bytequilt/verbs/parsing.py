"""Arguments of the verbs, bound by tyro; its boxes become lines."""

from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial, wraps
from inspect import getdoc
from io import StringIO
from itertools import takewhile
from typing import Any

import tyro

from ..config import UserError, load_recipe
from . import FUNCTIONS

OF_RECIPES = ("train", "prepare")
"""Verbs that take any field of a recipe as well."""


def bind(name: str, arguments: list[str]) -> Callable[[], None]:
    """The verb with its arguments bound. What tyro says of bad ones in a box becomes one line."""
    verb, prog, said = FUNCTIONS[name], f"bytequilt {name}", StringIO()

    @wraps(verb)
    def later(*args: Any, **kwargs: Any) -> Callable[..., None]:
        return partial(verb, *args, **kwargs)

    try:
        with redirect_stderr(said):
            if name not in OF_RECIPES:
                return tyro.cli(later, prog=prog, args=arguments)
            bound, rest = tyro.cli(later, prog=prog, args=arguments, return_unknown_args=True)
            return partial(bound, fields=tuple(rest))
    except SystemExit as stop:
        if stop.code:
            raise UserError(f"{_unboxed(said.getvalue())} (see {prog} --help)") from None
        print(_more_help(name, arguments))
        raise


def _unboxed(said: str) -> str:
    """The message of one of tyro's boxes, without its title and its advice."""
    rows = [row for line in said.splitlines() if (row := line.strip(" │|╭╮╰╯+─-"))]
    advice = ("Perhaps you meant", "Argument helptext", "For full helptext")
    return " ".join(takewhile(lambda row: not row.startswith(advice), rows[1:]))


def _more_help(name: str, arguments: list[str]) -> str:
    """What tyro leaves out of a verb's help: its examples, and the fields of the recipe that is named."""
    examples = (getdoc(FUNCTIONS[name]) or "").partition("Examples:\n")[2].partition("\n\n")[0]
    text = f"examples:\n{examples}\n"
    if name in OF_RECIPES and not arguments[0].startswith("-"):
        from ..overrides import listing

        text += f"\nfields of {arguments[0]}, any of which may be given:\n{listing(load_recipe(arguments[0]))}\n"
    return text
