"""All configurations, as frozen values. An unknown field is an error."""

from .base import Config, Positive, Seed, UserError, as_bytes, foreign, is_file, library, one_line, read_text, shorten
from .given import as_kind, as_path, as_real, as_whole
from .networks import BaselineConfig, BLTConfig, EntropyConfig, HashConfig, MambaConfig, NgramConfig, StackConfig
from .patching import PatchingConfig, RuleConfig
from .recipe import DataConfig, Draft, Recipe, ReportConfig, TrainConfig, load_recipe, read_toml, recipe_path
from .sampling import MOST_GUESSES

__all__ = [
    "MOST_GUESSES",
    "BLTConfig",
    "BaselineConfig",
    "Config",
    "DataConfig",
    "Draft",
    "EntropyConfig",
    "HashConfig",
    "MambaConfig",
    "NgramConfig",
    "PatchingConfig",
    "Positive",
    "Recipe",
    "ReportConfig",
    "RuleConfig",
    "Seed",
    "StackConfig",
    "TrainConfig",
    "UserError",
    "as_bytes",
    "as_kind",
    "as_path",
    "as_real",
    "as_whole",
    "foreign",
    "is_file",
    "library",
    "load_recipe",
    "one_line",
    "read_text",
    "read_toml",
    "recipe_path",
    "shorten",
]
