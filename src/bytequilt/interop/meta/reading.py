"""Read Meta's parameters: network shapes and patching rule."""

import math
from pathlib import Path
from typing import Any

from ...codec import EOS, VOCAB_SIZE
from ...config import BLTConfig, EntropyConfig, HashConfig, RuleConfig, StackConfig, UserError
from ..native import FORMAT, ModelConfig, ascending, read_object
from ..stored import Stored, read_shards, read_weights

ENTROPY = "entropy_model"
THRESHOLD = 1.335442066192627  # nats
PATCHING = {
    "patching_mode": "patching_mode",
    "patch_size": "patch_size",
    "threshold": "patching_threshold",
    "threshold_add": "patching_threshold_add",
    "monotonicity": "monotonicity",
    "max_patch_length": "max_patch_length",
}
"""Patching arguments in the entropy model's file: their names there, and in the BLT's arguments, which they
override."""
WINDOW = 512  # default window of Meta's entropy model
FIXED: dict[str, tuple[Any, ...]] = {
    "vocab_size": (VOCAB_SIZE,),
    "eos_id": (EOS,),
    "cross_attn_encoder": (True,),
    "cross_attn_decoder": (True,),
    "cross_attn_init_by_pooling": (True,),
    "cross_attn_window_encoder": (None, 1),
    "cross_attn_window_decoder": (None, 1),
    "downsampling_by_pooling": ("max",),
    "encoder_enable_byte_ngrams": (False,),
    "non_linearity": ("swiglu",),
    "norm_type": ("rmsnorm",),
    "pre_norm": (True,),
    "pm_size": (0,),
    "tokenize_with_bpe_delimiter": (False,),
    "use_rope": (True,),
}
"""Arguments for which only these values are supported; a missing argument has the first value."""
READ = """
    dim_global n_layers_global n_heads_global n_kv_heads n_kv_heads_global dim_local_encoder n_layers_local_encoder
    n_heads_local_encoder dim_local_decoder n_layers_local_decoder n_heads_local_decoder dim_token cross_attn_k
    cross_attn_nheads cross_attn_all_layers_encoder cross_attn_all_layers_decoder encoder_hash_byte_group_size
    encoder_hash_byte_group_vocab encoder_hash_byte_group_nb_functions local_attention_window_len patch_size
    patching_mode patching_threshold patching_threshold_add monotonicity max_patch_length multiple_of
    ffn_dim_multiplier norm_eps rope_theta
""".split()  # noqa: SIM905
IGNORED = """
    alpha_depth architecture attn_bias_type attn_impl attn_to_keep conv_kernel_size cross_attn_use_flex_attention
    custom_bwd dim dim_patch_emb dim_token_emb dropout encoder_enable_byte_group_hash encoder_lm_loss
    encoder_ngram_table_dir encoder_ngram_to_size_str encoder_preds_low_entropy_toks encoder_preds_random_toks
    entropy_model_checkpoint_dir entropy_model_is_ngram_model full_logging_n_layers fuse_sequence_parallel
    global_local_decoder_residual_layer head_dim init_base_std init_std_factor init_use_depth init_use_gaussian
    layer_ckpt log_patch_lengths loss_parallel max_encoder_seq_length max_length max_seqlen n_heads n_layers
    ngram_vocab_sizes norm_affine output_size pad_to_max_length patch_in_forward patch_only_decoder
    patch_only_encoder patching_batch_size patching_device patching_thresholds_str realtime_patching recompute_attn
    recompute_fc1_out recompute_fc3_out rope_use_fp32_in_outer_product seed sequence_parallel
    share_encoder_decoder_emb sliding_window tie_local_encoder_decoder tie_local_encoder_decoder_logits use_fsdp
    use_local_encoder_transformer weight_tying
""".split()  # noqa: SIM905
"""Arguments that do not matter here: they concern training, or only the entropy model."""
KNOWN = {*READ, *FIXED, *IGNORED}


