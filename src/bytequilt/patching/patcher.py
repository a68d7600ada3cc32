"""The patcher: an entropy model with a rule that decides patch boundaries, and calibration of the rule's threshold."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..codec import OFFSET, as_texts, encode
from ..config import RuleConfig, UserError, as_kind, as_real
from ..model.cache import StackCache
from ..model.entropy import EntropyModel
from ..model.ngram import NgramCache, NgramEntropy
from ..model.rows import Rows
from ..model.segments import Patches, check_ids
from . import rules
from .calibration import Calibration, calibrated, mean_bytes

LONGEST_MEAN = 2**32  # largest mean bytes per patch that a caller may ask for; a larger number is a mistake
CHUNK = 4096  # ids per forward pass when many documents are read as one stream; more do not fit into a CPU's caches
LARGE_CHUNK = 8192  # the same on a GPU, which smaller passes leave idle


def exact(device: torch.device) -> AbstractContextManager[None]:
    """A context for matrix products in full fp32: no autocast, no TF32, no bf16 inside. Lower precision would move
    boundaries."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    full = all(backend.fp32_precision in ("none", "ieee") for backend in backends)
    return nullcontext() if full and not torch.is_autocast_enabled(device.type) else _made_exact(device, backends)


@contextmanager
def _made_exact(device: torch.device, backends: Sequence[Any]) -> Iterator[None]:
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


class Patcher:
    """Divides ids into patches. A boundary depends only on the bytes before it and is decided in fp32."""

    def __init__(self, rule: RuleConfig, model: EntropyModel | NgramEntropy | None = None) -> None:
        as_kind("rule", rule, RuleConfig)
        if model is not None and not isinstance(model, EntropyModel | NgramEntropy):
            raise UserError(f"model must be an entropy model, not {type(model).__name__}")
        if rule.needs_entropy and model is None:
            raise UserError(f"patching of kind '{rule.kind}' needs an entropy model")
        self.rule, self.model = rule, model

    @torch.no_grad()
    def __call__(self, ids_BN: Tensor) -> Patches:
        """Patches of ids (B, N) int64 that start with BOS and are padded with 0 on the right. Rows are independent."""
        check_ids(ids_BN, 2)
        return rules.patches(self.rule, ids_BN, self.entropy(ids_BN) if self.rule.needs_entropy else None)

    @torch.no_grad()
    def entropy(self, ids_BN: Tensor) -> Tensor:
        """Entropy in nats of the next byte after each id: (B, N) fp32."""
        assert self.model is not None
        with exact(ids_BN.device):
            return self.model.nats(ids_BN)

    @property
    def device(self) -> torch.device:
        """The device of the entropy model; the CPU without one."""
        weights = chain(self.model.parameters(), self.model.buffers()) if self.model is not None else iter(())
        return next((weight.device for weight in weights), torch.device("cpu"))

    def cache(self, rows: int = 1, reserve: int = 0) -> StackCache | NgramCache | None:
        """An empty cache of the entropy model for `rows` texts; None if the rule needs no entropy."""
        return self.model.cache(rows, reserve) if self.model is not None and self.rule.needs_entropy else None

    @torch.no_grad()
    def nats_feed(
        self, ids_N: Tensor, cache: StackCache | NgramCache | None, rows: Rows | None = None, single: bool = False
    ) -> Tensor | None:
        """Entropies in nats (N,) fp32 after each of the next ids (N,) of one row; None if the rule needs none. `single`
        promises that the only BOS of the row is its first id."""
        if cache is None or self.model is None:
            return None
        with exact(ids_N.device):
            return self.model.nats(ids_N[None], cache, rows, single)[0]

    @torch.no_grad()
    def nats_step(
        self, ids_R: Tensor, cache: StackCache | NgramCache | None, rows: Rows | None = None, text: bool = False
    ) -> Tensor | None:
        """Entropies in nats (R,) after the next id (R,) of each row; None if the rule needs none. `text` promises that
        no id is a BOS."""
        if cache is None or self.model is None:
            return None
        with exact(ids_R.device):
            return self.model.nats_step(ids_R, cache, rows, text)

    @torch.no_grad()
    def entropies(self, documents: list[bytes], advance: Callable[[int], object] = lambda _: None) -> list[np.ndarray]:
        """For each document, the entropies in nats (fp32) after each id of BOS + bytes + EOS.

        All documents pass through the model as one stream, in chunks without padding. The KV cache carries the context
        across chunks, so chunking does not change the result. `advance` is called with the number of text bytes just
        processed.
        """
        assert self.model is not None
        ids = [encode(document, eos=True) for document in documents]
        if not ids:
            return []
        stream, cache = torch.from_numpy(np.concatenate(ids)), self.model.cache()
        # allocated once: small results between large temporary tensors would fragment memory
        nats = torch.empty(len(stream))
        size = LARGE_CHUNK if self.device.type == "cuda" else CHUNK
        with exact(self.device):
            for part, out in zip(stream.split(size), nats.split(size), strict=True):
                out.copy_(self.model.nats(part[None].to(self.device), cache)[0])
                advance(int((part >= OFFSET).sum()))
        return np.split(nats.numpy(), np.cumsum([len(i) for i in ids])[:-1])

    def calibrate(self, documents: Iterable[bytes], target_bytes_per_patch: float) -> Calibration:
        """Set the rule's threshold so that patches of these documents have `target_bytes_per_patch` bytes on average.

        The threshold is found by bisection over the entropies of the documents (for kind `monotonic` their rises, for
        kind `budget` their sums). The patch of the BOS is not counted. Raises UserError if no threshold comes within 5
        % of the target.
        """
        if not self.rule.needs_entropy:
            raise UserError(f"patching of kind '{self.rule.kind}' has no threshold to calibrate")
        texts = [text for text in as_texts(documents) if text]
        target_bytes_per_patch = as_real("target_bytes_per_patch", target_bytes_per_patch, 0, LONGEST_MEAN)
        if not texts:
            raise UserError("calibration needs text, but the sample has none")
        self.rule, reached = calibrated(self.rule, *self._row(texts), target_bytes_per_patch)
        return reached

    def mean_bytes(self, texts: list[bytes]) -> float:
        """Mean bytes per patch of these documents under a rule that needs entropies."""
        return mean_bytes(self.rule, *self._row(texts))

    def _row(self, texts: list[bytes]) -> tuple[Tensor, Tensor]:
        """Ids and entropies of documents as one row: (1, N) and (1, N)."""
        ids_N = np.concatenate([encode(text, eos=True) for text in texts])
        return torch.from_numpy(ids_N)[None], torch.from_numpy(np.concatenate(self.entropies(texts)))[None]

    @property
    def fingerprint(self) -> str:
        """A hash of the entropy model's configuration and weights: equal fingerprints mean equal entropies."""
        digest = hashlib.sha256()
        if self.model is not None:
            digest.update(self.model.config.model_dump_json().encode())
            for name, weight in sorted(self.model.state_dict().items()):
                digest.update(name.encode())
                digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]
