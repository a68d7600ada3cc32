"""Untrained models of a study: networks, patchers, vocabularies; and the leak test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..baselines.baseline import Baseline
from ..baselines.counts import ppmd_library
from ..baselines.networks import build
from ..baselines.vocabulary import BPE, Bytes, Vocabulary
from ..codec import OFFSET
from ..config import BaselineConfig, BLTConfig, UserError
from ..info import count_parameters
from ..lm import LM
from ..model.blt import BLT
from ..model.hashing import HashEmbedding
from ..train.run import threshold_stage
from .corpus import Corpus
from .recipe import Contender, Study

TOLERANCE = 1e-3  # largest allowed change of a logit in the leak test; rounding errors are a hundred times smaller
EQUAL = 0.02  # allowed relative difference from the requested number of parameters
LEARN = 12_000_000  # bytes of text from which a vocabulary is learnt


def untrained(study: Study, folder: Path, corpus: Corpus, name: str, size: str) -> LM | Baseline:
    """A model of a study with random weights. A missing threshold is calibrated, and a missing vocabulary is learnt."""
    contender, config = study.models[name], study.network(name, size)
    if isinstance(config, BLTConfig):
        patching = contender.patching
        assert patching is not None
        scored, calibrated = corpus.scored(contender), folder / "patching" / f"{name}.json"
        patcher = threshold_stage(patching, corpus.folder, calibrated, scored and scored.model)
        network = BLT(sized(config, BLT, contender.parameters.get(size)))
        _freeze(network, contender)
        return LM(network, patcher, patching.target_bytes or patching.stride)
    file, ranks = contender.tokenizer, contender.vocabulary
    vocabulary = BPE.read(Path(file), ranks) if file else learnt_vocabulary(ranks, corpus, folder)
    config = with_vocabulary(config, vocabulary, corpus.sample())
    config = sized(config, build, contender.parameters.get(size))
    network = build(config)
    _freeze(network, contender)
    return Baseline(network, vocabulary, config)


def _freeze(network: nn.Module, contender: Contender) -> None:
    for module in network.modules():
        if isinstance(module, HashEmbedding):
            module.weight.requires_grad_(not contender.frozen_tables)


def sized(config: Any, make: Callable[[Any], nn.Module], total: int | None) -> Any:
    """The configuration with the number of hash-table rows that gives `total` parameters. Raises UserError if the
    difference exceeds 2 %."""
    if total is None:
        return config

    def count(rows: int) -> tuple[Any, int]:
        changed = config.model_copy(update={"hash": config.hash.model_copy(update={"rows": rows})})
        with torch.device("meta"):
            return changed, count_parameters(make(changed))

    (_, least), (_, more) = count(1), count(2)
    changed, reached = count(max(1, 1 + round((total - least) / (more - least))))
    if abs(reached - total) > EQUAL * total:
        raise UserError(f"{total:,} parameters cannot be met by the size of hash tables: {reached:,} is nearest")
    return changed


def learnt_vocabulary(ranks: int | None, corpus: Corpus, folder: Path) -> Vocabulary:
    """A BPE vocabulary of `ranks` entries learnt from the training text and stored in the study's folder; bytes if
    None."""
    if ranks is None:
        return Bytes()
    learnt = folder / "vocabularies" / f"{ranks}.model"
    if not learnt.is_file():
        BPE.learn(corpus.sample(LEARN), ranks).save(learnt)
    return BPE.read(learnt)


def with_vocabulary(config: BaselineConfig, vocabulary: Vocabulary, sample: list[bytes]) -> BaselineConfig:
    """The configuration of a baseline with this vocabulary; its mean token size is measured on a sample."""
    tokens = sum(len(vocabulary.encode(text, bos=False)) for text in sample)
    token_bytes = max(1.0, sum(map(len, sample)) / tokens)
    return config.model_copy(update={"vocabulary": vocabulary.size, "token_bytes": token_bytes})


def check_inputs(study: Study) -> None:
    """Raise UserError if a tokenizer file or a package is missing, before the study starts."""
    for name, model in study.models.items():
        if model.tokenizer is not None:
            BPE.read(Path(model.tokenizer), model.vocabulary)
        config = study.network(name, study.sizes(name)[0])
        if isinstance(config, BaselineConfig):
            with torch.device("meta"):
                build(config)
    if any(count.kind == "ppmd" for count in study.counts.values()):
        ppmd_library()


def leak(model: LM | Baseline, text: bytes) -> float:
    """Leak test: the largest change of earlier logits when one byte or token is changed. Raises UserError above
    TOLERANCE.

    Several positions are tested, adjacent and distant ones, since a leak may reach no further than one patch.
    """
    ids_N = model.encode(text)[:256]
    before_NV, worst = model.logits(ids_N[None])[0], 0.0
    size = len(ids_N)
    for position in {1, size // 3, size // 2, size // 2 + 1, size - 1} & set(range(1, size)):
        changed_N = ids_N.clone()
        changed_N[position] = OFFSET + (int(ids_N[position]) - OFFSET + 7) % 256
        worst = max(worst, float((model.logits(changed_N[None])[0, :position] - before_NV[:position]).abs().max()))
    if worst > TOLERANCE:
        raise UserError(f"this model sees the future: a later byte moves earlier logits by {worst:.2g}")
    return worst
