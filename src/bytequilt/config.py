"""Everything that can be chosen, as frozen values. A misspelt or unread field is an error."""

import math
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

PatchKind = Literal["entropy", "monotonic", "combined", "space", "fixed", "byte"]
ENTROPY_KINDS = ("entropy", "monotonic", "combined")
Positive = Annotated[int, Field(gt=0)]


class Config(BaseModel):
    """Base of all configurations: frozen, and closed to fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def __deepcopy__(self, memo: object = None) -> Self:
        return self  # it cannot change


Chosen = TypeVar("Chosen", bound=Config)


class UserError(Exception):
    """Something the caller can put right: the command line prints it as one line and exits with 2."""


# --------------------------------------------------------------------------------------------------------- networks


class StackConfig(Config):
    """A Llama-style transformer stack: RMSNorm, RoPE, SwiGLU, no biases."""

    dim: Positive
    """Width of the residual stream."""
    layers: Positive
    heads: Positive
    kv_heads: Positive | None = None
    """Key and value heads; as many as `heads` where not given."""
    ffn_dim: Positive | None = None
    """Hidden width of SwiGLU; 8/3 of `dim`, rounded up to a multiple of 256, where not given."""
    window: Positive | None = None
    """How many positions a query sees, itself included; all where not given."""
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5

    @model_validator(mode="after")
    def _heads_divide(self) -> "StackConfig":
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(f"dim {self.dim} must be an even multiple of heads {self.heads}")
        if self.heads % self.num_kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        return self

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def num_kv_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def hidden_dim(self) -> int:
        return self.ffn_dim or 256 * math.ceil(int(8 * self.dim / 3) / 256)


class EntropyConfig(StackConfig):
    """The byte transformer that scores how hard the next byte is."""

    window: Positive | None = 512
    newline_reset: bool = False
    """Whether the attention context opens anew at each newline, which is its first key (BLT paper, section 4.4)."""


class NgramConfig(Config):
    """Entropies by look-up: of the longest n-gram before the next byte that a table knows."""

    sizes: tuple[Annotated[int, Field(ge=2)], ...] = (2, 3, 4, 5, 6)
    """Lengths of the n-grams; single bytes have a table of their own."""
    rows: Positive = 131_072
    """Rows of the table of one length; n-grams that fall together share an entropy."""

    @model_validator(mode="after")
    def _sizes_are_a_set(self) -> "NgramConfig":
        if not self.sizes or len(set(self.sizes)) < len(self.sizes):
            raise ValueError("`sizes` must be given, each once")
        return self


class HashConfig(Config):
    """Hashed byte n-gram embeddings, added to the embedding of each byte."""

    sizes: tuple[Annotated[int, Field(ge=2)], ...] = (3, 4, 5, 6, 7, 8)
    """Lengths of the n-grams; none at all switches the embeddings off."""
    rows: Positive = 500_002
    """Rows of the table of one n-gram length and hash function."""
    functions: Annotated[int, Field(ge=1, le=11)] = 1
    """Hash functions per n-gram length."""

    @property
    def tables(self) -> int:
        return len(self.sizes) * self.functions


class BLTConfig(Config):
    """A Byte Latent Transformer without its patcher."""

    encoder: StackConfig
    latent: StackConfig
    decoder: StackConfig
    hash: HashConfig = HashConfig()
    slots: Positive = 2
    """Vectors per patch (`k`) that cross-attention writes in the encoder and reads in the decoder."""
    cross_heads: Positive | tuple[Positive, Positive]
    """Heads of every cross-attention; two numbers where those of encoder and decoder differ."""
    cross_kv_heads: Positive | tuple[Positive, Positive] | None = None
    """Key and value heads of cross-attention; as many as `cross_heads` where not given."""
    encoder_cross: Literal["last", "all", "none"] = "last"
    """After which encoder layers patches read bytes; with none, a patch is the projected maximum of its bytes."""
    decoder_cross: Literal["all", "first", "none"] = "all"
    """Before which decoder layers bytes read patches; with none, the patch is added to its bytes once."""
    cross_residual: float = 2.0
    """What the residual is multiplied by in cross-attention; released weights need 2, the textbook says 1."""

    @model_validator(mode="after")
    def _widths_agree(self) -> "BLTConfig":
        if self.encoder.dim != self.decoder.dim:
            raise ValueError(
                f"encoder.dim {self.encoder.dim} and decoder.dim {self.decoder.dim} must be equal: "
                "the decoder starts from the encoder's byte states"
            )
        for heads, kv_heads in self.cross_shapes:
            if self.encoder.dim % heads:
                raise ValueError(f"encoder.dim {self.encoder.dim} must be a multiple of cross_heads {heads}")
            if heads % kv_heads:
                raise ValueError(f"cross_heads {heads} must be a multiple of cross_kv_heads {kv_heads}")
        return self

    @property
    def cross_shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Heads of queries, and of keys and values, in the encoder's cross-attention and in the decoder's."""
        heads, kv_heads = (n if isinstance(n, tuple) else (n, n) for n in (self.cross_heads, self.cross_kv_heads))
        return (heads[0], kv_heads[0] or heads[0]), (heads[1], kv_heads[1] or heads[1])


