"""Models in any of three layouts, bytequilt's, Hugging Face's and Meta's: read, and turned into one another."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from ..config import RuleConfig, UserError, one_line
from . import hub, hugging_face, meta, names, native
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
    def find(cls, name: str | PathLike[str], **options: Any) -> "Directory":
        """The model of that name: a path, a run directory's, a shipped model, or a repository of the hub.

        `options` are those of the hub: revision, token, cache_dir, force_download, local_files_only.
        Raises UserError where there is no such model, before its weights are downloaded.
        """
        if unknown := sorted(set(options) - set(hub.OPTIONS)):
            raise UserError(f"no option {unknown[0]}; the hub's are {', '.join(hub.OPTIONS)}")
        if (folder := hub.local(name)) is None:
            cls.open(hub.download(str(name), hub.DESCRIPTION, **options))
            folder = hub.download(str(name), hub.WEIGHTS, **options)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> "Directory":
        """Raises UserError where the layout is none of the three, or its configuration cannot be read."""
        for name, layout in LAYOUTS.items():
            if layout.recognise(folder):
                try:
                    config, notes = layout.read_config(folder)
                except ValidationError as error:
                    raise UserError(f"{folder}: {one_line(error)}") from None
                except (TypeError, ValueError, AttributeError, KeyError) as error:  # a field of another type
                    raise UserError(f"{folder}: its configuration cannot be read: {error!r}") from None
                return cls(folder, name, config, tuple(notes))
        raise UserError(
            f"{folder} is not a bytequilt model, nor one of Hugging Face's or Meta's: its config.json has neither "
            "`format`, nor model_type blt, nor `args`, and there is no params.json"
        )

    def tensors(self) -> dict[str, Stored]:
        """Where its tensors lie, under our names. Raises UserError where files or names do not fit."""
        stored = LAYOUTS[self.layout].read_tensors(self.folder)
        try:
            return names.translate(stored, self.config, COLUMNS[self.layout], names.OURS)
        except UserError as error:
            raise UserError(f"{self.folder}: {error}") from None


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
