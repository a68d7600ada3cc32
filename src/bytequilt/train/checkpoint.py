"""Checkpoints of unsharded training, from which a run continues exactly. Tensors are in safetensors, the rest in
JSON."""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..config import UserError, one_line
from ..files import read_json, remove_folder, replacing_folder, write_json
from .optim import row_optimizers

DAMAGED = (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError, UserError)
"""Exceptions that reading a damaged checkpoint, or one of another model, may raise."""


def save(
    folder: Path,
    step: int,
    network: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    state: dict[str, Any],
    keep: int,
) -> None:
    """Write the checkpoint of `step` to a temporary folder and rename it. Only the newest `keep` checkpoints remain."""
    tensors, groups = flatten(optimizers)
    with replacing_folder(folder / f"step-{step:08d}") as partial:
        save_file(_weights(network, optimizers), partial / "model.safetensors")
        save_file(tensors | {"rng": torch.get_rng_state()}, partial / "optimizer.safetensors")
        write_json(partial / "state.json", state | {"step": step, "groups": groups})
    for old in finished(folder)[:-keep]:
        remove_folder(old)


def finished(folder: Path) -> list[Path]:
    """All finished checkpoints in a folder, oldest first."""
    return sorted(p for p in folder.glob("step-*") if re.fullmatch(r"step-\d{8}", p.name))


def restore(path: Path, network: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Any]:
    """Load a checkpoint into network and optimizers, and return its other state. Raises UserError if the checkpoint is
    damaged or belongs to another model."""
    try:
        state = read_json(path / "state.json")
        network.load_state_dict(load_file(path / "model.safetensors"))
        tensors = load_file(path / "optimizer.safetensors")
        torch.set_rng_state(tensors.pop("rng"))
        unflatten(optimizers, tensors, state.pop("groups"))
    except DAMAGED as error:
        raise damaged(path, error) from None
    return state


def damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"checkpoint {path} is damaged or belongs to another model ({one_line(error)[:100]}); "
        "delete it to continue from the checkpoint before"
    )


def _weights(network: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The weights as evaluation uses them: caught up. `Rows` saves its own with the optimizer state."""
    tables = {id(weight): rows for rows in row_optimizers(optimizers) for weight in rows.moments}
    weights = {}
    for name, weight in network.state_dict(keep_vars=True).items():
        rows = tables.get(id(weight))
        weights[name] = rows.caught_up(weight) if rows else weight.detach().contiguous()
    return weights


def flatten(optimizers: list[torch.optim.Optimizer]) -> tuple[dict[str, Tensor], list]:
    """The tensors of all optimizers by name, and the parameter groups of each."""
    tensors, groups = {}, []
    for i, optimizer in enumerate(optimizers):
        state = optimizer.state_dict()
        for parameter, values in state["state"].items():
            tensors |= {f"{i}.{parameter}.{key}": value for key, value in values.items()}
        groups.append(state["param_groups"])
    return tensors, groups


def unflatten(optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor], groups: list) -> None:
    """Load the result of `flatten` into the optimizers."""
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    for name, value in tensors.items():
        i, parameter, key = name.split(".", 2)
        states[int(i)].setdefault(int(parameter), {})[key] = value
    for optimizer, state, group in zip(optimizers, states, groups, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": group})
