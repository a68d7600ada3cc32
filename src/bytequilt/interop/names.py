"""Names of tensors in bytequilt, in Hugging Face's Transformers and in Meta's code: a table, used in all directions.

In a pattern, `#` is the number of a layer. `{a,b}` means several tensors that form one tensor when their rows are
concatenated. `{*}` means one tensor per n-gram table. Meta's entropy model has its own file, in the folder before the
slash. All names end in `.weight`.
"""

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from itertools import product
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..config import Config, UserError
from ..model.blt import BLT
from ..model.entropy import EntropyModel
from ..model.ngram import NgramEntropy
from .native import ModelConfig
from .stored import Stored, join

OURS, HUGGING_FACE, META = range(3)

SINGLE = [
    ("blt.encoder.embed", "model.local_encoder.embed_tokens", "local_encoder.tok_embeddings"),
    ("blt.encoder.hash", "model.encoder_hash_tok_embedding", "encoder_hash_tok_embedding.{*}"),
    (
        "blt.encoder.project",
        "model.local_encoder.patch_embedding_projection",
        "local_encoder.patch_embedding_projection",
    ),
    (
        "blt.latent.project",
        "model.global_transformer.token_embedding_projection",
        "global_transformer.token_embedding_projection",
    ),
    (
        "blt.decoder.project",
        "model.local_decoder.patch_embedding_projection",
        "local_decoder.patch_embedding_projection",
    ),
    ("blt.decoder.norm", "model.local_decoder.norm", "local_decoder.norm"),
    ("blt.decoder.head", "lm_head", "local_decoder.output"),
    ("entropy.embed", "model.patcher.embed_tokens", "entropy_model/tok_embeddings"),
    ("entropy.norm", "model.patcher.norm", "entropy_model/norm"),
    ("entropy.head", "model.patcher.lm_head", "entropy_model/output"),
]
STACKS = [
    ("blt.encoder.stack.blocks.#", "model.local_encoder.layers.#", "local_encoder.layers.#"),
    ("blt.latent.stack.blocks.#", "model.global_transformer.layers.#", "global_transformer.layers.#"),
    ("blt.decoder.stack.blocks.#", "model.local_decoder.layers.#", "local_decoder.layers.#"),
    ("entropy.stack.blocks.#", "model.patcher.layers.#", "entropy_model/layers.#"),
]
BLOCK = [
    ("attention_norm", "input_layernorm", "attention_norm"),
    ("attention.qkv", "self_attn.{q,k,v}_proj", "attention.w{q,k,v}"),
    ("attention.out", "self_attn.o_proj", "attention.wo"),
    ("feed_forward_norm", "post_attention_layernorm", "ffn_norm"),
    ("feed_forward.gate_up", "mlp.{gate,up}_proj", "feed_forward.w{1,3}"),
    ("feed_forward.down", "mlp.down_proj", "feed_forward.w2"),
]
CROSSES = [
    ("blt.encoder.cross.#", "model.local_encoder.cross_attn_layers.#", "local_encoder.cross_attn_layers.#"),
    ("blt.decoder.cross.#", "model.local_decoder.cross_attn_layers.#", "local_decoder.cross_attn_layers.#"),
]
CROSS = [
    ("query_norm", "q_norm", "cross_attn_norm_q"),
    ("key_norm", "k_norm", "cross_attn_norm_kv"),
    ("query", "q_proj", "wq"),
    ("key_value", "{k,v}_proj", "w{k,v}"),
    ("out", "o_proj", "wo"),
]
ROWS = SINGLE + [
    tuple(f"{a}.{b}" for a, b in zip(outer, inner, strict=True))
    for outers, inners in ((STACKS, BLOCK), (CROSSES, CROSS))
    for outer, inner in product(outers, inners)
]
NAMED = {row[OURS]: row for row in ROWS}


