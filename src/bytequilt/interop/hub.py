"""Locate the directory of a model: on this disk, in the package, or on the Hugging Face hub."""

import os
from importlib import resources
from pathlib import Path
from typing import Any

from ..config import UserError, is_file, one_line

MARKS = ("config.json", "params.json")
"""Files of which every model directory has at least one."""
DESCRIPTION = ["config.json", "*params.json"]
WEIGHTS = ["*.safetensors", "*.safetensors.index.json", "*.pth", "tokenizer.model"]
"""Patterns of the files to download from a hub repository, in addition to DESCRIPTION."""
OPTIONS = ("revision", "token", "cache_dir", "force_download", "local_files_only")
"""Options of `huggingface_hub` that loading accepts."""


def local(name: str | os.PathLike[str]) -> Path | None:
    """The directory of a model on this disk: a path, the `model` folder of a run directory, or a shipped model. None if
    the name can be a hub id. Raises UserError if it cannot be any of these."""
    path, text = Path(name), str(name)
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
    """Download files of a hub repository, and return their directory in the cache. With HF_HUB_OFFLINE=1, only the
    cache is used. Raises UserError if the files are not available."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*with_rope*"], **options))
    except Exception as error:  # errors of network, hub, cache and client have many types
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
