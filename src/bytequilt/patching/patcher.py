"""Patches of text: an entropy model, a rule, and the calibration of its threshold."""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from ..codec import encode
from ..config import RuleConfig, UserError
from ..model.cache import StackCache
from ..model.entropy import EntropyModel
from ..model.ngram import NgramCache, NgramEntropy
from ..model.rows import Rows
from ..model.segments import Patches
from . import rules

CHUNK = 8192  # ids of one forward pass over a stream of documents


@dataclass(frozen=True)
class Calibration:
    """What calibration found, and on how much text."""

    threshold: float
    """In nats: of the entropy, or of its rise for kind `monotonic`."""
    mean_patch_bytes: float
    sample_bytes: int

    @property
    def threshold_bits(self) -> float:
        return self.threshold / math.log(2)


class Patcher:
    """Cuts ids into patches: boundaries come from the past alone, decided in fp32."""

    def __init__(self, rule: RuleConfig, model: EntropyModel | NgramEntropy | None = None) -> None:
        if rule.needs_entropy and model is None:
            raise UserError(f"patching of kind '{rule.kind}' needs an entropy model")
        self.rule, self.model = rule, model

    @torch.no_grad()
    def __call__(self, ids_BN: Tensor) -> Patches:
        """Patches of ids (B, N) int64, BOS first, right padding 0. Rows do not see each other."""
        return rules.patches(self.rule, ids_BN, self.entropy(ids_BN) if self.rule.needs_entropy else None)

    @torch.no_grad()
    def entropy(self, ids_BN: Tensor) -> Tensor:
        """Entropy in nats of the byte after each id: (B, N) fp32."""
        assert self.model is not None
        with torch.autocast(ids_BN.device.type, enabled=False):
            return self.model.nats(ids_BN)

    def cache(self, rows: int = 1, reserve: int = 0) -> StackCache | NgramCache | None:
        """What streaming remembers of texts; None where the rule needs no entropy."""
        return self.model.cache(rows, reserve) if self.model is not None and self.rule.needs_entropy else None

    @torch.no_grad()
    def nats_feed(
        self, ids_N: Tensor, cache: StackCache | NgramCache | None, rows: Rows | None = None, single: bool = False
    ) -> Tensor | None:
        """Entropies in nats (N,) fp32 after each of the next ids (N,) of one row; None where the rule needs none.

        `single`: no id is a BOS but the row's first of all.
        """
        if cache is None or self.model is None:
            return None
        with torch.autocast(ids_N.device.type, enabled=False):
            return self.model.nats(ids_N[None], cache, rows, single)[0]

    @torch.no_grad()
    def nats_step(
        self, ids_R: Tensor, cache: StackCache | NgramCache | None, rows: Rows | None = None, text: bool = False
    ) -> Tensor | None:
        """The same (R,) after the next id (R,) of each of several rows; `text`: none of them is a BOS."""
        if cache is None or self.model is None:
            return None
        with torch.autocast(ids_R.device.type, enabled=False):
            return self.model.nats_step(ids_R, cache, rows, text)

    @torch.no_grad()
    def entropies(self, documents: list[bytes]) -> list[np.ndarray]:
        """Entropies in nats after each id of BOS + bytes + EOS of each document, fp32.

        The documents run through the model as one stream in chunks: there is no padding, and keys and values carried
        from chunk to chunk make the chunks' borders exact.
        """
        assert self.model is not None
        device = next(chain(self.model.parameters(), self.model.buffers())).device
        ids = [encode(document, eos=True) for document in documents]
        if not ids:
            return []
        stream, cache = torch.from_numpy(np.concatenate(ids)), self.model.cache()
        nats = torch.empty(len(stream))  # made once: results kept between the chunks' large tensors fragment memory
        with torch.autocast(device.type, enabled=False):
            for part, out in zip(stream.split(CHUNK), nats.split(CHUNK), strict=True):
                out.copy_(self.model.nats(part[None].to(device), cache)[0])
        return np.split(nats.numpy(), np.cumsum([len(i) for i in ids])[:-1])

    def calibrate(self, documents: Iterable[bytes], target_bytes_per_patch: float) -> Calibration:
        """Set the rule's threshold so that patches of these documents have that many bytes in the mean.

        The threshold is the quantile of the documents' own entropies (of their rises for kind `monotonic`) that gives
        the wanted number of patches; the patch of the BOS counts for neither side.
        Raises UserError where no threshold comes within 5 % of the target.
        """
        field = "rise" if self.rule.kind == "monotonic" else "threshold"
        if not self.rule.needs_entropy:
            raise UserError(f"patching of kind '{self.rule.kind}' has no threshold to calibrate")
        documents = [d for d in documents if d]
        total = sum(map(len, documents))
        if not total:
            raise UserError("calibration needs text, and the sample has none")
        ids = torch.from_numpy(np.concatenate([encode(d, eos=True) for d in documents]))[None]
        nats = torch.from_numpy(np.concatenate(self.entropies(documents)))[None]
        values = (nats if field == "threshold" else nats.diff(dim=1)).unique()
        between = (values[1:] + values[:-1]) / 2  # far from either, so that rounding moves no boundary
        steps = torch.cat([values[:1] - 1, between, values[-1:]])

        def mean_bytes(threshold: float) -> float:
            rule = self.rule.model_copy(update={field: threshold})
            start = rules.patches(rule, ids, nats).start_BN
            return total / int((start & (ids >= 4)).sum())

        low, high = 0, len(steps) - 1  # the mean grows with the threshold
        while low < high:
            middle = (low + high) // 2
            low, high = (
                (middle + 1, high) if mean_bytes(float(steps[middle])) < target_bytes_per_patch else (low, middle)
            )
        near = [float(steps[i]) for i in (low - 1, low) if i >= 0]
        best = min(near, key=lambda t: abs(mean_bytes(t) - target_bytes_per_patch))
        reached = mean_bytes(best)
        if abs(reached / target_bytes_per_patch - 1) > 0.05:
            least, most = mean_bytes(-math.inf), mean_bytes(math.inf)
            raise UserError(
                f"a mean of {target_bytes_per_patch:g} bytes per patch is out of reach: on this text the patcher gives "
                f"{least:.2f} to {most:.2f}, and {reached:.2f} comes nearest"
            )
        self.rule = self.rule.model_copy(update={field: best})
        return Calibration(best, reached, total)

    @property
    def fingerprint(self) -> str:
        """Names the entropy model by its shape and weights: entropies with the same name are the same."""
        digest = hashlib.sha256()
        if self.model is not None:
            digest.update(self.model.config.model_dump_json().encode())
            for name, weight in sorted(self.model.state_dict().items()):
                digest.update(name.encode())
                digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]
