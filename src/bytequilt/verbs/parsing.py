"""Parses the arguments of the verbs with tyro. Error messages of tyro become one line."""

import re
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import partial, wraps
from inspect import Parameter, getdoc, signature
from io import StringIO
from itertools import takewhile
from typing import Any, get_args

import tyro

from ..config import UserError, load_recipe
from . import FUNCTIONS

OF_RECIPES = ("train", "prepare")
"""Verbs that also accept any field of a recipe as an option."""
OF_TEXTS = ("patch", "generate", "ask")
"""Verbs with a text as argument, which may contain spaces."""


def bind(name: str, arguments: list[str]) -> Callable[[], None]:
    """Parse arguments: returns the verb as a function without parameters. Raises UserError for wrong arguments."""
    verb, prog, said = FUNCTIONS[name], f"bytequilt {name}", StringIO()

    @wraps(verb)
    def later(*args: Any, **kwargs: Any) -> Callable[..., None]:
        return partial(verb, *args, **kwargs)

    try:
        with redirect_stderr(said):
            bound, unknown = tyro.cli(later, prog=prog, args=_with_address(arguments), return_unknown_args=True)
    except SystemExit as stop:
        if stop.code:
            raise UserError(f"{_message(said.getvalue())} (see {prog} --help)") from None
        print(_more_help(name, arguments))
        raise
    if name in OF_RECIPES:
        return partial(bound, fields=tuple(unknown))
    if unknown:
        raise UserError(f"{_complaint(verb, unknown)} (see {prog} --help)")
    return bound


def _with_address(arguments: list[str]) -> list[str]:
    """Insert `local` after a `--ray` without an address, since tyro has no options with an optional value."""
    given: list[str] = []
    for word, after in zip(arguments, [*arguments, "--"][1:], strict=True):
        given += [word, "local"] if word == "--ray" and after.startswith("--") else [word]
    return given


def _message(said: str) -> str:
    """The message in tyro's error box, without its frame, title and advice."""
    rows = [row for line in said.splitlines() if (row := re.sub("[\u2500-\u257f]", " ", line).strip())]
    advice = ("Argument helptext", "For full helptext")
    return " ".join(takewhile(lambda row: not row.startswith(advice), rows[1:])) or "the arguments are wrong"


def _complaint(verb: Callable[..., None], unknown: list[str]) -> str:
    """The error message for arguments that the verb does not have."""
    option = next((word for word in unknown if word.startswith("--")), None)
    if option is not None:
        name = option.partition("=")[0]
        if name in _flags(verb):  # a positional argument
            return f"no option {name}: it is given without a name, in its place"
        close = get_close_matches(name, _flags(verb), 1)
        return f"no option {option[:60]}" + (f"; did you mean {close[0]}?" if close else "")
    model, hint = signature(verb).parameters.get("model"), "there is no place for it"
    if verb.__name__ in OF_TEXTS:
        hint = "a text of several words goes in quotes, as one argument"
    elif model is not None and model.default is not Parameter.empty:
        hint = "a model goes after --model"
    return f"unexpected '{unknown[0][:60]}': {hint}"


def _flags(verb: Callable[..., None]) -> list[str]:
    """The names of all parameters of a verb as flags, including the fields of parameter groups."""
    names: list[str] = []
    for parameter in signature(verb).parameters.values():
        group = next((kind for kind in get_args(parameter.annotation)[:1] if is_dataclass(kind)), None)
        names += [field.name for field in fields(group)] if group else [parameter.name]
    return ["--" + name.replace("_", "-") for name in names]


def _more_help(name: str, arguments: list[str]) -> str:
    """Help that tyro does not print: the examples of the verb, and the fields of the given recipe."""
    examples = (getdoc(FUNCTIONS[name]) or "").partition("Examples:\n")[2].partition("\n\n")[0]
    text = f"examples:\n{examples}\n"
    if name in OF_RECIPES and not arguments[0].startswith("-"):
        from ..overrides import listing

        text += f"\nfields of {arguments[0]}, any of which may be given:\n{listing(load_recipe(arguments[0]))}\n"
    return text