def recognise(folder: Path) -> bool:
    return "args" in read_object(folder / "config.json") or (folder / "params.json").is_file()


def read_config(folder: Path) -> tuple[ModelConfig, list[str]]:
    """The configuration, and notes on assumed values."""
    args = _arguments(folder)
    if args is None:
        return ModelConfig(format=FORMAT, entropy=_entropy(_parameters(folder)[0])), []
    _check_arguments(folder, args)
    entropy_folder = _entropy_folder(folder)
    params, patching = _parameters(entropy_folder) if entropy_folder else (None, {})
    fields = {name: patching[key] for key, name in PATCHING.items() if patching.get(key) is not None}
    rule, notes = _rule({name: value for name, value in args.items() if value is not None} | fields)
    if rule.needs_entropy and params is None:
        raise UserError(f"{folder} has no {ENTROPY}/params.json inside or beside it, and its patching needs that model")
    return ModelConfig(format=FORMAT, blt=_blt(args), entropy=params and _entropy(params), patching=rule), notes


def read_tensors(folder: Path) -> dict[str, Stored]:
    """The stored tensors under Meta's names; those of the entropy model have the prefix `entropy_model/`."""
    tensors, alone = {}, _arguments(folder) is None
    if not alone:
        tensors = read_shards(folder) if (folder / "config.json").is_file() else read_weights(_pth(folder))
    entropy_folder = folder if alone else _entropy_folder(folder)
    if entropy_folder is not None:
        tensors |= {f"{ENTROPY}/{name}": stored for name, stored in read_weights(_pth(entropy_folder)).items()}
    return tensors


def _arguments(folder: Path) -> dict[str, Any] | None:
    """The arguments of the BLT; None if the directory holds only an entropy model."""
    params = read_object(folder / "params.json")
    args = read_object(folder / "config.json").get("args") or params.get("model") or params
    if args.get("dim_global"):
        return args
    if params.get("entropy_model"):
        return None
    raise UserError(f"{folder}: no arguments of a BLT under `args` of config.json or `model` of params.json")


def _check_arguments(folder: Path, args: dict[str, Any]) -> None:
    """Raise UserError for an unknown argument, or for one with an unsupported value."""
    if unknown := sorted(set(args) - KNOWN):
        raise UserError(f"{folder}: {unknown[0]} is none of the arguments of a BLT ({len(unknown)} unknown)")
    for key, values in FIXED.items():
        if args.get(key, values[0]) not in values:
            raise UserError(f"{folder}: {key} must be {' or '.join(map(str, values))}, not {args[key]}")
    if args.get("dim_token") not in (None, args.get("dim_local_encoder", 512)):
        raise UserError(f"{folder}: dim_token must be the local width, not {args['dim_token']}")


def _entropy_folder(folder: Path) -> Path | None:
    """Folder of the entropy model, inside the BLT's directory or next to it; None if there is none."""
    for candidate in (folder / ENTROPY, folder.resolve().parent / ENTROPY):
        if read_object(candidate / "params.json").get("entropy_model"):
            return candidate
    return None


