"""Saved states of sessions: nested dictionaries of tensors and plain values in one safetensors file."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..config import UserError, as_path, one_line
from ..files import replacing
from ..model.blt import BLT
from ..patching.patcher import Patcher

FORMAT = 3


def write(path: str | Path, state: dict[str, Any], model: str) -> None:
    """Write a state to a file atomically. `model` is the `fingerprint` of the model that the state belongs to."""
    tensors: dict[str, Tensor] = {}
    about = {"format": FORMAT, "model": model, "state": _packed(state, "state", tensors)}
    about["digest"] = _digest(about["state"], tensors)
    with replacing(as_path(path)) as file:
        file.write(save(tensors, {"session": json.dumps(about)}))


def read(path: str | Path, model: str) -> dict[str, Any]:
    """Read a state that `write` wrote. Raises UserError if the file is not a session, is damaged, or belongs to another
    model."""
    path = as_path(path)
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["session"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        version, name, digest, state = about["format"], about["model"], about.get("digest"), about.get("state")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not a saved session: {one_line(error)}") from None
    if version != FORMAT:
        raise UserError(f"{path} is a session of format {version}; this version reads format {FORMAT}")
    if name != model:
        raise UserError(f"{path} is a session of another model")
    if digest != _digest(state, tensors):
        raise UserError(f"{path} is damaged: its contents are not those that were saved")
    with told_as_damage(path):
        return _unpacked(state, "state", tensors)


@contextmanager
def told_as_damage(path: str | Path) -> Iterator[None]:
    """Context manager: an error from a wrong state becomes a UserError which says that the file is damaged."""
    try:
        yield
    except (UserError, KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise UserError(f"{path} is damaged: {one_line(error)}") from None


def _packed(thing: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A copy of `thing` for JSON: each tensor moves to `tensors`, and {"tensor": name} takes its place."""
    if isinstance(thing, Tensor):
        tensors[name] = thing.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(thing, dict):
        return {key: _packed(value, f"{name}.{key}", tensors) for key, value in thing.items()}
    if isinstance(thing, list):
        return [_packed(value, f"{name}.{place}", tensors) for place, value in enumerate(thing)]
    return thing


def _unpacked(packed: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The reverse of `_packed`. Raises ValueError for a tensor that was saved for another place."""
    if isinstance(packed, dict):
        if set(packed) == {"tensor"}:
            if packed["tensor"] != name:
                raise ValueError(f"{name} is the tensor of another place")
            return tensors[name]
        return {key: _unpacked(value, f"{name}.{key}", tensors) for key, value in packed.items()}
    if isinstance(packed, list):
        return [_unpacked(value, f"{name}.{place}", tensors) for place, value in enumerate(packed)]
    return packed


def _digest(state: Any, tensors: dict[str, Tensor]) -> str:
    """A hash of the whole content, by which `read` detects damage."""
    digest = hashlib.blake2b(json.dumps(state, sort_keys=True).encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint(model: BLT, patcher: Patcher) -> str:
    """A hash of model and patcher: their configuration and the first 4096 numbers of some weights. Hashing all weights
    would take too long."""
    digest = hashlib.sha256(model.config.model_dump_json().encode() + patcher.rule.model_dump_json().encode())
    scorer = {} if patcher.model is None else patcher.model.state_dict()
    for weight in (model.decoder.head.weight, model.encoder.embed.weight, *scorer.values()):
        digest.update(weight.detach().cpu().contiguous().flatten()[:4096].view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
