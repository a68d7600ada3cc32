"""The configuration of a whole run (corpus, models, training), and the recipe file that holds it."""

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
    """Sources of documents: each is a file, directory or glob, `-` (standard input), `hf:NAME` or `package:NAME`."""

    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    """Held-out sources. If none are given, every `val_every`-th document of `train` is held out. If `train` has fewer
    documents than that, the last tenth of their bytes is held out, cut at a paragraph."""
    val_every: Annotated[int, Field(ge=2)] = 50
    weights: tuple[float, ...] = ()
    """Share of the training bytes from each source of `train`, one number per source; by default, the sizes."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Fraction of the training documents to keep. A hash of the document's id decides."""
    field: str = "text"
    """Field of a JSONL or Parquet record that holds the text."""
    prompt_field: str | None = None
    """Field of a record with a prompt, which is put before `field`. The prompt is input only: the loss leaves out its
    bytes (fine-tuning on completions)."""
    messages_field: str | None = None
    """Field of a record with a chat: a list of messages with `role` and `content`. The last message is learnt, and the
    messages before are its prompt. In records without this field, `field` and `prompt_field` are used."""
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Field names, each with a list of values. Only records with one of these values in the field are kept."""
    skip_bad_records: bool = False
    """Report and skip bad records. If false, a bad record ends the run with an error."""
    shard_bytes: Positive = 32_000_000
    """Approximate number of text bytes in one Parquet shard."""
    streams: Positive = 1
    """Number of streams. The batches of a step come from the streams in turn, and a process packs only the streams that
    it needs. The order of the documents depends on this number, but not on the number of processes."""

    @model_validator(mode="after")
    def _weights_match(self) -> "DataConfig":
        if self.weights and len(self.weights) != len(self.train):
            raise ValueError(f"{len(self.weights)} weights for {len(self.train)} sources in `train`")
        if any(w <= 0 for w in self.weights):
            raise ValueError("`weights` must be positive")
        return self


class TrainConfig(Config):
    """The training of one model, of any kind."""

    steps: Steps
    rows: Many = 8
    """Rows per batch."""
    row_bytes: Annotated[int, Field(ge=16, le=2**32)] = 1024
    """Ids per row."""
    row_patches: Positive | None = None
    """Maximum patches per row. If not given, only `row_bytes` limits a row."""
    accumulate: Many = 1
    """Batches per optimizer step, counted over all processes."""
    shard: Literal["none", "full"] = "none"
    """With several processes: none: every process keeps the whole model. full: every process keeps a part of each
    weight and its optimizer state (FSDP), and some columns of each table. Muon does not work with `full`."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """adamw: AdamW for all weights. muon: Muon for the matrices inside transformer blocks, AdamW for the others. Muon
    multiplies in bf16, so it is slow on hardware without fast bf16."""
    table_optimizer: Literal["rows", "dense"] = "rows"
    """How AdamW updates hash tables and byte embeddings. rows: only the rows that a step reads; a row that was not read
    catches up when it is read next. dense: all rows at every step."""
    lr: LearningRate = 4e-4
    hash_lr: LearningRate | None = None
    """Peak learning rate of hash tables and byte embeddings; `lr` if not given."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """Learning rate after warm-up. cosine: falls along a cosine. wsd: is constant, then falls linearly over the last
    `decay` (a fraction) of the steps."""
    warmup: Whole = 100
    decay: Annotated[float, Field(gt=0, le=1)] = 0.2
    final_lr: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Learning rate at the end, as a fraction of the peak."""
    weight_decay: Annotated[float, Field(ge=0, le=100)] = 0.1
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Maximum norm of the whole gradient; larger gradients are scaled down."""
    precision: Literal["auto", "fp32", "bf16", "bf16_gathered"] = "auto"
    """bf16: autocast. auto: bf16 autocast if the hardware multiplies bf16 fast, else fp32. bf16_gathered: sharded
    weights are gathered in bf16, and activations are bf16 too: half the traffic, but other results than autocast."""
    compile: bool = False
    """Compile each transformer block."""
    checkpoint_activations: bool = False
    """Recompute each block and cross-attention in the backward pass instead of keeping their activations."""
    device: str = "auto"
    timeout: Positive = 600
    """Seconds to wait for an answer from another process before it counts as lost."""
    seed: Seed = 0
    eval_every: Positive = 500
    eval_bytes: Positive = 200_000
    """Held-out bytes scored at each evaluation during training. The report scores all held-out bytes."""
    save_every: Positive = 500
    keep: Positive = 2
    """Number of checkpoints to keep; older checkpoints are deleted."""
    max_bad_steps: Positive = 5
    """The run ends after this many consecutive steps with a non-finite loss or gradient."""
    init: str | None = None
    """Model directory, or name of a shipped model. Training starts from its weights. A BLT also brings its patcher,
    unless [patching] is of another kind or gives a threshold."""
    tracker: str | None = None
    """Python module with the functions init, log and finish, such as trackio or wandb."""

    @model_validator(mode="after")
    def _patches_have_bytes(self) -> "TrainConfig":
        if self.row_patches is not None and self.row_patches > self.row_bytes:
            raise ValueError(
                f"`row_patches` must be at most `row_bytes` ({self.row_bytes}), not {self.row_patches}: "
                "a patch has a byte at least"
            )
        return self


class ReportConfig(Config):
    """Options of the text that the report at the end of a run shows."""

    prompt: str = "The "
    """If it is empty, the first prompt in held-out text takes its place or, without one, the first words there."""
    max_bytes: Positive = 300
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.7
    seed: Seed = 0


class Draft(Config):
    """A recipe that may omit [model] and [patching]. They are then taken from the model in `train.init`."""

    data: DataConfig = DataConfig()
    entropy: EntropyConfig | None = None
    entropy_train: TrainConfig | None = None
    entropy_init: str | None = None
    """Model directory, or name of a shipped model. Its entropy model is used unchanged, and none is trained."""
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
    """A complete recipe for a whole run: corpus, entropy model, calibrated threshold, shards, BLT, report."""

    patching: PatchingConfig
    model: BLTConfig


def recipe_path(name: str, folder: str = "recipes") -> Path:
    """The path of a recipe file. `name` is a path, or the name of a recipe that is shipped in `folder`.

    Raises UserError if there is no such recipe.
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
    """Load a recipe by its name or path: a Recipe, or a Draft if [model] or [patching] is missing.

    Raises UserError with one line that names the wrong field.
    """
    draft = read_toml(recipe_path(name), Draft)
    whole = draft.model is not None and draft.patching is not None
    return Recipe.model_validate(draft.model_dump(exclude_unset=True)) if whole else draft


def read_toml(path: Path, kind: type[Chosen]) -> Chosen:
    """Read a UTF-8 TOML file as a configuration. Raises UserError with one line that names the wrong field."""
    text = read_text(path)
    try:
        return kind.model_validate(tomllib.loads(text))
    except ValidationError as error:
        raise UserError(f"{path}: {one_line(error)}") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not TOML: {one_line(error)}") from None