def translate(tensors: Mapping[str, Stored], config: ModelConfig, have: int, want: int) -> dict[str, Stored]:
    """Rename the tensors of a model from layout `have` to layout `want`, and split or concatenate them as needed.
    Raises UserError if a tensor is missing, unknown, or of another shape than the configuration says."""
    _check_layers(config, len(tensors))
    tables, source = config.blt.hash.tables if config.blt else 0, dict(tensors)
    translated: dict[str, Stored] = {}
    wanted = [(name, shape, spelled(name, have, tables), spelled(name, want, tables)) for name, shape in shapes(config)]
    _complete(set(source), {name for *_, names, _ in wanted for name in names})
    for ours, shape, from_names, to_names in wanted:
        parts = [source[name] for name in from_names]
        for name, part, rows in zip(from_names, parts, _rows(ours, shape, len(from_names)), strict=True):
            if part.shape != (rows, *shape[1:]):
                raise UserError(f"{name} has shape {list(part.shape)}, and the configuration says {[rows, *shape[1:]]}")
        joined = join(from_names[0], parts)
        translated |= zip(to_names, joined.split(_rows(ours, shape, len(to_names))), strict=True)
    return translated


def shapes(config: ModelConfig) -> list[tuple[str, tuple[int, ...]]]:
    """Our names and shapes of all tensors of a model, from networks without values."""
    kinds: dict[str, tuple[Callable[[Any], nn.Module], Config | None]] = {
        "blt": (BLT, config.blt),
        "entropy": (EntropyModel, config.entropy),
    }
    if config.ngram is not None:
        kinds["entropy"] = (NgramEntropy, config.ngram)
    built = {prefix: unfilled(kind, part) for prefix, (kind, part) in kinds.items() if part is not None}
    return [(f"{p}.{name}", tuple(w.shape)) for p, network in built.items() for name, w in network.state_dict().items()]


def unfilled(kind: Callable[[Any], nn.Module], config: Any) -> Any:
    """A network on the meta device: it has shapes but no values, so it is built quickly at any size."""
    with torch.device("meta"), _WithoutInit():
        return kind(config)


class _WithoutInit(TorchFunctionMode):
    """Skips the functions of `torch.nn.init`: on the meta device they have no effect, but load torch's compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return func(*args, **(kwargs or {}))


def _check_layers(config: ModelConfig, tensors: int) -> None:
    """Raise UserError if a configuration has more layers than there are tensors, before any layer is built."""
    stacks = [config.blt.encoder, config.blt.latent, config.blt.decoder] if config.blt else []
    layers = sum(stack.layers for stack in [*stacks, *([config.entropy] if config.entropy else [])])
    if layers > tensors:
        raise UserError(f"the configuration says {layers} layers, and there are only {tensors} tensors in its files")


def spelled(ours: str, layout: int, tables: int) -> tuple[str, ...]:
    """The names of one of our tensors in a layout; several names if the layout divides it into parts."""
    if layout == OURS:
        return (ours,)
    layers = re.findall(r"\.(\d+)\.", ours)
    pattern = NAMED[re.sub(r"\.\d+\.", ".#.", ours).removesuffix(".weight")][layout].replace("#", "".join(layers))
    before, _, braced = pattern.partition("{")
    options, _, after = braced.partition("}")
    choices = [str(table) for table in range(tables)] if options == "*" else options.split(",")
    return tuple(f"{before}{choice}{after}.weight" for choice in choices)


def _rows(ours: str, shape: tuple[int, ...], parts: int) -> list[int]:
    """Number of rows of each part of a tensor: equal, but queries may have more heads than keys and values."""
    if ours.endswith(".qkv.weight") and parts > 1:
        keys = (shape[0] - shape[1]) // 2
        return [shape[1], keys, keys]
    return [shape[0] // parts] * parts


def _complete(names: set[str], wanted: set[str]) -> None:
    """Raise UserError unless both sets of names are equal: it tells a name and the most similar other one."""
    extra, missing = sorted(names - wanted), sorted(wanted - names)
    if not extra and not missing:
        return
    name, others, known = (missing[0], missing, extra or names) if missing else (extra[0], extra, wanted)
    closest = get_close_matches(name, sorted(known), 1, 0)
    hint = f"; the closest {'there' if missing else 'known'} is {closest[0]}" if closest else ""
    raise UserError(f"{'missing' if missing else 'unexpected'} tensor {name}{hint} ({len(others)} in all)")
