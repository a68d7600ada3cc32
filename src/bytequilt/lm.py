"""LM: a BLT and its patcher as one thing that loads, saves, generates, scores and patches."""

import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, overload

import torch
from huggingface_hub import ModelCard, ModelHubMixin
from safetensors.torch import save_file
from torch import Tensor, nn

from .baselines.baseline import Baseline
from .codec import as_bytes, encode
from .config import Config, UserError
from .infer.batcher import Batcher
from .infer.generate import Completion, complete_all, stream
from .infer.sampling import Sampling
from .infer.saved import restore
from .infer.score import Feed, Score, score_documents, score_pairs
from .infer.session import Session
from .infer.writer import Step
from .interop import Directory, hub
from .interop.native import FORMAT, ModelConfig, beside, read_json
from .interop.stored import Stored
from .model.blt import BLT
from .model.entropy import EntropyModel
from .model.flops import flops_per_byte
from .model.layers import lay_out
from .model.loss import target_nats
from .model.ngram import NgramEntropy
from .model.segments import Patches
from .patching import rules
from .patching.patcher import Patcher
from .view.card import card
from .view.patched import Patch, PatchedText

if TYPE_CHECKING:  # what training needs is optional
    from .data.batches import Batch

DTYPES = ("float32", "bfloat16", "float16")


class LM(ModelHubMixin):
    """A Byte Latent Transformer ready for use; `push_to_hub` and `from_pretrained` are huggingface_hub's."""

    def __init__(
        self,
        model: BLT,
        patcher: Patcher,
        patch_bytes: float | None = None,
        run: Path | None = None,
    ) -> None:
        self.model, self.patcher = model.eval(), patcher
        self.patch_bytes = patch_bytes
        """Mean bytes per patch that the threshold was calibrated to, where that is known."""
        self.run = run
        """The run directory that it comes from, where it comes from one."""
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
        natural = set(rules.patches(rules.natural(rule), ids, nats).starts[0])
        bits = (nats[0, : len(data)] / math.log(2)).tolist()
        patches = tuple(
            Patch(a, b - a, data[a:b], bits[a] if a and a + 1 in natural else None)
            for a, b in pairwise([*starts, len(data)])
        )
        return PatchedText(data, patches, rule.threshold_bits, tuple(bits))

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

    @property
    def network(self) -> BLT:
        """What training trains."""
        return self.model

    def loss(self, batch: "Batch") -> Tensor:
        """Sum of nats over the targets of a batch, on the patches that the batch comes with."""
        patches = Patches.from_closes(batch.ids_BN, batch.closes_BN, batch.count, batch.single, batch.fixed)
        return target_nats(self.model(batch.ids_BN, patches), batch.ids_BN, batch.learn_BN)

    def bytes_of(self, batch: "Batch") -> int:
        """Bytes that the targets of a batch stand for, an EOS for one."""
        return batch.targets

    def flops(self, unit_bytes: float, context: float) -> dict[str, float]:
        """Forward FLOPs per byte by part, and their `total`, at a mean patch and in a context of so many bytes."""
        scorer = self.patcher.model
        return flops_per_byte(self.model.config, scorer.config if scorer else None, unit_bytes, context)

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

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **options: Any) -> "LM":
        """Like `load`, with options of the hub."""
        return super().from_pretrained(hub.local(name) or name, **options)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, patch_bytes: Any = None, **options: Any) -> "LM":
        """What the mixin calls, with the field of config.json that is named like ours."""
        return load(model_id, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        """What the mixin calls: the files of a model, beside whatever else the directory holds."""
        with TemporaryDirectory(dir=save_directory) as scratch:
            self.save(Path(scratch) / "model")
            for file in (Path(scratch) / "model").iterdir():
                file.replace(save_directory / file.name)

    def generate_model_card(self, **fields: Any) -> ModelCard:
        """README.md of a model on the hub, from the report of its run; `fields` go to its front matter."""
        report = read_json(self.run / "report.json") if self.run else {}
        return ModelCard(card(self.model.config, report, **fields))


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
    with beside(folder, replace=True) as partial:
        save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
        (partial / "config.json").write_text(config.model_dump_json(indent=2) + "\n")
        shutil.copymode(partial / "config.json", partial / "model.safetensors")  # safetensors lets nobody else read it


def load(name: str | os.PathLike[str] = "tiny", device: str = "cpu", dtype: str = "float32", **options: Any) -> LM:
    """Load a shipped model by name, a model or run directory, or a model of the Hugging Face hub.

    A directory may be ours, Hugging Face's or Meta's. `dtype` is that of the BLT, but that n-gram tables stay as they
    are stored where that is narrower; the entropy model always runs in fp32, since it decides boundaries. `options`
    are for the hub: revision, token, cache_dir, force_download, local_files_only.
    Raises UserError where there is no such model, or it is damaged or of another kind.
    """
    directory = Directory.find(name, **options)
    config = directory.config
    if config.blt is None or config.patching is None:
        held = f"a baseline ({config.baseline.kind})" if config.baseline else "an entropy model"
        raise UserError(f"{directory.folder} holds {held} alone; a BLT is needed here")
    if dtype not in DTYPES:
        raise UserError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype}")
    tensors = directory.tensors()
    model, entropy = read_network(tensors, "blt", BLT, config.blt, getattr(torch, dtype)), _scorer(config, tensors)
    for network in (model, entropy):
        if network is not None:
            lay_out(network.to(device))
    run = directory.folder.parent if directory.folder.name == "model" else None
    return LM(model, Patcher(config.patching, entropy), config.patch_bytes, run)


def load_any(name: str | os.PathLike[str], device: str = "cpu", **options: Any) -> LM | Baseline:
    """Like `load`, but the directory may hold a baseline as well: both know `score`, `score_documents` and `generate`.

    `options` are `dtype`, for a BLT, and those of the hub.
    """
    directory = Directory.find(name, **{key: value for key, value in options.items() if key != "dtype"})
    if directory.config.baseline is None:
        return load(name, device, **options)
    if (dtype := options.get("dtype", "float32")) != "float32":
        raise UserError(f"baselines run in float32, not {dtype}")
    return Baseline.load(directory.folder, directory.config.baseline, device)


def load_entropy(name: str | os.PathLike[str], device: str = "cpu") -> EntropyModel | NgramEntropy | None:
    """What scores bytes in a model directory, in fp32; None where its patching needs nothing of the kind."""
    directory = Directory.find(name)
    scorer = _scorer(directory.config, directory.tensors())
    return scorer.to(device).eval() if scorer is not None else None


def _scorer(config: ModelConfig, tensors: dict[str, Stored]) -> EntropyModel | NgramEntropy | None:
    if config.ngram is not None:
        return read_network(tensors, "entropy", NgramEntropy, config.ngram)
    return read_network(tensors, "entropy", EntropyModel, config.entropy) if config.entropy else None


def read_network(
    tensors: dict[str, Stored],
    prefix: str,
    kind: Callable[[Any], nn.Module],
    config: Config,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """One network of a model directory, built without initialising weights that are about to be replaced."""
    with torch.device("meta"):
        network = kind(config)
    weights = {}
    for name in network.state_dict():
        weight = tensors[f"{prefix}.{name}"].tensor()
        narrow = name == "encoder.hash.weight" and weight.itemsize < dtype.itemsize
        weights[name] = weight if narrow else weight.to(dtype)
    network.load_state_dict(weights, assign=True)
    return network
