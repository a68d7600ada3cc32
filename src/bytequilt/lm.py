"""LM: a BLT with its patcher. It loads, saves, generates, scores and shows patches."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

import torch
from huggingface_hub import ModelHubMixin
from torch import Tensor

from .baselines.baseline import Baseline
from .codec import VOCAB_SIZE, as_bytes, as_pairs, as_texts, encode
from .config import MOST_GUESSES, TrainConfig, UserError, as_kind, as_path, as_whole
from .files import read_json
from .infer.batcher import Batcher, BLTDecoder
from .infer.generate import Completion, complete_all, stream
from .infer.sampling import SamplingOptions, sampling_of, shows_options
from .infer.score import BLTScorer, Score, score_documents, score_pairs
from .infer.session import Session
from .infer.speculate import speculate as speculated
from .infer.writer import Step
from .interop import FORMAT, Directory, ModelConfig, hub
from .interop.devices import choose_device, choose_dtype, choose_scoring, put_on
from .interop.directory import languages_of, write_model
from .model.blt import BLT
from .model.entropy import EntropyModel
from .model.flops import flops_per_byte
from .model.loss import target_nats
from .model.ngram import NgramEntropy
from .model.segments import Patches, check_ids
from .native import chosen, missing
from .patching.patcher import Patcher
from .view.cut import patched
from .view.patched import PatchedText
from .view.summary import summary

if TYPE_CHECKING:  # optional dependencies of training and the hub
    from huggingface_hub import ModelCard

    from .data.batches import Batch, Batches

ROWS = 16  # number of prompts in a list that are generated side by side


class LM(ModelHubMixin):
    """A Byte Latent Transformer with its patcher, ready for use. `push_to_hub` and `from_pretrained` come from
    huggingface_hub."""

    def __init__(
        self,
        model: BLT,
        patcher: Patcher,
        patch_bytes: float | None = None,
        run: Path | None = None,
        native: bool = False,
    ) -> None:
        as_kind("model", model, BLT), as_kind("patcher", patcher, Patcher)
        self.model, self.patcher, self._native = model.eval(), patcher, native
        self.patch_bytes = patch_bytes
        """Mean bytes per patch to which the threshold was calibrated; None if unknown."""
        self.run = run
        """The run directory from which the model was loaded, if any."""
        self.folder: Path | None = None
        """The model directory from which the model was loaded, if any."""
        if patcher.model is not None:
            patcher.model.eval()

    def __repr__(self) -> str:
        return summary(self.model, self.patcher.rule, languages_of(self.folder) if self.folder else ())

    @property
    def native(self) -> bool:
        """True if sessions and batchers use steps that are compiled, or on a GPU recorded as CUDA graphs."""
        weight = self.model.decoder.norm.weight
        return self._native and missing(weight.device, weight.dtype) is None

    def to(self, device: str | torch.device) -> Self:
        """Move the model and its patcher to a device (`auto` is allowed), and return this LM. Sessions opened earlier
        stay on their device. Raises UserError if the device does not exist."""
        target = choose_device(device)
        self.model.to(target)
        if self.patcher.model is not None:
            self.patcher.model.to(target)
        return self

    def batches(self, shards: Path, train: TrainConfig) -> "Batches":
        """Training batches from a folder of shards."""
        from .data.batches import Batches  # needs the extra `train`

        fingerprint = self.patcher.fingerprint if self.patcher.rule.needs_entropy else None
        return Batches(shards, train, self.patcher.rule, fingerprint=fingerprint)

    def units(self, batch: "Batch") -> tuple[int, int]:
        """Number of bytes and number of patches in a batch."""
        return batch.ids, batch.patches

    def flops(self, unit_bytes: float, context: float) -> dict[str, float]:
        """Forward FLOPs per byte by module, with `head` and `total`. `unit_bytes` is the mean patch size and `context`
        the length of a document, both in bytes."""
        config = self.model.config
        scorer = self.patcher.model if self.patcher.rule.needs_entropy else None
        entropy = scorer.config if isinstance(scorer, EntropyModel) else None  # an n-gram table has no matrix products
        return flops_per_byte(config, entropy, unit_bytes, context) | {"head": 2.0 * config.decoder.dim * VOCAB_SIZE}

    def encode(self, text: bytes) -> Tensor:
        """Ids (N,) of a text, starting with BOS."""
        return torch.from_numpy(encode(text))

    @torch.no_grad()
    def logits(self, ids_BN: Tensor) -> Tensor:
        """Logits (B, N, 260) of ids (B, N) in one forward pass; the patcher decides the patch boundaries."""
        check_ids(ids_BN, 2)
        ids_BN = ids_BN.to(next(self.model.parameters()).device)
        return self.model(ids_BN, self.patcher(ids_BN))

    def session(self, reserve: int = 0) -> Session:
        """An empty session (cached decoder) for ids that start with BOS. Its newest `reserve` bytes can be removed
        again."""
        return Session(self.model, self.patcher, reserve, native=self.native)

    def batcher(self, rows: int = 16) -> Batcher:
        """A batcher, which generates up to `rows` texts side by side; texts can be added and removed at any time."""
        return Batcher(BLTDecoder(Session(self.model, self.patcher, rows=rows, native=self.native)))

    @overload
    def generate(
        self, prompt: str | bytes, *, speculate: int = 0, **sampling: Unpack[SamplingOptions]
    ) -> Completion: ...
    @overload
    def generate(
        self, prompt: Sequence[str] | Sequence[bytes], **sampling: Unpack[SamplingOptions]
    ) -> list[Completion]: ...
    @shows_options
    def generate(self, prompt, *, speculate=0, **sampling):
        """Continue a prompt, or a list of prompts side by side. The options are the fields of `Sampling`. The same seed
        gives the same bytes, also inside a longer list. `speculate` is explained at `stream`."""
        if not isinstance(prompt, list | tuple):
            return Completion.of(self.stream(prompt, speculate=speculate, **sampling))
        if speculate:
            raise UserError("`speculate` is for one prompt at a time")
        requests = [(as_bytes(text), sampling_of(sampling)) for text in prompt]
        return complete_all(self.batcher(min(ROWS, len(requests))), requests) if requests else []

    @shows_options
    def stream(self, prompt: str | bytes, *, speculate: int = 0, **sampling: Unpack[SamplingOptions]) -> Iterator[Step]:
        """Like `generate`, but yields a `Step` per byte. A character is yielded when all its bytes are complete.

        With `speculate` > 0, the decoder guesses up to that many bytes ahead, and the whole model verifies the guesses
        in one pass. Greedy text does not change. Sampled text keeps its distribution, but the same seed gives different
        bytes.
        """
        speculate = as_whole("speculate", speculate, 0, MOST_GUESSES)
        data, chosen = as_bytes(prompt), sampling_of(sampling)
        if speculate:
            return speculated(self.session(reserve=speculate + 1), data, chosen, speculate)
        return stream(self.batcher(1), data, chosen)

    def patch(self, text: str | bytes) -> PatchedText:
        """The patches of a text; each has the entropy in bits of its first byte."""
        return patched(self.patcher, as_bytes(text))

    @overload
    def score(self, context: str | bytes, continuation: str | bytes) -> Score: ...
    @overload
    def score(self, context: Sequence[tuple[str | bytes, str | bytes]]) -> list[Score]: ...
    def score(self, context, continuation=None):
        """The score of a continuation given its context, without EOS; or a list of scores for (context, continuation)
        pairs. A context that several pairs share is processed once."""
        if continuation is None:
            return score_pairs(self.model, self.patcher, as_pairs(context))
        return self.score([(context, continuation)])[0]

    def score_documents(
        self, documents: Iterable[bytes], advance: Callable[[int], None] = lambda _: None, context: int | None = None
    ) -> list[Score]:
        """Scores of documents, EOS included, with the number of patches. Each document is scored in its full context,
        or in at most `context` ids. `advance` is called with the number of ids just scored."""
        return score_documents(BLTScorer(self.model, self.patcher), as_texts(documents), advance, context)

    @property
    def network(self) -> BLT:
        """The module that training optimises."""
        return self.model

    def loss(self, batch: "Batch") -> Tensor:
        """Sum of nats over the targets of a batch; the batch also contains the patch boundaries."""
        patches = Patches.from_closes(batch.ids_BN, batch.closes_BN, batch.count, batch.single, batch.fixed)
        return target_nats(self.model(batch.ids_BN, patches), batch.ids_BN, batch.learn_BN)

    def bytes_of(self, batch: "Batch") -> int:
        """Number of bytes that the targets of a batch represent; an EOS counts as one."""
        return batch.targets

    def bits_per_byte(self, data: str | bytes) -> float:
        """Bits per byte of one document, EOS included, in its full context."""
        return self.score_documents([as_bytes(data)])[0].bits_per_byte

    def restore(self, path: str | Path) -> Session:
        """Load a session that `session.save(path)` wrote. It must be a session of this model."""
        return Session.restore(self.model, self.patcher, path, self.native)

    def save(self, folder: str | Path, dtype: str | torch.dtype | None = None) -> None:
        """Write a model directory. `dtype` is the stored type of the BLT's weights; with int8, norms stay in their own
        type."""
        stored = None if dtype is None else choose_dtype(dtype)
        write_model(as_path(folder), self.stored_config, self.model, self.patcher.model, stored)

    @property
    def stored_config(self) -> ModelConfig:
        """The content of config.json in a model directory, without the entry for int8 weights."""
        scorer = self.patcher.model
        return ModelConfig(
            format=FORMAT,
            blt=self.model.config,
            entropy=scorer.config if isinstance(scorer, EntropyModel) else None,
            ngram=scorer.config if isinstance(scorer, NgramEntropy) else None,
            patching=self.patcher.rule,
            patch_bytes=self.patch_bytes,
        )

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **options: Any) -> "LM":
        """Like `load`, with the options of huggingface_hub."""
        return super().from_pretrained(hub.local(name) or name, **options)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, patch_bytes: Any = None, **options: Any) -> "LM":
        """Called by the mixin, with `patch_bytes` because config.json has a field of that name. It is not used."""
        return load(model_id, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Called by the mixin: write the model's files and leave other files of the directory as they are."""
        with TemporaryDirectory(dir=save_directory) as scratch:
            self.save(Path(scratch) / "model")
            for file in (Path(scratch) / "model").iterdir():
                file.replace(save_directory / file.name)

    def generate_model_card(self, **fields: Any) -> "ModelCard":
        """The README.md of a model on the hub, from the report of its run; `fields` are added to its front matter."""
        from huggingface_hub import ModelCard  # slow import: it loads a template engine

        from .view.card import card

        path = self.run / "report.json" if self.run else None
        report = read_json(path) if path and path.exists() else {}
        return ModelCard(card(self.model.config, report, **fields))


