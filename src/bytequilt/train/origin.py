"""Recipe fields that are copied from the model that a run starts from (`train.init`)."""

from pydantic import ValidationError

from ..config import Draft, PatchingConfig, Recipe, UserError, one_line
from ..info import PATCH_BYTES
from ..interop.native import ModelConfig
from .checks import described


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
    """The rule of the original model, changed by the fields that the recipe gives. Its threshold is
    not copied: it holds for the entropies of the original's entropy model alone."""
    if given is not None and "kind" in given.model_fields_set:
        return given
    rule, chosen = origin.patching, given.model_dump(exclude_unset=True) if given is not None else {}
    assert rule is not None
    calibrated = ("rise" if rule.kind == "monotonic" else "threshold") if rule.needs_entropy else None
    options = rule.model_dump(exclude={calibrated or ""}, exclude_none=True)
    if calibrated is not None and calibrated not in chosen:
        options["target_bytes"] = origin.patch_bytes or PATCH_BYTES
    try:
        return PatchingConfig(**(options | chosen))
    except ValidationError as error:
        raise UserError(f"patching: {one_line(error)}") from None
