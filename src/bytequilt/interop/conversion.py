"""Conversion of a model between layouts and number types, in pieces that need little memory."""

from collections.abc import Callable
from os import PathLike
from typing import Any, Literal

import torch

from ..config import RuleConfig, UserError, as_path
from ..files import replacing_folder, write_json
from . import names
from .devices import choose_dtype, choose_scoring
from .directory import COLUMNS, LAYOUTS, Directory
from .native import EightBits
from .stored import NAMES, Stored, retyped, with_scales

Layout = Literal["bytequilt", "hf", "meta"]


def convert(
    src: str | PathLike[str],
    dst: str | PathLike[str],
    to: Layout = "bytequilt",
    *,
    dtype: str | torch.dtype | None = None,
    entropy_dtype: str | torch.dtype | None = None,
    lossy: bool = False,
    patching: RuleConfig | None = None,
    revision: str | None = None,
    token: str | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write a model in another layout or number type; returns a summary with the changes made.

    `src` is a shipped model, a directory or a hub id; `dst` must not exist. `dtype` is the type of the BLT's weights:
    float32, bfloat16 or int8. int8 applies to matrices only, with a scale per row, and exists in bytequilt's layout
    only. `entropy_dtype` is the entropy model's type: float32 or int8. With None, types are kept, except that other
    layouts get float32 instead of int8. `lossy` allows the conversion of a model that the new layout cannot express
    exactly. `patching` replaces the model's rule. `advance(written, total)` is called with the number of bytes just
    written. Raises UserError if the model cannot be read or expressed; then nothing is written.
    """
    if not isinstance(to, str) or to not in LAYOUTS:
        raise UserError(f"there are the layouts {', '.join(LAYOUTS)}, not {to}")
    dst = as_path(dst)
    if dst.exists() or dst.is_symlink():
        raise UserError(f"{dst} exists already; give another name, or remove it")
    source = Directory.find(src, revision=revision, token=token)
    if source.config.baseline is not None:
        raise UserError(f"{source.folder} holds a baseline, which has no other layout; a BLT is needed here")
    ours, notes = _typed(source, to, dtype, entropy_dtype)
    update = {"int8": EightBits.of(name for name, stored in ours.items() if stored.dtype == "I8")}
    config = source.config.model_copy(update=update | ({} if patching is None else {"patching": patching}))
    files, changes = LAYOUTS[to].export(config, {stored.dtype for stored in ours.values()})
    if changes and not lossy:
        raise UserError(f"the layout cannot express this model: {'; '.join(changes)}. --lossy changes it so")
    tensors = names.translate(ours, source.config, names.OURS, COLUMNS[to])
    total = sum(stored.size for stored in with_scales(tensors).values())
    with replacing_folder(dst, replace=False) as partial:
        for name, content in files.items():
            write_json(partial / name, content, indent=2)
        LAYOUTS[to].write_tensors(partial, tensors, lambda done: advance(done, total))
    return {
        "from": source.layout,
        "to": to,
        "tensors": len(tensors),
        "bytes": total,
        "notes": [*source.notes, *notes],
        "changed": changes,
    }


def _typed(
    source: Directory, to: Layout, dtype: str | torch.dtype | None, entropy_dtype: str | torch.dtype | None
) -> tuple[dict[str, Stored], list[str]]:
    """The tensors in the requested types, and notes on forced changes. Raises UserError for a type not allowed here."""
    has_entropy = source.config.entropy is not None
    kinds = {
        "blt": None if dtype is None else NAMES[choose_dtype(dtype)],
        "entropy": None if entropy_dtype is None else NAMES[choose_scoring(entropy_dtype, has_entropy)],
    }
    if to != "bytequilt" and "I8" in kinds.values():
        raise UserError(f"weights of eight bits have a place in bytequilt's own layout alone, not in {to}")
    if dtype is not None and source.config.blt is None:
        raise UserError(f"{source.folder} holds only an entropy model: give its type by --entropy-dtype")
    tensors, whole = source.tensors(), []
    for network, kind in kinds.items():
        part = {name: stored for name, stored in tensors.items() if name.startswith(f"{network}.")}
        if to != "bytequilt" and kind is None and any(stored.dtype == "I8" for stored in part.values()):
            kind, whole = "F32", [*whole, network]
        tensors |= retyped(part, kind)
    return tensors, [f"weights of eight bits became float32 there: {', '.join(whole)}"] if whole else []
