"""Everything that can be chosen, as frozen values. A misspelt or unread field is an error."""

from .base import Config, Positive, UserError, one_line
from .networks import BLTConfig, EntropyConfig, HashConfig, NgramConfig, StackConfig
from .patching import PatchingConfig, RuleConfig
from .recipe import DataConfig, Draft, Recipe, ReportConfig, TrainConfig, load_recipe, read_toml, recipe_path

__all__ = [
    "BLTConfig",
    "Config",
    "DataConfig",
    "Draft",
    "EntropyConfig",
    "HashConfig",
    "NgramConfig",
    "PatchingConfig",
    "Positive",
    "Recipe",
    "ReportConfig",
    "RuleConfig",
    "StackConfig",
    "TrainConfig",
    "UserError",
    "load_recipe",
    "one_line",
    "read_toml",
    "recipe_path",
]
