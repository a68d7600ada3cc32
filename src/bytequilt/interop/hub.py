"""Where the directory of a model is: on this disk, in the package, or on the Hugging Face hub."""

import os
from importlib import resources
from pathlib import Path
from typing import Any

from ..config import UserError

FILES = ["config.json", "*params.json", "*.safetensors", "*.safetensors.index.json", "*.pth"]
"""What is taken from a repository of the hub."""
MARKS = ("config.json", "params.json")
"""A model directory of any layout has one of these."""


def model_folder(name: str | os.PathLike[str], **download: Any) -> Path:
    """The directory of a model: a path, a run directory's `model`, a shipped model, or a download from the hub.

    `download` are options of huggingface_hub's snapshot_download, such as `revision` and `token`. What the hub gave
    once is in its cache, and HF_HUB_OFFLINE=1 takes it from there. Raises UserError where there is no such model.
    """
    path, text = Path(name), str(name)
    for candidate in (path, path / "model", Path(str(resources.files("bytequilt") / "models" / text))):
        if any((candidate / mark).is_file() for mark in MARKS):
            return candidate
    if path.exists():
        raise UserError(f"{path} is not a model directory: it has no config.json")
    if text.count("/") != 1 or text.startswith((".", "/")):
        raise UserError(f"no model at {text}: give a shipped model (tiny), a directory, or a hub id such as owner/name")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(text, allow_patterns=FILES, ignore_patterns=["*with_rope*"], **download))
    except Exception as error:  # of the network, the hub, its cache, or its client
        raise UserError(f"no model at {text}, and the hub does not give one: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RevisionNotFoundError

    match error:
        case GatedRepoError():
            return "its owner asks for consent; give it on the hub's page, then log in with `hf auth login` or a token"
        case RevisionNotFoundError():
            return "it has no such revision"
        case LocalEntryNotFoundError():
            return "it cannot be reached, and its cache does not hold the model"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
