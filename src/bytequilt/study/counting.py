"""Models that only count (Kneser-Ney n-grams, PPMd), given the same amount of text as a run of another model."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..baselines.counts import KneserNey, ppmd_bits
from ..infer.score import Score
from .corpus import Corpus
from .jobs import Results
from .models import learnt_vocabulary
from .recipe import Count, Study
from .search import Run
from .trial import spread, write_bits


@dataclass(frozen=True)
class Counting:
    """A job: count n-grams of training text and score the test text. It takes minutes, and starts over if
    interrupted."""

    study: Study
    folder: Path
    corpus: Corpus
    spec: Run
    text_bytes: int
    """Amount of training text; its documents are evenly spread over the corpus."""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def count(self) -> Count:
        return self.study.counts[self.spec.model]

    @property
    def recipe(self) -> dict[str, Any]:
        """All settings on which the result depends, except the corpus."""
        return self.count.model_dump() | {"text_bytes": self.text_bytes, "test_bytes": self.study.test_bytes}

    def run(self) -> dict[str, Any]:
        """Count, score the test text, and return the row of results."""
        begun, corpus = time.process_time(), self.corpus
        training, tested = corpus.sample(self.text_bytes), spread(corpus.test, self.study.test_bytes)
        bits, numbers = self._bits(training, tested)
        costs = [Score(cost * math.log(2), len(text)) for cost, text in zip(bits, tested, strict=True)]
        write_bits(self.folder, costs)
        total = Score.total(costs)
        size = sum(map(len, training))
        return (
            self.spec.row_fields
            | {"val_bpb": None, "test_bpb": total.bits_per_byte, "test_bytes": total.bytes, "mean_patch_bytes": None}
            | {"lr": None, "hash_lr_factor": None, "search": False, "split": corpus.split}
            | {"corpus": self.study.corpus, "matching": "bytes", "budget": {"bytes": size}, "trained_bytes": size}
            | {"steps": 0, "train_flops": 0.0, "train_flops_without_head": 0.0, "unit_bytes": 1.0, "leak": 0.0}
            | {"flops_per_byte": {"total": 0.0, "head": 0.0}, "parameters": numbers, "looked_up": numbers}
            | {"vocabulary": self.count.vocabulary or 256, "seconds": time.process_time() - begun, "threads": 1}
        )

    def _bits(self, training: list[bytes], tested: list[bytes]) -> tuple[list[float], int]:
        """Bits of each test document, and the number of counts that the model stores (0 if unknown)."""
        count = self.count
        if count.kind == "ppmd":
            return list(ppmd_bits(training, tested, count.order)), 0
        model = KneserNey(
            training, learnt_vocabulary(count.vocabulary, self.corpus, self.folder.parents[1]), count.order
        )
        return [model.bits(text) for text in tested], model.ngrams


def countings(study: Study, folder: Path, corpus: Corpus, results: Results) -> list[Counting]:
    """The counting jobs that can run now: the run named in `text_of` is done, so the amount of text is known."""
    jobs = []
    for name, count in study.counts.items():
        for size in study.sizes(count.text_of):
            run = Run(count.text_of, size, study.budgets[size].seeds[0])
            if row := results.get(folder / "runs" / run.name):
                spec = Run(name, size, 0)
                jobs.append(Counting(study, folder / "counts" / spec.name, corpus, spec, row["trained_bytes"]))
    return jobs
