"""Who may work in a run directory: one process at a time, and the recipe that it was made for."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..config import Recipe, UserError, read_toml
from ..files import locked, read_json, read_text, remove_folder, sweep, write_json, write_text
from ..view.progress import console

OURS = {"lock"}
"""What a claim leaves in a folder before anything else is there."""
DATA = {"corpus", "entropy", "calibration.json", "shards", "metrics.jsonl", "checkpoints"}
"""What is there before the BLT is trained; [model], [train] and [report] have no part in it."""


@contextmanager
def claimed(recipe: Recipe, folder: Path) -> Iterator[None]:
    """The run directory of a recipe, which nobody else uses meanwhile.

    Raises UserError where it belongs to a different recipe, or a process is at work in it. Of the same recipe with
    more steps, training goes on.
    """
    _former(recipe, folder)  # before the lock, which would leave a file in somebody's folder
    with _alone(folder):
        former = _former(recipe, folder)
        sweep(folder)
        if former is not None and former.train.steps < recipe.train.steps:
            console.print(
                f"going on from {former.train.steps:,} to {recipe.train.steps:,} steps: from here the learning rate "
                f"is that of a run of {recipe.train.steps:,}"
            )
            (folder / "report.json").unlink(missing_ok=True)
            if (folder / "model").exists():
                remove_folder(folder / "model")
        if former != recipe:
            write_text(folder / "recipe.toml", to_toml(recipe))
        yield


def share(recipe: Recipe, folder: Path) -> None:
    """Make sure that a run directory is of this recipe, where others may be at work, too."""
    if _former(recipe, folder) is None:
        write_text(folder / "recipe.toml", to_toml(recipe))


@contextmanager
def claimed_for(about: dict[str, Any], folder: Path, name: str) -> Iterator[None]:
    """Like `claimed`, for work that a JSON file of that name describes instead of a recipe."""
    about = json.loads(json.dumps(about))

    def check() -> None:
        if (folder / name).is_file() and read_json(folder / name) == about:
            return
        if _occupied(folder):
            raise UserError(f"{folder} holds something else; give --out another directory, or delete this one")

    check()
    with _alone(folder):
        check()
        sweep(folder)
        write_json(folder / name, about, indent=2)
        yield


def to_toml(recipe: Recipe) -> str:
    """The recipe as resolved, as TOML."""
    import tomli_w

    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with locked(folder) as mine:
        if not mine:
            raise UserError(f"another process is at work in {folder}; wait for it, or give --out another directory")
        yield


def _former(recipe: Recipe, folder: Path) -> Recipe | None:
    """The recipe that the folder holds a run of, which must be this one but for the number of steps."""
    path = folder / "recipe.toml"
    if not path.is_file() or not path.stat().st_size:
        if _occupied(folder):
            raise UserError(f"{folder} is neither empty nor a run directory; give --out another one")
        return None
    former = read_toml(path, Recipe)
    steps = min(former.train.steps, recipe.train.steps)
    if _at(former, steps) != _at(recipe, steps):
        if _serves(folder, former, recipe):
            return None
        raise UserError(
            f"{folder} holds a run of another recipe ({path}); give --out another directory, or delete this one"
        )
    if former.train.steps > recipe.train.steps:
        raise UserError(
            f"{folder} holds a run of {former.train.steps:,} steps, which is more than {recipe.train.steps:,}; "
            "give --out another directory for another recipe"
        )
    return former


def _serves(folder: Path, former: Recipe, recipe: Recipe) -> bool:
    """Whether all that a folder holds of another recipe is finished data that this recipe would make alike."""
    there = {path.name for path in folder.iterdir()} - OURS - {"recipe.toml"}
    ours = read_text(folder / "recipe.toml") == to_toml(former)  # no file of somebody's own
    if not ours or not there <= DATA or (folder / "checkpoints" / "blt").exists():
        return False
    if there - {"corpus"}:
        later = {"model": recipe.model, "train": recipe.train, "report": recipe.report}
        return former.train.init == recipe.train.init and former.model_copy(update=later) == recipe
    return former.data == recipe.data or not (folder / "corpus" / "manifest.json").exists()


def _at(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with so many steps, and without what says how processes share the work: that changes no result."""
    plain = {"shard": "none", "timeout": 1}
    change = {"train": recipe.train.model_copy(update=plain | {"steps": steps})}
    if recipe.entropy_train is not None:
        change["entropy_train"] = recipe.entropy_train.model_copy(update=plain)
    return recipe.model_copy(update=change)


def _occupied(folder: Path) -> bool:
    """Whether there is anything in a folder but what a claim leaves there, whole or half written."""
    if not folder.is_dir():
        return folder.exists()
    others = (path for path in folder.iterdir() if path.name not in OURS and path.suffix != ".partial")
    return any(path.stat().st_size for path in others)