def load(
    name: str | os.PathLike[str] = "tiny",
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    native: bool | None = None,
    entropy_dtype: str | torch.dtype | None = None,
    **hub_options: Any,
) -> LM:
    """Load a shipped model by name, a model or run directory, or a model of the Hugging Face hub.

    A directory may have our layout, Hugging Face's or Meta's. `device` is a name such as "cuda:1", or "auto". `dtype`
    applies to the BLT, as a name or a torch type; n-gram tables stored in a narrower float type keep it, and int8
    applies to matrices only. The entropy model runs in fp32, because it decides boundaries, unless `entropy_dtype` is
    int8. `native` chooses the compiled step, which needs the extra `fast` and which int8 requires; on a CUDA GPU it
    chooses the recorded step. None uses either where possible. `hub_options` are revision, token, cache_dir,
    force_download and local_files_only. Raises UserError if the model or device does not exist, or the model is damaged
    or of another kind.
    """
    target, kind = choose_device(device), choose_dtype(dtype)
    compiled, directory = chosen(native, target, kind), Directory.find(name, **hub_options)
    config, scoring = directory.config, choose_scoring(entropy_dtype, directory.config.entropy is not None)
    if config.blt is None or config.patching is None:
        content = f"a baseline ({config.baseline.kind})" if config.baseline else "an entropy model"
        raise UserError(f"{directory.folder} holds {content} alone, but a BLT is needed")
    model, scorer = put_on(directory.blt(kind), target, compiled), directory.scorer(scoring)
    patcher = Patcher(config.patching, scorer and put_on(scorer, target, compiled))
    run = directory.folder.parent if directory.folder.name == "model" else None
    lm = LM(model, patcher, config.patch_bytes, run, native is not False)
    lm.folder = directory.folder
    return lm


def load_any(
    name: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    **hub_options: Any,
) -> LM | Baseline:
    """Like `load`, but the directory may also hold a baseline; both have `score`, `score_documents` and `generate`.
    Raises UserError as `load` does, and for a baseline in a type other than float32."""
    directory = Directory.find(name, **hub_options)
    if directory.config.baseline is None:
        return load(name, device, dtype, **hub_options)
    if choose_dtype(dtype) is not torch.float32:
        raise UserError(f"baselines run in float32 only, not in {dtype}")
    return Baseline.load(directory.folder, directory.config.baseline, str(choose_device(device)))
