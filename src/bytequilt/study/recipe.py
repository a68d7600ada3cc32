"""The recipe of a study: models trained with equal budgets, described by a TOML file."""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from ..config import (
    BaselineConfig,
    BLTConfig,
    Config,
    DataConfig,
    EntropyConfig,
    PatchingConfig,
    Positive,
    Seed,
    TrainConfig,
    read_toml,
    recipe_path,
)
from .tuning import Amount, FineTune

STUDIES = "recipes/studies"


class Budget(Config):
    """The budget of one training run, in exactly one of three units, and its seeds."""

    flops: Amount | None = None
    """Training FLOPs: three forward passes per byte, and one of the entropy model."""
    bytes: Amount | None = None
    seconds: Amount | None = None
    """Seconds on this machine; the number of steps is computed from the first steps."""
    seeds: tuple[Seed, ...] = (0,)

    @model_validator(mode="after")
    def _one_amount(self) -> "Budget":
        if len(self.amounts) != 1:
            raise ValueError("a budget must have exactly one of flops, bytes or seconds")
        return self

    @property
    def amounts(self) -> dict[str, float]:
        return self.model_dump(include={"flops", "bytes", "seconds"}, exclude_none=True)


class Rate(NamedTuple):
    """Peak learning rate, and the factor that gives the rate of embeddings and hash tables."""

    lr: float
    hash_lr_factor: float