def _parameters(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of params.json: the hyperparameters of an entropy model, and the arguments of its patcher, empty if not there."""
    params = read_object(folder / "params.json")
    return params["entropy_model"], (params.get("data") or {}).get("patcher_args") or {}


def _pth(folder: Path) -> Path:
    path = folder / "consolidated.pth"
    if not path.is_file():
        raise UserError(f"{folder} has no consolidated.pth")
    return path


def _blt(args: dict[str, Any]) -> BLTConfig:
    def stack(part: str, **fields: Any) -> StackConfig:
        dim = args.get(f"dim_{part}", 512)
        return StackConfig(
            dim=dim,
            layers=args.get(f"n_layers_{part}", 8),
            heads=args.get(f"n_heads_{part}", 8),
            ffn_dim=hidden(dim, args),
            rope_theta=args.get("rope_theta", 10_000.0),
            norm_eps=args.get("norm_eps", 1e-5),
            **fields,
        )

    shared = {"window": args.get("local_attention_window_len"), "kv_heads": args.get("n_kv_heads")}
    sizes = args.get("encoder_hash_byte_group_size") or ()
    local = {side: stack(f"local_{side}", **shared) for side in ("encoder", "decoder")}
    config = BLTConfig(
        **local,
        latent=stack("global", kv_heads=args.get("n_kv_heads_global")),
        hash=HashConfig(
            sizes=ascending([int(n) for n in sizes.split(",") if n] if isinstance(sizes, str) else sizes),
            rows=args.get("encoder_hash_byte_group_vocab", 30_000),
            functions=args.get("encoder_hash_byte_group_nb_functions", 3),
        ),
        slots=args.get("cross_attn_k") or 1,
        cross_heads=args.get("cross_attn_nheads") or local["encoder"].heads,
        encoder_cross="all" if args.get("cross_attn_all_layers_encoder") else "last",
        decoder_cross="all" if args.get("cross_attn_all_layers_decoder") else "first",
    )
    check(config)
    return config


def _entropy(params: dict[str, Any]) -> EntropyConfig:
    if unknown := sorted(set(params) - KNOWN):
        raise UserError(f"{unknown[0]} is none of the parameters of an entropy model ({len(unknown)} unknown)")
    if params.get("vocab_size", VOCAB_SIZE) != VOCAB_SIZE:
        raise UserError(f"vocab_size of the entropy model must be {VOCAB_SIZE}, not {params['vocab_size']}")
    dim = params.get("dim", 512)
    return EntropyConfig(
        dim=dim,
        layers=params.get("n_layers", 8),
        heads=params.get("n_heads", 8),
        kv_heads=params.get("n_kv_heads"),
        ffn_dim=hidden(dim, params),
        window=params.get("sliding_window") or WINDOW,
        rope_theta=params.get("rope_theta", 10_000.0),
        norm_eps=params.get("norm_eps", 1e-5),
    )


def hidden(dim: int, args: dict[str, Any]) -> int:
    """Meta's formula for the hidden width of SwiGLU: 8/3 of the width, times a factor, rounded up to a multiple."""
    wide, multiple = int(8 * dim / 3), args.get("multiple_of") or 256
    return multiple * math.ceil(int((args.get("ffn_dim_multiplier") or 1) * wide) / multiple)


def _rule(args: dict[str, Any]) -> tuple[RuleConfig, list[str]]:
    """The rule of these arguments, without null values, and notes on assumed values."""
    mode, rise, longest = (
        args.get("patching_mode") or "entropy",
        args.get("patching_threshold_add"),
        args.get("max_patch_length"),
    )
    threshold, notes = args.get("patching_threshold"), []
    if mode == "entropy" and threshold is None:
        threshold, notes = THRESHOLD, [f"no threshold is given: it is {THRESHOLD:.3f} nats, as in Meta's own code"]
    match mode:
        case "entropy" if args.get("monotonicity"):
            return RuleConfig(kind="monotonic", rise=threshold, max_length=longest), notes
        case "entropy" if rise is not None:
            return RuleConfig(kind="combined", threshold=threshold, rise=rise, max_length=longest), notes
        case "entropy":
            return RuleConfig(kind="entropy", threshold=threshold, max_length=longest), notes
        case "static" if args.get("patch_size") and float(args["patch_size"]).is_integer():
            return RuleConfig(kind="fixed", stride=int(args["patch_size"]), max_length=longest), notes
        case "space" | "byte":
            return RuleConfig(kind=mode, max_length=longest), notes
    raise UserError(f"patching_mode must be entropy, space, static of a whole patch_size, or byte, not {mode}")


def check(blt: BLTConfig) -> None:
    """Raise UserError for a BLT that Meta's layout cannot represent."""
    if blt.latent.dim == blt.decoder.dim:
        raise UserError(
            "Meta's layout has no decoder projection between equal widths: "
            "the latent width must differ from the decoder's"
        )