# --------------------------------------------------------------------------------------------------------- patching


RULE_FIELDS = {"threshold": ("entropy", "combined"), "rise": ("monotonic", "combined"), "stride": ("fixed",)}
"""Fields of a rule that some kinds need, and the others do not take."""


def check_rule_fields(kind: str, fields: dict[str, float | None]) -> None:
    """Raises ValueError where a kind of patching lacks a field, or has one that it does not read."""
    for name, kinds in RULE_FIELDS.items():
        if (kind in kinds) != (fields[name] is not None):
            raise ValueError(f"patching of kind '{kind}' {'needs' if kind in kinds else 'takes no'} `{name}`")


class RuleConfig(Config):
    """Where a new patch starts. Entropies are in nats here and in files; people read bits."""

    kind: PatchKind = "entropy"
    """entropy: above `threshold`; monotonic: `rise` above the one before; combined: both. The rest need none."""
    threshold: float | None = None
    rise: float | None = None
    stride: Positive | None = None
    """Bytes per patch of kind `fixed`."""
    max_length: Positive | None = None
    """Longest patch in bytes; longer ones are cut from the left."""

    @model_validator(mode="after")
    def _fields_fit_kind(self) -> "RuleConfig":
        check_rule_fields(self.kind, {name: getattr(self, name) for name in RULE_FIELDS})
        return self

    @property
    def needs_entropy(self) -> bool:
        return self.kind in ENTROPY_KINDS


class PatchingConfig(Config):
    """How a recipe patches: a rule whose threshold is calibrated on the corpus unless it is given."""

    kind: PatchKind = "entropy"
    target_bytes: float | None = None
    """Mean bytes per patch to calibrate to; gives `threshold` (or `rise` for kind `monotonic`)."""
    threshold: float | None = None
    """In nats."""
    rise: float | None = None
    """In nats."""
    stride: Positive | None = None
    max_length: Positive | None = None
    sample_bytes: Positive = 1_000_000
    """Bytes of the corpus that calibration looks at."""

    @property
    def calibrated(self) -> str | None:
        """Name of the field that calibration fills, or None where the rule is complete as it stands."""
        name = {"entropy": "threshold", "combined": "threshold", "monotonic": "rise"}.get(self.kind)
        return name if name and getattr(self, name) is None else None

    @model_validator(mode="after")
    def _target_fits(self) -> "PatchingConfig":
        if self.calibrated and self.target_bytes is None:
            raise ValueError(f"patching of kind '{self.kind}' needs `{self.calibrated}` or `target_bytes`")
        if not self.calibrated and self.target_bytes is not None:
            raise ValueError(f"patching of kind '{self.kind}' has nothing left to calibrate with `target_bytes`")
        found = {self.calibrated: 0.0} if self.calibrated else {}
        check_rule_fields(self.kind, {name: getattr(self, name) for name in RULE_FIELDS} | found)
        return self

    @property
    def needs_entropy(self) -> bool:
        return self.kind in ENTROPY_KINDS

    def rule(self, **found: float) -> RuleConfig:
        """The rule itself, with what calibration found."""
        names = ("kind", "threshold", "rise", "stride", "max_length")
        return RuleConfig(**({name: getattr(self, name) for name in names} | found))


# ---------------------------------------------------------------------------------------------------------- recipes


class DataConfig(Config):
    """Where documents come from. A source is a file, directory or glob, `-`, `hf:NAME`, or `package:NAME`."""

    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    """Held-out sources; where none are given, every `val_every`-th document of `train` is held out."""
    val_every: Annotated[int, Field(ge=2)] = 50
    weights: tuple[float, ...] = ()
    """Share of the bytes that each source of `train` has, one number a source; where none are given, its size."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training documents to keep, chosen by their ids."""
    field: str = "text"
    """Field of a JSONL or Parquet record that holds the text."""
    prompt_field: str | None = None
    """Field of a record whose bytes precede `field` and are read but not learnt (fine-tuning on completions)."""
    where: dict[str, tuple[str, ...]] = {}
    """Keep only records whose field of this name has one of these values."""
    skip_bad_records: bool = False
    """Whether a bad record is reported and skipped; otherwise it is reported and ends the run."""
    shard_bytes: Positive = 32_000_000
    """Text bytes of one Parquet shard, about."""

    @model_validator(mode="after")
    def _weights_match(self) -> "DataConfig":
        if self.weights and len(self.weights) != len(self.train):
            raise ValueError(f"{len(self.weights)} weights for {len(self.train)} sources in `train`")
        if any(w <= 0 for w in self.weights):
            raise ValueError("`weights` must be positive")
        return self


