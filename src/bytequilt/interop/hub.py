"""Where the directory of a model is: on this disk, in the package, or on the Hugging Face hub."""

import os
from importlib import resources
from pathlib import Path
from typing import Any

from ..config import UserError, is_file, one_line

MARKS = ("config.json", "params.json")
"""A model directory of any layout has one of these."""
DESCRIPTION = ["config.json", "*params.json"]
WEIGHTS = ["*.safetensors", "*.safetensors.index.json", "*.pth", "tokenizer.model"]
"""What is taken from a repository of the hub."""
OPTIONS = ("revision", "token", "cache_dir", "force_download", "local_files_only")
"""Options of `huggingface_hub` that a download takes."""


def local(name: str | os.PathLike[str]) -> Path | None:
    """The directory of a model on this disk: a path, a run directory's `model`, or a shipped model.

    None where the name is that of a repository of the hub. Raises UserError where it can be neither.
    """
    if not isinstance(name, str | bytes | os.PathLike):
        raise UserError(f"a model is named by a str or a path, not by {type(name).__name__}")
    path, text = Path(os.fsdecode(name)), os.fsdecode(name)
    for candidate in (path, path / "model", Path(str(resources.files("bytequilt") / "models" / text))):
        if any(is_file(candidate / mark) for mark in MARKS):
            return candidate
    if is_file(path) or os.path.isdir(text):
        raise UserError(f"{path} is not a model directory: it has no config.json")
    if text.count("/") != 1 or text.startswith((".", "/")):
        raise UserError(
            f"no model at {text[:100]}: give a shipped model (tiny), a directory, or a hub id such as owner/name"
        )
    return None


def download(name: str, patterns: list[str], **options: Any) -> Path:
    """The directory of the cache that holds these files of a repository.

    HF_HUB_OFFLINE=1 takes them from the cache alone. Raises UserError where they cannot be had.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*with_rope*"], **options))
    except Exception as error:  # of the network, the hub, its cache, or its client
        raise UserError(f"no model at {name}, and the hub does not give one: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RevisionNotFoundError

    match error:
        case GatedRepoError():
            return "its owner asks for consent; give it on the hub's page, then log in with `hf auth login` or a token"
        case RevisionNotFoundError():
            return "it has no such revision"
        case LocalEntryNotFoundError():
            return "it cannot be reached, and its cache does not hold the model"
    return one_line(error)
