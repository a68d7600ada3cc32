"""A model turned from one layout into another, a piece at a time."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from ..config import RuleConfig, UserError
from ..files import replacing_folder, write_json
from . import names
from .directory import COLUMNS, LAYOUTS, Directory

Layout = Literal["bytequilt", "hf", "meta"]


def convert(
    src: str | PathLike[str],
    dst: str | PathLike[str],
    to: Layout = "bytequilt",
    *,
    lossy: bool = False,
    patching: RuleConfig | None = None,
    revision: str | None = None,
    token: str | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write a model in another layout, byte by byte as its weights are stored; returns what was done.

    `src` is a shipped model, a directory or a hub id; `dst` must not exist. With `lossy`, what the layout cannot
    express is changed, and the result says how. `patching` takes the place of the model's rule. `advance` is told the
    bytes copied since its last call, and all.
    Raises UserError where a model cannot be read or expressed; nothing is left behind then.
    """
    if to not in LAYOUTS:
        raise UserError(f"there are the layouts {', '.join(LAYOUTS)}, not {to}")
    dst = Path(dst)
    if dst.exists() or dst.is_symlink():
        raise UserError(f"{dst} exists already; give another name, or remove it")
    source = Directory.find(src, revision=revision, token=token)
    if source.config.baseline is not None:
        raise UserError(f"{source.folder} holds a baseline, which has no other layout; a BLT is needed here")
    ours = source.tensors()
    config = source.config if patching is None else source.config.model_copy(update={"patching": patching})
    files, changes = LAYOUTS[to].export(config, {stored.dtype for stored in ours.values()})
    if changes and not lossy:
        raise UserError(f"the layout cannot express this model: {'; '.join(changes)}. --lossy converts it all the same")
    tensors = names.translate(ours, source.config, names.OURS, COLUMNS[to])
    total = sum(stored.size for stored in tensors.values())
    with replacing_folder(dst, replace=False) as partial:
        for name, content in files.items():
            write_json(partial / name, content, indent=2)
        LAYOUTS[to].write_tensors(partial, tensors, lambda done: advance(done, total))
    return {
        "from": source.layout,
        "to": to,
        "tensors": len(tensors),
        "bytes": total,
        "notes": list(source.notes),
        "changed": changes,
    }