class TrainConfig(Config):
    """One training run, of whatever model."""

    steps: Positive
    rows: Positive = 8
    """Rows of a batch."""
    row_bytes: Annotated[int, Field(ge=16)] = 1024
    """Ids of a row."""
    row_patches: Positive | None = None
    """Most patches of a row; where not given, rows are filled by bytes alone."""
    accumulate: Positive = 1
    """Batches of one optimizer step."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """adamw: everything; muon: the matrices inside transformer blocks by Muon, the rest by AdamW. Muon multiplies
    in bf16, and is slow where the hardware does not."""
    lr: Annotated[float, Field(gt=0)] = 4e-4
    hash_lr: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate of hash tables and byte embeddings; `lr` where not given."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """cosine: falls from the end of warm-up; wsd: stays, then falls linearly over the last `decay` of the steps."""
    warmup: Annotated[int, Field(ge=0)] = 100
    decay: Annotated[float, Field(gt=0, le=1)] = 0.2
    final_lr: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Learning rate at the end, as a fraction of the peak."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the whole gradient."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: autocast; auto: autocast where the hardware multiplies bf16 fast."""
    compile: bool = False
    """Compile each transformer block."""
    checkpoint_activations: bool = False
    """Recompute each block in the backward pass instead of keeping its activations."""
    device: str = "auto"
    seed: int = 0
    eval_every: Positive = 500
    eval_bytes: Positive = 200_000
    """Held-out bytes scored at each evaluation during training; the report scores all."""
    save_every: Positive = 500
    keep: Positive = 2
    """Checkpoints to keep."""
    max_bad_steps: Positive = 5
    """Steps in a row with a non-finite loss or gradient that end the run."""
    init: str | None = None
    """Model directory, or name of a shipped model, whose weights training starts from."""
    tracker: str | None = None
    """Module with init, log and finish, such as trackio or wandb."""


class ReportConfig(Config):
    """What the report at the end of a run shows."""

    prompt: str = "The "
    max_bytes: Positive = 300
    temperature: float = 0.7
    seed: int = 0


class Recipe(Config):
    """A whole run: corpus, entropy model, calibrated threshold, shards, BLT, report."""

    data: DataConfig = DataConfig()
    entropy: EntropyConfig | None = None
    entropy_train: TrainConfig | None = None
    entropy_init: str | None = None
    """Model directory, or name of a shipped model, whose entropy model is used as it is instead of training one."""
    patching: PatchingConfig
    model: BLTConfig
    train: TrainConfig
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _entropy_is_known(self) -> "Recipe":
        if self.patching.needs_entropy and self.entropy is None and self.entropy_init is None:
            raise ValueError(f"patching of kind '{self.patching.kind}' needs [entropy] or `entropy_init`")
        if self.entropy_init and (self.entropy or self.entropy_train):
            raise ValueError("`entropy_init` takes the place of [entropy] and [entropy_train]: give one or the other")
        if self.entropy and self.entropy_train is None:
            raise ValueError("[entropy] needs [entropy_train]")
        return self


def recipe_path(name: str, folder: str = "recipes") -> Path:
    """The file of a recipe, given as a path or as the name of one that is shipped in the folder."""
    if name.endswith(".toml") or Path(name).is_file():
        path = Path(name)
        if not path.is_file():
            raise UserError(f"no recipe at {path}")
        return path
    shipped = Path(str(resources.files("bytequilt") / folder))
    path = shipped / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in shipped.glob("*.toml")))
        raise UserError(f"no recipe named '{name}'; shipped are {known}; a path ends with .toml")
    return path


def load_recipe(name: str) -> Recipe:
    """The recipe of that name or path. Raises UserError with one line that names the field at fault."""
    return read_toml(recipe_path(name), Recipe)


def read_toml(path: Path, kind: type[Chosen]) -> Chosen:
    """A configuration out of a TOML file. Raises UserError with one line that names the field at fault."""
    try:
        return kind.model_validate(tomllib.loads(path.read_text()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from None
    except ValidationError as error:
        raise UserError(f"{path}: {one_line(error)}") from None


def one_line(error: ValidationError) -> str:
    """A validation error as one line a field."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()
    )
