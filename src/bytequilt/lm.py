"""LM: a BLT and its patcher as one thing that loads, saves, generates, scores and patches."""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from .codec import as_bytes, encode
from .config import BLTConfig, Config, EntropyConfig, NgramConfig, RuleConfig, UserError, one_line
from .infer.batcher import Batcher
from .infer.generate import Completion, complete_all, stream
from .infer.sampling import Sampling
from .infer.saved import restore
from .infer.score import Feed, Score, score_documents, score_pairs
from .infer.session import Session
from .infer.writer import Step
from .model.blt import BLT
from .model.entropy import EntropyModel
from .model.layers import lay_out
from .model.ngram import NgramEntropy
from .patching import rules
from .patching.patcher import Patcher
from .view.patched import Patch, PatchedText

FORMAT = 1
DTYPES = ("float32", "bfloat16", "float16")


class ModelConfig(Config):
    """config.json of a model directory. Without `blt` it is an entropy model alone."""

    format: int
    blt: BLTConfig | None = None
    entropy: EntropyConfig | None = None
    ngram: NgramConfig | None = None
    """The look-up table that takes the place of an entropy model."""
    patching: RuleConfig | None = None
    patch_bytes: float | None = None
    """Mean bytes per patch that the threshold was calibrated to."""


class LM:
    """A Byte Latent Transformer ready for use."""

    def __init__(self, model: BLT, patcher: Patcher, patch_bytes: float | None = None) -> None:
        self.model, self.patcher = model.eval(), patcher
        self.patch_bytes = patch_bytes
        """Mean bytes per patch that the threshold was calibrated to, where that is known."""
        if patcher.model is not None:
            patcher.model.eval()

    def session(self, reserve: int = 0) -> Session:
        """A cached decoder, empty: feed it ids, BOS first. It can be cropped back by up to `reserve` bytes."""
        return Session(self.model, self.patcher, reserve)

    def batcher(self, rows: int = 16) -> Batcher:
        """Generates up to so many texts side by side, which come and go as they please."""
        return Batcher(self.session, rows)

    @overload
    def generate(self, prompt: str | bytes, *, speculate: int = 0, **sampling: Any) -> Completion: ...
    @overload
    def generate(self, prompt: list[str] | list[bytes], **sampling: Any) -> list[Completion]: ...
    def generate(self, prompt, *, speculate=0, **sampling):
        """Continue one prompt, or all of a list side by side; options are the fields of `Sampling`.

        The same seed gives the same bytes, in whatever company. `speculate` as in `stream`.
        """
        if not isinstance(prompt, list):
            return Completion.of(self.stream(prompt, speculate=speculate, **sampling))
        if speculate:
            raise UserError("`speculate` is for one prompt at a time")
        return complete_all(self.batcher(), [(as_bytes(one), _sampling(sampling)) for one in prompt])

    def stream(self, prompt: str | bytes, *, speculate: int = 0, **sampling: Any) -> Iterator[Step]:
        """Like `generate`, byte by byte; characters come whole.

        With `speculate` the decoder guesses up to so many bytes ahead. Greedy text is the same, and sampled text as
        likely, but a seed draws other bytes.
        """
        if not isinstance(speculate, int) or speculate < 0:
            raise UserError(f"speculate must be a whole number of at least 0, not {speculate!r}")
        return stream(
            self.session(reserve=speculate and speculate + 1), as_bytes(prompt), _sampling(sampling), speculate
        )

    def patch(self, text: str | bytes) -> PatchedText:
        """The patches of a text, with the entropies that opened them, in bits."""
        data, rule = as_bytes(text), self.patcher.rule
        ids = torch.from_numpy(encode(data))[None]
        nats = torch.from_numpy(self.patcher.entropies([data])[0][None, :-1]) if rule.needs_entropy else None
        starts = [s - 1 for s in rules.patches(rule, ids, nats).starts[0][1:]]
        if nats is None:
            return PatchedText.cut(data, starts)
        natural = set(rules.patches(rule.model_copy(update={"max_length": None}), ids, nats).starts[0])
        bits = (nats[0, : len(data)] / math.log(2)).tolist()
        patches = tuple(
            Patch(a, b - a, data[a:b], bits[a] if a and a + 1 in natural else None)
            for a, b in pairwise([*starts, len(data)])
        )
        return PatchedText(data, patches, None if rule.threshold is None else rule.threshold / math.log(2), tuple(bits))

    @overload
    def score(self, context: str | bytes, continuation: str | bytes) -> Score: ...
    @overload
    def score(self, context: Sequence[tuple[str | bytes, str | bytes]]) -> list[Score]: ...
    def score(self, context, continuation=None):
        """What a continuation costs after its context, or each of many pairs; their EOS is not counted.

        Contexts that several pairs share are read once.
        """
        if continuation is None:
            pairs = [(as_bytes(before), as_bytes(after)) for before, after in context]
            return score_pairs(self.model, self.patcher, pairs)
        return self.score([(context, continuation)])[0]

    def score_documents(
        self, documents: Iterable[bytes], advance: Callable[[int], None] = lambda _: None
    ) -> tuple[list[Score], float]:
        """Scores of documents, EOS included, each in its full context; and the mean bytes per patch of them all."""
        session, patches = self.session(), 0

        def fresh() -> Feed:
            nonlocal session, patches
            patches, session = patches + session.text_patches, self.session()
            return session.feed

        scores = score_documents(fresh, documents, advance)
        patches += session.text_patches
        return scores, sum(s.bytes for s in scores) / patches if patches else 0.0

    def bits_per_byte(self, data: str | bytes) -> float:
        """Bits per byte of one document, EOS included, in its full context."""
        return self.score_documents([as_bytes(data)])[0][0].bits_per_byte

    def restore(self, path: str | Path) -> Session:
        """A session of this model that was saved, as in `session.save(path)`."""
        return restore(self.model, self.patcher, path)

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a model directory; `dtype` is what the BLT's weights are stored in, the entropy model's stay fp32."""
        scorer = self.patcher.model
        config = ModelConfig(
            format=FORMAT,
            blt=self.model.config,
            entropy=scorer.config if isinstance(scorer, EntropyModel) else None,
            ngram=scorer.config if isinstance(scorer, NgramEntropy) else None,
            patching=self.patcher.rule,
            patch_bytes=self.patch_bytes,
        )
        write_model(Path(folder), config, self.model, self.patcher.model, dtype)


def _sampling(options: dict[str, Any]) -> Sampling:
    """Raises UserError for an option that there is not."""
    known = [field.name for field in fields(Sampling)]
    if unknown := sorted(set(options) - set(known)):
        raise UserError(f"no option {', '.join(unknown)}; there are speculate, {', '.join(known)}")
    return Sampling(**options)


def write_model(
    folder: Path,
    config: ModelConfig,
    blt: nn.Module | None,
    entropy: nn.Module | None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write config.json and model.safetensors beside `folder`, then give them its name."""
    tensors = {}
    for prefix, network in (("blt", blt), ("entropy", entropy)):
        for name, weight in (network.state_dict() if network is not None else {}).items():
            kept = weight.to(dtype) if dtype is not None and prefix == "blt" else weight
            tensors[f"{prefix}.{name}"] = kept.detach().cpu().contiguous()
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(tensors, partial / "model.safetensors", metadata={"format": "bytequilt"})
    (partial / "config.json").write_text(config.model_dump_json(indent=2, exclude_none=True) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def load(name: str | os.PathLike[str] = "tiny", device: str = "cpu", dtype: str = "float32") -> LM:
    """Load a shipped model by name, a model or run directory, or a model of the Hugging Face hub.

    `dtype` is that of the BLT; the entropy model always runs in fp32, since it decides boundaries.
    Raises UserError where there is no such model, or it is damaged or of another kind.
    """
    folder = model_folder(name)
    config = read_config(folder)
    if config.blt is None or config.patching is None:
        raise UserError(f"{folder} holds an entropy model alone; a BLT is needed here")
    if dtype not in DTYPES:
        raise UserError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype}")
    model, entropy = read_network(folder, "blt", BLT, config.blt, getattr(torch, dtype)), load_entropy(folder)
    for network in (model, entropy):
        if network is not None:
            lay_out(network.to(device))
    return LM(model, Patcher(config.patching, entropy), config.patch_bytes)


