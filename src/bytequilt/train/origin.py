"""What a run takes over from the model that it starts from."""

from ..config import Draft, PatchingConfig, Recipe, UserError
from ..interop.native import ModelConfig
from .checks import described

PATCH_BYTES = 4.5  # named where a model of another layout does not say what its threshold aims at


def complete(recipe: Draft) -> Recipe:
    """The recipe with the shape and the patches of the model that training starts from, where it gives none itself.

    Raises UserError where it starts from none, or from one without a BLT.
    """
    if isinstance(recipe, Recipe):
        return recipe
    name = recipe.train.init
    if name is None:
        raise UserError("the recipe has no [model] or no [patching]: name a model whose it takes, by --init MODEL")
    origin = described(name)
    if origin.blt is None or origin.patching is None:
        raise UserError(f"`init` {name} has no BLT")
    fields = recipe.model_dump(exclude_unset=True)
    fields["model"] = recipe.model or origin.blt
    fields["patching"] = recipe.patching or _patching(origin)
    return Recipe.model_validate(fields)


def _patching(origin: ModelConfig) -> PatchingConfig:
    """The rule of a model without its threshold, which comes with its patcher."""
    rule = origin.patching
    assert rule is not None
    calibrated = ("rise" if rule.kind == "monotonic" else "threshold") if rule.needs_entropy else ""
    options = rule.model_dump(exclude={calibrated}, exclude_none=True)
    target = {"target_bytes": origin.patch_bytes or PATCH_BYTES} if rule.needs_entropy else {}
    return PatchingConfig(**options, **target)