class Sweep(Config):
    """The grid of learning rates to search for every model at its smallest size, by held-out bits per byte."""

    lr: Annotated[tuple[Amount, ...], Field(min_length=1)]
    hash_lr_factor: Annotated[tuple[Amount, ...], Field(min_length=1)] = (1.0,)
    """Learning rates of embeddings and hash tables, as multiples of `lr`."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of a size's budget that one try uses."""
    again: tuple[str, ...] = ()
    """Larger sizes at which the search continues from the best rates of the searched size below. Other sizes use those
    rates."""

    @property
    def middle(self) -> Rate:
        """The first learning rates that are tried."""
        return Rate(*(sorted(grid)[len(grid) // 2] for grid in (self.lr, self.hash_lr_factor)))


class Contender(Config):
    """One model of a study, at all of its sizes."""

    ladder: str
    """Name of the ladder that contains the networks of this model."""
    patching: PatchingConfig | None = None
    """Patching rule of a BLT. A model without this field is a baseline."""
    tokenizer: str | None = None
    """Path of a tokenizer file with ranks, such as Llama 3's tokenizer.model."""
    vocabulary: Annotated[int, Field(gt=256)] | None = None
    """Number of ranks to use from the file, by default all. Without a file: number of ranks to learn from the training
    text."""
    change: dict[str, Any] = Field(default_factory=dict)
    """Changes to the networks of the ladder, at every size."""
    train: dict[str, Any] = Field(default_factory=dict)
    """Changes to the study's training fields."""
    lr: Amount | None = None
    """Learning rate; searched if not given."""
    hash_lr_factor: Amount | None = None
    """Learning rate of embeddings and hash tables as a multiple of `lr`, if `lr` is given; 1 by default."""
    lr_of: str | None = None
    """Name of another model, from which the learning rate is taken without a search."""
    sizes: tuple[str, ...] = ()
    """Sizes at which the model is trained; by default all sizes with a budget."""
    stage: Positive = 1
    """Models of a lower stage are trained first, at all sizes."""
    parameters: dict[str, Positive] = Field(default_factory=dict)
    """Total number of parameters by size; the number of hash-table rows is chosen to reach it within 2 %."""
    frozen_tables: bool = False
    """If true, hash tables keep their random values, which shows how much learning them contributes."""
    charge_entropy: bool = False
    """If true, the training of the entropy model, and the filling of an n-gram table, is subtracted from the budget,
    which must be in FLOPs."""
    ngram_patcher: bool = False
    """If true, an n-gram table, filled with entropies of the entropy model, takes the place of that model."""

    @property
    def needs_entropy(self) -> bool:
        """True if the model's patches need the study's shared entropy model."""
        return self.patching is not None and self.patching.needs_entropy

    @model_validator(mode="after")
    def _one_kind(self) -> "Contender":
        if self.patching and (self.tokenizer or self.vocabulary):
            raise ValueError("a model with `patching` cannot have `tokenizer` or `vocabulary`")
        if self.lr and self.lr_of:
            raise ValueError("`lr` and `lr_of` exclude each other")
        if self.hash_lr_factor and not self.lr:
            raise ValueError("`hash_lr_factor` is a multiple of `lr`: give that, too")
        return self


class Count(Config):
    """A model that only counts, given as much training text as a run of another model reads."""

    kind: Literal["kneser-ney", "ppmd"]
    order: Annotated[int, Field(ge=2, le=64)]
    text_of: str
    """Name of the model that determines the amount of text, at each of its sizes."""
    vocabulary: Annotated[int, Field(gt=256)] | None = None
    """Number of BPE ranks to learn for `kneser-ney`, which then counts n-grams of tokens; by default it counts
    bytes."""

    @model_validator(mode="after")
    def _bytes_for_ppmd(self) -> "Count":
        if self.kind == "ppmd" and self.vocabulary:
            raise ValueError("`ppmd` reads bytes and cannot have `vocabulary`")
        return self


class Study(Config):
    """All settings of a comparison."""

    corpus: Literal["english", "russian", "code", "multilingual"] = "english"
    """Kind of text; it is repeated in every row of the results."""
    data: DataConfig
    test: tuple[str, ...] = ()
    """Sources of the test text. By default the held-out text is used, which also decides learning rates."""
    test_bytes: Annotated[int, Field(gt=0)] | None = None
    """Bytes of the test text to score; by default all."""
    entropy: EntropyConfig | None = None
    entropy_train: TrainConfig | None = None
    entropy_init: str | None = None
    """As in a recipe. All models that patch by entropy share one entropy model."""
    ladders: dict[str, dict[str, dict[str, Any]]]
    """Networks by ladder name and size: a BLT's fields, or `stack` or `mamba` of a baseline."""
    budgets: Annotated[dict[str, Budget], Field(min_length=1)]
    """Budgets by size, smallest first."""
    sweep: Sweep | None = None
    train: dict[str, Any]
    """Training fields of all models. The study itself sets steps, learning rate and seed."""
    warmup_share: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Warm-up as a share of a run's steps; it replaces `train.warmup`, because runs of one budget have different
    steps."""
    models: Annotated[dict[str, Contender], Field(min_length=1)]
    counts: dict[str, Count] = Field(default_factory=dict)
    finetune: FineTune | None = None

    @model_validator(mode="after")
    def _models_fit(self) -> "Study":
        for name, model in self.models.items():
            if model.ladder not in self.ladders:
                raise ValueError(
                    f"model {name} names an unknown ladder {model.ladder}; there are {', '.join(self.ladders)}"
                )
            if not self.sizes(name):
                raise ValueError(f"model {name} has no size with a budget; ladder {model.ladder} has other sizes")
            if not (model.lr or model.lr_of or self.sweep):
                raise ValueError(f"model {name} has no learning rate: give `lr`, or [sweep]")
            if model.lr_of and (model.lr_of not in self.models or self.models[model.lr_of].lr_of):
                other = "takes another's itself" if model.lr_of in self.models else "is no model"
                raise ValueError(f"model {name} takes the learning rate of {model.lr_of}, which {other}")
            if model.needs_entropy and not (self.entropy or self.entropy_init):
                raise ValueError(f"model {name} patches by entropy: give [entropy] and [entropy_train]")
            self.training(name)
            for size in self.sizes(name):
                if size not in self.ladders[model.ladder] or size not in self.budgets:
                    raise ValueError(f"model {name} has size {size}, but its ladder or the budgets do not")
                self.network(name, size)
        return self

    @model_validator(mode="after")
    def _options_apply(self) -> "Study":
        for name, model in self.models.items():
            if model.parameters and set(model.parameters) != set(self.sizes(name)):
                raise ValueError(f"model {name} needs `parameters` for its sizes {', '.join(self.sizes(name))}")
            networks = [self.network(name, size).hash for size in self.sizes(name)]
            if (model.parameters or model.frozen_tables) and not all(hash and hash.sizes for hash in networks):
                raise ValueError(f"model {name} has `parameters` or `frozen_tables`, but no hash tables")
            if model.ngram_patcher and not model.needs_entropy:
                raise ValueError(f"model {name} has `ngram_patcher`, but its patches need no entropies")
            if model.charge_entropy and not (model.needs_entropy and self.entropy_train and self.entropy):
                raise ValueError(f"model {name} has `charge_entropy`, but no entropy model is trained for it")
            if model.charge_entropy and not all(self.budgets[size].flops for size in self.sizes(name)):
                raise ValueError(f"model {name} has `charge_entropy`, but a budget that is not in FLOPs")
        for name, count in self.counts.items():
            if name in self.models or count.text_of not in self.models:
                raise ValueError(f"count {name} needs a name that no model has, and a model in `text_of`")
        return self

    @model_validator(mode="after")
    def _fine_tuned_models_are_trained(self) -> "Study":
        tuned = self.finetune
        if tuned is None:
            return self
        for name in tuned.models:
            if name not in self.models or tuned.size not in self.sizes(name):
                raise ValueError(f"[finetune] names {name} of size {tuned.size}, which is not trained")
            if missing := sorted(set(tuned.seeds) - set(self.budgets[tuned.size].seeds)):
                raise ValueError(f"[finetune] names seed {missing[0]}, which size {tuned.size} is not trained with")
        return self

    @property
    def blts(self) -> list[str]:
        """The models with patches; all others are baselines."""
        return [name for name, model in self.models.items() if model.patching]

    def sizes(self, name: str) -> tuple[str, ...]:
        """The trained sizes of a model, smallest first."""
        return self.models[name].sizes or tuple(s for s in self.budgets if s in self.ladders[self.models[name].ladder])

    def network(self, name: str, size: str) -> BLTConfig | BaselineConfig:
        """The network configuration of a model at a size; a baseline's vocabulary is still missing."""
        model = self.models[name]
        fields = merged(self.ladders[model.ladder][size], model.change)
        return (BLTConfig if model.patching else BaselineConfig).model_validate(fields)

    def searched_sizes(self, name: str) -> tuple[str, ...]:
        """The sizes at which the learning rates of a model are searched, smallest first."""
        model, sizes = self.models[name], self.sizes(name)
        if model.lr or model.lr_of or self.sweep is None:
            return ()
        return sizes[:1] + tuple(size for size in sizes[1:] if size in self.sweep.again)

    def training_fields(self, name: str) -> dict[str, Any]:
        """The training fields that the recipe sets for a model. Raises ValueError for fields that the study itself
        sets."""
        fields = merged(self.train, self.models[name].train)
        if chosen := sorted({"steps", "lr", "hash_lr", "seed"} & set(fields)):
            raise ValueError(f"`{chosen[0]}` cannot be in [train] of a study: the study sets it")
        return fields

    def training(self, name: str, rate: Rate | None = None, seed: int = 0, steps: int = 1) -> TrainConfig:
        """The training configuration of a model; without `rate`, the default learning rate applies."""
        rates = {"lr": rate.lr, "hash_lr": rate.lr * rate.hash_lr_factor} if rate else {}
        warmup = {} if self.warmup_share is None else {"warmup": round(self.warmup_share * steps)}
        return TrainConfig.model_validate(self.training_fields(name) | rates | warmup | {"seed": seed, "steps": steps})


def merged(fields: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Fields with changes applied; nested sections are merged."""
    result = dict(fields)
    for name, value in changes.items():
        nested = isinstance(value, dict) and isinstance(result.get(name), dict)
        result[name] = merged(result[name], value) if nested else value
    return result


def load_study(name: str) -> Study:
    """The study with this name or path. Raises UserError with one line that names the wrong field."""
    return read_toml(recipe_path(name, STUDIES), Study)
