"""Models in any of three layouts, bytequilt's, Hugging Face's and Meta's: read, and turned into one another."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..config import UserError
from . import hugging_face, meta, names, native
from .hub import model_folder
from .native import ModelConfig, beside
from .stored import Stored

LAYOUTS = {"bytequilt": native, "hf": hugging_face, "meta": meta}
COLUMNS = {"bytequilt": names.OURS, "hf": names.HUGGING_FACE, "meta": names.META}
Layout = Literal["bytequilt", "hf", "meta"]


@dataclass(frozen=True)
class Directory:
    """A model directory of whatever layout."""

    folder: Path
    layout: str
    config: ModelConfig
    notes: tuple[str, ...]
    """Where the model will differ from what its layout's own program makes of it."""

    @classmethod
    def open(cls, folder: Path) -> "Directory":
        """Raises UserError where the layout is none of the three, or cannot be read."""
        for name, layout in LAYOUTS.items():
            if layout.recognise(folder):
                config, notes = layout.read_config(folder)
                return cls(folder, name, config, tuple(notes))
        raise UserError(
            f"{folder} is not a bytequilt model, nor one of Hugging Face's or Meta's: its config.json has neither `format`, "
            "nor model_type blt, nor `args`, and there is no params.json"
        )

    def tensors(self, layout: str = "bytequilt") -> dict[str, Stored]:
        """Where its tensors lie, under the names of a layout. Raises UserError where files or names do not fit."""
        stored = LAYOUTS[self.layout].read_tensors(self.folder)
        try:
            return names.translate(stored, self.config, COLUMNS[self.layout], COLUMNS[layout])
        except UserError as error:
            raise UserError(f"{self.folder}: {error}") from None


def convert(
    src: str | Path,
    dst: str | Path,
    to: Layout = "bytequilt",
    *,
    lossy: bool = False,
    revision: str | None = None,
    token: str | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write a model in another layout, byte by byte as its weights are stored; returns what was done.

    `src` is a shipped model, a directory or a hub id; `dst` must not exist. With `lossy`, what the layout cannot
    express is changed, and the result says how. `advance` is told the bytes copied since its last call, and those of the whole.
    Raises UserError where a model cannot be read or expressed; nothing is left behind then.
    """
    if to not in LAYOUTS:
        raise UserError(f"there are the layouts {', '.join(LAYOUTS)}, not {to}")
    dst, source = Path(dst), Directory.open(model_folder(src, revision=revision, token=token))
    if dst.exists():
        raise UserError(f"{dst} exists already; give another name, or remove it")
    files, changes = LAYOUTS[to].export(source.config)
    if changes and not lossy:
        raise UserError(f"the layout cannot express this model: {'; '.join(changes)}. --lossy converts it all the same")
    tensors = source.tensors(to)
    total = sum(stored.size for stored in tensors.values())
    with beside(dst) as partial:
        for name, content in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_text(json.dumps(content, indent=2) + "\n")
        LAYOUTS[to].write_tensors(partial, tensors, lambda done: advance(done, total))
    return {
        "from": source.layout,
        "to": to,
        "tensors": len(tensors),
        "bytes": total,
        "notes": list(source.notes),
        "changed": changes,
    }
