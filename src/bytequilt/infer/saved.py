"""Sessions on disk: what they hold of a text, as tensors and plain values in one safetensors file."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..config import UserError
from ..model.blt import BLT
from ..model.cache import EncoderCache, StackCache, Tape
from ..model.ngram import NgramCache
from ..patching.patcher import Patcher
from ..patching.rules import Stream
from .row import Row
from .session import Session

FORMAT = 1
STATEFUL = (Session, Row, Stream, StackCache, EncoderCache, NgramCache, Tape)
"""What has state; the model, the patcher and configurations are not part of it."""


def save(session: Session, path: str | Path) -> None:
    """Write a session to a file, which appears when it is whole. `restore` goes on from there."""
    session.trim()
    tensors: dict[str, Tensor] = {}
    about = {
        "format": FORMAT,
        "model": _fingerprint(session.model, session.patcher),
        "rows": len(session.rows),
        "reserve": session.reserve,
        "state": _packed(session, "session", tensors),
    }
    partial = Path(path).with_name(Path(path).name + ".partial")
    save_file(tensors, partial, {"session": json.dumps(about)})
    partial.replace(path)


def restore(model: BLT, patcher: Patcher, path: str | Path) -> Session:
    """The session that was saved. Raises UserError for another file, or one of another model."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["session"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        version, name = about["format"], about["model"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a saved session: {' '.join(str(error).split())}") from None
    if version != FORMAT:
        raise UserError(f"{path} is a session of format {version}; this version reads format {FORMAT}")
    if name != _fingerprint(model, patcher):
        raise UserError(f"{path} is a session of another model")
    session = Session(model, patcher, about["reserve"])
    session.rows += [Row(model, patcher, about["reserve"]) for _ in range(about["rows"] - 1)]
    _unpack(session, about["state"], tensors, session.device)
    return session


def _packed(thing: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Plain values as they are, tensors by name; NotImplemented for what is no state."""
    match thing:
        case Tensor():
            tensors[name] = thing.detach().cpu().contiguous().clone()
            return {"tensor": name}
        case np.floating():
            return float(thing)
        case list() | tuple():
            return [_packed(each, f"{name}.{i}", tensors) for i, each in enumerate(thing)]
        case None | bool() | int() | float() | str() | dict():
            return thing
        case _ if isinstance(thing, STATEFUL):
            state = {key: value for key, value in vars(thing).items() if key[0] != "_"}  # the rest is work in hand
            parts = {key: _packed(value, f"{name}.{key}", tensors) for key, value in state.items()}
            return {key: part for key, part in parts.items() if part is not NotImplemented}
    return NotImplemented


def _unpack(thing: Any, packed: Any, tensors: dict[str, Tensor], device: torch.device) -> Any:
    """The value that was packed; what has state is brought into it."""
    if isinstance(thing, STATEFUL):
        for key, part in packed.items():
            setattr(thing, key, _unpack(getattr(thing, key), part, tensors, device))
        return thing
    if isinstance(packed, dict) and set(packed) == {"tensor"}:
        return tensors[packed["tensor"]].to(device)
    if isinstance(thing, list) and thing and isinstance(thing[0], STATEFUL):
        return [_unpack(each, part, tensors, device) for each, part in zip(thing, packed, strict=True)]
    return type(thing)(packed) if isinstance(packed, dict) else packed


def _fingerprint(model: BLT, patcher: Patcher) -> str:
    """Names model and patcher by their shape and by some of their weights: reading all of them would take too long."""
    digest = hashlib.sha256(model.config.model_dump_json().encode() + patcher.rule.model_dump_json().encode())
    scorer = {} if patcher.model is None else patcher.model.state_dict()
    for weight in (model.decoder.head.weight, model.encoder.embed.weight, *scorer.values()):
        digest.update(weight.detach().cpu().contiguous().flatten()[:4096].view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
