"""A whole run: its corpus, its training, and the file that describes it."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from .base import Config, Positive, Seed, UserError, Whole, is_file, one_line, read_text
from .networks import BLTConfig, EntropyConfig
from .patching import PatchingConfig

Steps = Annotated[int, Field(gt=0, le=10**9)]
Many = Annotated[int, Field(gt=0, le=2**20)]
Beta = Annotated[float, Field(ge=0, lt=1)]
LearningRate = Annotated[float, Field(gt=0)]
Chosen = TypeVar("Chosen", bound=Config)


class DataConfig(Config):
    """Where documents come from. A source is a file, directory or glob, `-`, `hf:NAME`, or `package:NAME`."""

    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    """Held-out sources; where none are given, every `val_every`-th document of `train` is held out; of
    fewer documents, the last tenth of their bytes, cut at a paragraph."""
    val_every: Annotated[int, Field(ge=2)] = 50
    weights: tuple[float, ...] = ()
    """Share of the bytes that each source of `train` has, one number a source; where none are given, its size."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training documents to keep, chosen by their ids."""
    field: str = "text"
    """Field of a JSONL or Parquet record that holds the text."""
    prompt_field: str | None = None
    """Field of a record whose bytes precede `field` and are read but not learnt (fine-tuning on completions)."""
    messages_field: str | None = None
    """Field of a record that holds a chat, a list of messages with `role` and `content`: the last is learnt, and those
    before it are its prompt. Records without this field are read by the others."""
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Keep only records whose field of this name has one of these values."""
    skip_bad_records: bool = False
    """Whether a bad record is reported and skipped; otherwise it is reported and ends the run."""
    shard_bytes: Positive = 32_000_000
    """Text bytes of one Parquet shard, about."""
    streams: Positive = 1
    """Streams that the batches of a step are dealt from in turn: each process packs those that it needs. Another number
    gives another order of the documents; the number of processes does not."""

    @model_validator(mode="after")
    def _weights_match(self) -> "DataConfig":
        if self.weights and len(self.weights) != len(self.train):
            raise ValueError(f"{len(self.weights)} weights for {len(self.train)} sources in `train`")
        if any(w <= 0 for w in self.weights):
            raise ValueError("`weights` must be positive")
        return self


class TrainConfig(Config):
    """One training run, of whatever model."""

    steps: Steps
    rows: Many = 8
    """Rows of a batch."""
    row_bytes: Annotated[int, Field(ge=16, le=2**32)] = 1024
    """Ids of a row."""
    row_patches: Positive | None = None
    """Most patches of a row; where not given, rows are filled by bytes alone."""
    accumulate: Many = 1
    """Batches of one optimizer step, those of all processes together."""
    shard: Literal["none", "full"] = "none"
    """Among several processes: none, each keeps the whole model; full, each keeps a part of every weight and of its
    optimizer (FSDP), and some columns of each table. Muon is not for `full`."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """adamw: everything; muon: the matrices inside transformer blocks by Muon, the rest by AdamW. Muon multiplies
    in bf16, and is slow where the hardware does not."""
    table_optimizer: Literal["rows", "dense"] = "rows"
    """rows: AdamW of hash tables and byte embeddings goes through the rows that a step reads, and the others catch up
    when they are read; dense: through all of them at every step."""
    lr: LearningRate = 4e-4
    hash_lr: LearningRate | None = None
    """Peak learning rate of hash tables and byte embeddings; `lr` where not given."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """cosine: falls from the end of warm-up; wsd: stays, then falls linearly over the last `decay` of the steps."""
    warmup: Whole = 100
    decay: Annotated[float, Field(gt=0, le=1)] = 0.2
    final_lr: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Learning rate at the end, as a fraction of the peak."""
    weight_decay: Annotated[float, Field(ge=0, le=100)] = 0.1
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the whole gradient."""
    precision: Literal["auto", "fp32", "bf16", "bf16_gathered"] = "auto"
    """bf16: autocast; auto: autocast where the hardware multiplies bf16 fast; bf16_gathered: sharded weights are
    gathered in bf16, and all between them is bf16, too: half the traffic, and other numbers than autocast gives."""
    compile: bool = False
    """Compile each transformer block."""
    checkpoint_activations: bool = False
    """Recompute each block and cross-attention in the backward pass instead of keeping their activations."""
    device: str = "auto"
    timeout: Positive = 600
    """Seconds after which a process that does not answer the others counts as lost."""
    seed: Seed = 0
    eval_every: Positive = 500
    eval_bytes: Positive = 200_000
    """Held-out bytes scored at each evaluation during training; the report scores all."""
    save_every: Positive = 500
    keep: Positive = 2
    """Checkpoints to keep."""
    max_bad_steps: Positive = 5
    """Steps in a row with a non-finite loss or gradient that end the run."""
    init: str | None = None
    """Model directory, or name of a shipped model, whose weights training starts from. A BLT brings its patcher, unless
    [patching] is of another kind or gives a threshold."""
    tracker: str | None = None
    """Module with init, log and finish, such as trackio or wandb."""

    @model_validator(mode="after")
    def _patches_have_bytes(self) -> "TrainConfig":
        if self.row_patches is not None and self.row_patches > self.row_bytes:
            raise ValueError(
                f"`row_patches` must be at most `row_bytes` ({self.row_bytes}), not {self.row_patches}: "
                "a patch has a byte at least"
            )
        return self


class ReportConfig(Config):
    """What the report at the end of a run shows."""

    prompt: str = "The "
    max_bytes: Positive = 300
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.7
    seed: Seed = 0


class Draft(Config):
    """A recipe that may leave out [model] and [patching]: they are then those of the model in `train.init`."""

    data: DataConfig = DataConfig()
    entropy: EntropyConfig | None = None
    entropy_train: TrainConfig | None = None
    entropy_init: str | None = None
    """Model directory, or name of a shipped model, whose entropy model is used as it is instead of training one."""
    patching: PatchingConfig | None = None
    model: BLTConfig | None = None
    train: TrainConfig
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _entropy_is_known(self) -> "Draft":
        if self.patching is not None and self.patching.needs_entropy:
            brought = self.train.init and (self.patching.calibrated or self.model is None)
            if not (self.entropy or self.entropy_init or brought):
                raise ValueError(f"patching of kind '{self.patching.kind}' needs [entropy] or `entropy_init`")
        if self.entropy_init and (self.entropy or self.entropy_train):
            raise ValueError("`entropy_init` takes the place of [entropy] and [entropy_train]: give one or the other")
        if self.entropy and self.entropy_train is None:
            raise ValueError("[entropy] needs [entropy_train]")
        return self


class Recipe(Draft):
    """A whole run: corpus, entropy model, calibrated threshold, shards, BLT, report."""

    patching: PatchingConfig
    model: BLTConfig


def recipe_path(name: str, folder: str = "recipes") -> Path:
    """The file of a recipe, given as a path or as the name of one that is shipped in the folder.

    Raises UserError where there is no such file.
    """
    path = Path(name)
    if name.endswith(".toml") or is_file(path):
        if not is_file(path):
            raise UserError(f"no recipe at {name[:100]}")
        return path
    shipped = {file.stem: file for file in Path(str(resources.files("bytequilt") / folder)).glob("*.toml")}
    if name not in shipped:
        raise UserError(
            f"no recipe named '{name[:100]}'; shipped are {', '.join(sorted(shipped))}; a path ends with .toml"
        )
    return shipped[name]


def load_recipe(name: str) -> Draft:
    """The recipe of that name or path: a Recipe, unless it leaves out what a model to start from has.

    Raises UserError with one line that names the field at fault.
    """
    draft = read_toml(recipe_path(name), Draft)
    whole = draft.model is not None and draft.patching is not None
    return Recipe.model_validate(draft.model_dump(exclude_unset=True)) if whole else draft


def read_toml(path: Path, kind: type[Chosen]) -> Chosen:
    """A configuration out of a TOML file in UTF-8. Raises UserError with one line that names the field at fault."""
    text = read_text(path)
    try:
        return kind.model_validate(tomllib.loads(text))
    except ValidationError as error:
        raise UserError(f"{path}: {one_line(error)}") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not TOML: {one_line(error)}") from None
