"""Claims on a run directory: one process works in it at a time, and it belongs to one recipe."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..config import Recipe, ReportConfig, UserError, read_toml
from ..files import locked, read_json, read_text, remove_folder, sweep, write_json, write_text
from ..view.progress import console

LOCK_FILES = {"lock"}
"""Files that a claim creates in a folder before any other file."""
DATA = {"corpus", "entropy", "calibration.json", "shards", "metrics.jsonl", "checkpoints"}
"""Files and folders that exist before the BLT is trained; they do not depend on [model], [train] and [report]."""


@contextmanager
def claimed(recipe: Recipe, folder: Path) -> Iterator[None]:
    """Lock the run directory of a recipe while the context lasts.

    Raises UserError if the directory belongs to another recipe, or if another process works in it. A directory of the
    same recipe with fewer steps is accepted: training continues there. With another [report], only that is made again.
    """
    # also checked before locking, because a folder with other content must not get our lock file
    _stored_recipe(recipe, folder)
    with _locked(folder):
        former = _stored_recipe(recipe, folder)
        sweep(folder)
        if former is not None and former.train.steps < recipe.train.steps:
            console.print(
                f"going on from {former.train.steps:,} to {recipe.train.steps:,} steps: from now on, the learning rate "
                f"is that of a run of {recipe.train.steps:,}"
            )
            (folder / "report.json").unlink(missing_ok=True)
            if (folder / "model").exists():
                remove_folder(folder / "model")
        if former is not None and former.report != recipe.report:
            (folder / "report.json").unlink(missing_ok=True)  # only the report is made again
        if former != recipe:
            write_text(folder / "recipe.toml", to_toml(recipe))
        yield


def share_claim(recipe: Recipe, folder: Path) -> None:
    """Check that a run directory belongs to this recipe, without a lock: other processes may work in it too."""
    if _stored_recipe(recipe, folder) is None:
        write_text(folder / "recipe.toml", to_toml(recipe))


@contextmanager
def claimed_for(about: dict[str, Any], folder: Path, name: str) -> Iterator[None]:
    """Like `claimed`, for work that is described by the JSON file `name` and not by a recipe."""
    about = json.loads(json.dumps(about))

    def check() -> None:
        if (folder / name).is_file() and read_json(folder / name) == about:
            return
        if _occupied(folder):
            raise UserError(
                f"{folder} holds something else, not this work; give --out another directory, or delete this one"
            )

    check()
    with _locked(folder):
        check()
        sweep(folder)
        write_json(folder / name, about, indent=2)
        yield


def to_toml(recipe: Recipe) -> str:
    """The resolved recipe as TOML."""
    import tomli_w

    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with locked(folder) as acquired:
        if not acquired:
            raise UserError(f"another process is at work in {folder}; wait for it, or give --out another directory")
        yield


def _stored_recipe(recipe: Recipe, folder: Path) -> Recipe | None:
    """The recipe stored in a run directory, or None in a new one. Raises UserError unless it equals `recipe`; only the
    number of steps may be smaller, and [report] another."""
    path = folder / "recipe.toml"
    if not path.is_file() or not path.stat().st_size:
        if _occupied(folder):
            raise UserError(f"{folder} is neither empty nor a run directory; give --out another one")
        return None
    former = read_toml(path, Recipe)
    steps = min(former.train.steps, recipe.train.steps)
    if _trained_by(former, steps) != _trained_by(recipe, steps):
        if _data_serves(folder, former, recipe):
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


def _data_serves(folder: Path, former: Recipe, recipe: Recipe) -> bool:
    """True if a folder of another recipe contains only finished data, and this recipe would make the same data."""
    names = {path.name for path in folder.iterdir()} - LOCK_FILES - {"recipe.toml"}
    ours = read_text(folder / "recipe.toml") == to_toml(former)  # the file was written by us and is not the user's own
    if not ours or not names <= DATA or (folder / "checkpoints" / "blt").exists():
        return False
    if names - {"corpus"}:
        later = {"model": recipe.model, "train": recipe.train, "report": recipe.report}
        return former.train.init == recipe.train.init and former.model_copy(update=later) == recipe
    return former.data == recipe.data or not (folder / "corpus" / "manifest.json").exists()


def _trained_by(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with this number of steps, without the fields that do not change the model."""
    plain = {"shard": "none", "timeout": 1}
    change: dict[str, Any] = {
        "report": ReportConfig(),
        "train": recipe.train.model_copy(update=plain | {"steps": steps}),
    }
    if recipe.entropy_train is not None:
        change["entropy_train"] = recipe.entropy_train.model_copy(update=plain)
    return recipe.model_copy(update=change)


def _occupied(folder: Path) -> bool:
    """True if a folder contains anything except lock files and unfinished temporary files."""
    if not folder.is_dir():
        return folder.exists()
    others = (path for path in folder.iterdir() if path.name not in LOCK_FILES and path.suffix != ".partial")
    return any(path.stat().st_size for path in others)
