"""Before any work: complete a recipe from the model it starts from, and report errors that can be known in advance."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from ..config import Config, DataConfig, Draft, PatchingConfig, Recipe, TrainConfig, UserError, one_line
from ..data.sources import documents
from ..info import PATCH_BYTES, parameters
from ..interop import Directory
from ..interop.devices import choose_device
from ..interop.names import unfilled
from ..interop.native import ModelConfig
from ..model.blt import BLT
from ..model.entropy import EntropyModel
from .device import device_of, memory_of_machine

LEAST_OF_A_WEIGHT = 12
"""Least bytes per parameter in training, in fp32: the weight, and two more numbers for its gradient and moments."""


def check_recipe(recipe: Recipe) -> None:
    """Raise UserError for anything in the recipe that would fail later in the run."""
    for config in (recipe.train, recipe.entropy_train):
        if config is not None:
            check_training(config)
    check_data(recipe.data)
    if recipe.train.init is not None:
        check_shape(recipe.train.init, BLT, recipe.model, "blt")
    if recipe.entropy_train is not None and recipe.entropy_train.init is not None:
        if recipe.entropy is None:
            raise UserError("`init` of [entropy_train] needs an [entropy] to train")
        check_shape(recipe.entropy_train.init, EntropyModel, recipe.entropy, "entropy")
    if recipe.entropy_init is not None:
        check_entropy(recipe.entropy_init)


def check_memory(recipe: Recipe) -> None:
    """Raises UserError where this machine has less memory than a training on its CPU takes at the very least."""
    for part, network, weights, batch in least_memory(recipe):
        if weights + batch > (there := memory_of_machine()):
            raise UserError(
                f"training the {part} takes {weights / 1e9:,.1f} GB for {network:,} parameters and {batch / 1e9:,.1f} "
                f"GB for a batch, at least, and this machine has {there / 1e9:,.1f} GB; make the model, `rows` or "
                "`row_bytes` smaller"
            )


def least_memory(recipe: Recipe) -> Iterator[tuple[str, int, int, int]]:
    """For each training on a CPU: its name, its parameters, and the least bytes of its weights and of a batch."""
    counted = parameters(recipe.model, recipe.entropy)
    # the stacks that read every byte
    trained = [("BLT", counted["total"], recipe.train, [recipe.model.encoder, recipe.model.decoder])]
    if recipe.entropy is not None and recipe.entropy_train is not None:
        trained.append(("entropy model", counted["entropy"], recipe.entropy_train, [recipe.entropy]))
    for part, network, config, stacks in trained:
        if device_of(config).type == "cpu":
            numbers = sum(stack.layers * (stack.dim * 8 + stack.hidden_dim * 3) for stack in stacks)
            kept = 0 if config.checkpoint_activations else numbers
            yield part, network, LEAST_OF_A_WEIGHT * network, 2 * config.rows * config.row_bytes * kept


def check_training(config: TrainConfig) -> None:
    """Raise UserError if the device or the tracker of a training is not available."""
    choose_device(config.device)
    if config.tracker is not None:
        tracker_of(config.tracker)


def check_data(config: DataConfig) -> None:
    """Raise UserError if a source gives no first document. The hub and standard input are not checked."""
    if not config.train:
        raise UserError("`train` of [data] names no source")
    for source in (*config.train, *config.val):
        if source != "-" and not source.startswith("hf:"):
            next(documents(source, config))


def check_shape(name: str, kind: Any, config: Config | None, part: str) -> None:
    """Raise UserError if the weights of the model `name` do not fit a network of this configuration."""
    theirs = getattr(described(name), part)
    if theirs is None:
        raise UserError(f"`init` {name} has no {'entropy model' if part == 'entropy' else 'BLT'}")
    ours, stored = (unfilled(kind, shape).state_dict() for shape in (config, theirs))
    for key in ours.keys() | stored.keys():
        a, b = (tuple(weights[key].shape) if key in weights else None for weights in (ours, stored))
        if a != b:
            raise UserError(
                f"`init` {name} does not fit the shape of the recipe: {key} is {b} in the model, but {a} in the recipe"
            )


def check_entropy(name: str) -> None:
    """Raise UserError if the model `name` has no entropy model."""
    if described(name).entropy is None:
        raise UserError(f"{name} has no entropy model")


def described(name: str) -> ModelConfig:
    """The configuration of the model `name`. Raises UserError if there is no such model."""
    return Directory.find(name).config


def complete(recipe: Draft) -> Recipe:
    """The complete recipe: a missing [model] or [patching] is copied from the model `train.init`. Raises UserError if
    the recipe needs a model and names none, or if that model has no BLT."""
    if isinstance(recipe, Recipe):
        return recipe
    name = recipe.train.init
    if name is None:
        raise UserError(
            "the recipe has no [model] or no [patching]: name a model from which to copy them, by --init MODEL"
        )
    origin = described(name)
    if origin.blt is None or origin.patching is None:
        raise UserError(f"`init` {name} has no BLT")
    fields = recipe.model_dump(exclude_unset=True)
    patching = _patching(origin, recipe.patching)
    if patching.needs_entropy and not (patching.calibrated and patching.kind == origin.patching.kind):
        fields |= {"entropy_init": name} if recipe.entropy is None and recipe.entropy_init is None else {}
    try:
        return Recipe.model_validate(fields | {"model": recipe.model or origin.blt, "patching": patching})
    except ValidationError as error:
        raise UserError(one_line(error)) from None


def _patching(origin: ModelConfig, given: PatchingConfig | None) -> PatchingConfig:
    """The original's rule with the recipe's fields, but not its threshold, which holds for its entropy model alone."""
    if given is not None and "kind" in given.model_fields_set:
        return given
    rule, chosen = origin.patching, given.model_dump(exclude_unset=True) if given is not None else {}
    assert rule is not None
    options = rule.model_dump(exclude={rule.limit or ""}, exclude_none=True)
    if rule.limit is not None and rule.limit not in chosen:
        options["target_bytes"] = origin.patch_bytes or PATCH_BYTES
    try:
        return PatchingConfig(**(options | chosen))
    except ValidationError as error:
        raise UserError(f"patching: {one_line(error)}") from None


def tracker_of(name: str) -> Any:
    """The Python module of the tracker `name`. Raises UserError if it is not installed or lacks a function that we
    call."""
    try:
        module = import_module(name)
    except (ImportError, ValueError, TypeError):
        raise UserError(
            f"tracker '{name}' is not installed; trackio comes with `pip install 'bytequilt[track]'`"[:300]
        ) from None
    if not all(callable(getattr(module, call, None)) for call in ("init", "log", "finish")):
        raise UserError(f"'{name}' is no tracker: it lacks init, log or finish; trackio and wandb have them")
    return module