def load_entropy(name: str | os.PathLike[str], device: str = "cpu") -> EntropyModel | NgramEntropy | None:
    """What scores bytes in a model directory, in fp32; None where its patching needs nothing of the kind."""
    folder = model_folder(name)
    config = read_config(folder)
    if config.ngram is not None:
        return read_network(folder, "entropy", NgramEntropy, config.ngram).to(device).eval()
    return read_network(folder, "entropy", EntropyModel, config.entropy).to(device).eval() if config.entropy else None


def model_folder(name: str | os.PathLike[str]) -> Path:
    """The directory of a model: a path, a run directory's `model`, a shipped model, or a download from the hub."""
    path = Path(name)
    for candidate in (path, path / "model", Path(str(resources.files("bytequilt") / "models" / str(name)))):
        if (candidate / "config.json").is_file():
            return candidate
    if path.exists():
        raise UserError(f"{path} is not a model directory: it has no config.json")
    text = str(name)
    if text.count("/") != 1 or text.startswith((".", "/")):
        raise UserError(f"no model at {text}: give a shipped model (tiny), a directory, or a hub id such as owner/name")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(text, allow_patterns=["config.json", "*.safetensors"]))
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"no model at {text}, and the hub does not give one: {reason}") from None


def read_config(folder: Path) -> ModelConfig:
    """config.json of a model directory."""
    try:
        config = json.loads((folder / "config.json").read_text())
        if not isinstance(config, dict) or "format" not in config:
            raise UserError(f"{folder} is not a bytequilt model: its config.json has no `format`")
        if config["format"] != FORMAT:
            raise UserError(f"{folder} has format {config['format']}; this version reads format {FORMAT}")
        return ModelConfig.model_validate(config)
    except ValidationError as error:
        raise UserError(f"{folder / 'config.json'}: {one_line(error)}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'} cannot be read: {error}") from None


def read_network(
    folder: Path, prefix: str, kind: Callable[[Any], nn.Module], config: Config, dtype: torch.dtype = torch.float32
) -> Any:
    """One network of a model directory, built without initialising weights that are about to be replaced."""
    with torch.device("meta"):
        network = kind(config)
    path = folder / "model.safetensors"
    try:
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name.startswith(f"{prefix}.")]  # noqa: SIM118
            tensors = {name.removeprefix(f"{prefix}."): file.get_tensor(name).to(dtype) for name in names}
        network.load_state_dict(tensors, assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(
            f"{path} does not fit its config.json or is damaged: {' '.join(str(error).split())[:300]}"
        ) from None
    return network
