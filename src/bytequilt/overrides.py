"""Recipe fields on the command line, such as `--train.steps 100`, with the same checks as fields in the file.

tyro could parse them too, but only after the recipe is loaded, since options depend on its optional sections and
values.
"""

import json
import textwrap
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar, get_args, get_origin

from pydantic import ValidationError

from .config import Config, Draft, UserError, one_line

Chosen = TypeVar("Chosen", bound=Draft)
COLUMN = 38  # column at which the explanations of a listing start
OF_THE_CORPUS = ("where", "share", "weights")
"""Fields of [data] that describe its own sources. New sources on the command line start from the defaults of these
fields."""


def override(recipe: Chosen, arguments: Sequence[str]) -> Chosen:
    """The recipe with some fields replaced; `arguments` are `--section.field` options with their values.

    The value `none` empties an optional field or section. `--data.train` resets `where`, `share` and `weights` to their
    defaults, unless they are given too. Raises UserError with one line that names the wrong field.
    """
    raw = recipe.model_dump(mode="json", exclude_unset=True)
    options = [(name, name.replace("-", "_").split("."), values) for name, values in _options(arguments)]
    if any(path == ["data", "train"] for _, path, _ in options):  # these fields belong to the recipe's own sources
        raw["data"] = {field: value for field, value in raw.get("data", {}).items() if field not in OF_THE_CORPUS}
    for name, path, values in options:
        _put(raw, type(recipe), path, values, name)
    try:
        return type(recipe).model_validate(raw)
    except ValidationError as error:
        raise UserError(one_line(error)) from None


def listing(recipe: Draft) -> str:
    """Every field of a recipe as an option, with its value and its meaning; one string of lines."""
    lines = []
    for name, value, meaning in _leaves(recipe, "--"):
        option = f"  {name} {_shown(value)}"
        words = textwrap.wrap(meaning.replace("`", ""), 110 - COLUMN)
        if words and len(option) < COLUMN - 1:
            option = option.ljust(COLUMN) + words.pop(0)
        lines += [option, *(" " * COLUMN + word for word in words)]
    return "\n".join(lines)


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Split `--a.b x y --c=z` into ("a.b", ["x", "y"]), ("c", ["z"]). Raises UserError for a value before an option."""
    options: list[tuple[str, list[str]]] = []
    for argument in arguments:
        if argument.startswith("--") and len(argument) > 2:
            name, given, value = argument[2:].partition("=")
            options.append((name, [value] if given else []))
        elif options:
            options[-1][1].append(argument)
        else:
            raise UserError(
                f"'{argument[:50]}' does not belong to an option; give fields of a recipe as in --train.steps 100"
            )
    yield from options


def _put(raw: dict[str, Any], kind: Any, path: list[str], values: list[str], name: str) -> None:
    """Store the values of option `name` in the dictionary `raw`, at `path`; `kind` is the type of this section."""
    head, *inner = path
    fields = getattr(kind, "model_fields", None)  # a dictionary section accepts any key
    if fields is not None and head not in fields:
        raise UserError(f"no field --{name[:60]}; {_hint(head, list(fields), name)}")
    annotation = fields[head].annotation if fields else get_args(kind)[1]
    if not inner:
        raw[head] = _value(annotation, values, name)
        return
    section = next((option for option in _options_of(annotation) if _is_section(option)), None)
    if section is None:
        raise UserError(f"no field --{name}: {head} has no fields of its own")
    raw[head] = dict(raw.get(head) or {})
    _put(raw[head], section, inner, values, name)


def _hint(head: str, fields: list[str], name: str) -> str:
    """A hint for an unknown option: the most similar name or, if none is similar, all names."""
    if close := get_close_matches(head, fields, 1):
        section = name.rpartition(".")[0]
        return f"did you mean --{f'{section}.' if section else ''}{close[0].replace('_', '-')}?"
    return f"there are {', '.join(field.replace('_', '-') for field in fields)}"


def _value(annotation: Any, values: list[str], name: str) -> Any:
    """The values in the form that the annotation needs: a list or one string; None for the word none where it is
    allowed; True for a flag without a value. The recipe checks the content later. Raises UserError for a section, or a
    wrong number of values."""
    options = _options_of(annotation)
    if type(None) in options and [value.lower() for value in values] == ["none"]:
        return None
    if any(get_origin(option) is tuple for option in options):
        others = [option for option in options[1:] if get_origin(option) is not tuple and option is not type(None)]
        return values[0] if len(values) == 1 and others and get_origin(annotation) is not tuple else values
    if any(_is_section(option) for option in options):
        raise UserError(f"--{name} is a section: give its fields, as in --{name}.FIELD VALUE")
    if annotation is bool and not values:
        return True
    if len(values) != 1:
        raise UserError(
            f"--{name} takes one value, but {len(values) or 'none'} {'is' if len(values) < 2 else 'are'} given"
        )
    return values[0]


def _options_of(annotation: Any) -> tuple[Any, ...]:
    return (annotation, *get_args(annotation))


def _is_section(option: Any) -> bool:
    return get_origin(option) is dict or (isinstance(option, type) and issubclass(option, Config))


def _leaves(config: Config, prefix: str) -> Iterator[tuple[str, Any, str]]:
    for name, field in type(config).model_fields.items():
        value, option = getattr(config, name), prefix + name.replace("_", "-")
        if isinstance(value, Config):
            yield from _leaves(value, f"{option}.")
        else:
            yield option, value, field.description or ""


def _shown(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return json.dumps(value)
        case tuple() | list():
            return " ".join(map(_shown, value)) or "[]"
        case dict():
            return " ".join(f"{key}={_shown(part)}" for key, part in value.items()) or "{}"
        case _:
            return str(value)
