"""The models of a study, before training: their networks, patchers and vocabularies, and the test for leaks."""

from pathlib import Path

import torch

from ..baselines.baseline import Baseline, build
from ..baselines.vocabulary import BPE, Bytes, Vocabulary
from ..codec import OFFSET
from ..config import BaselineConfig, BLTConfig, UserError
from ..lm import LM
from ..model.blt import BLT
from ..train.run import threshold_stage
from .corpus import Corpus
from .recipe import Contender, Study

TOLERANCE = 1e-3  # of logits; rounding moves them by a hundredth of that
LEARN = 12_000_000  # bytes that a vocabulary is learnt from


def untrained(study: Study, folder: Path, corpus: Corpus, name: str, size: str) -> LM | Baseline:
    """A model of a study with random weights; its threshold or vocabulary is made where it is missing."""
    contender, config = study.models[name], study.network(name, size)
    if isinstance(config, BLTConfig):
        patching = contender.patching
        assert patching is not None
        entropy = corpus.entropy if patching.needs_entropy else None
        patcher = threshold_stage(patching, corpus.folder, folder / "patching" / f"{name}.json", entropy)
        return LM(BLT(config), patcher, patching.target_bytes or patching.stride)
    vocabulary = vocabulary_of(contender, corpus, folder / "vocabularies" / f"{contender.vocabulary}.model")
    config = with_vocabulary(config, vocabulary, corpus.sample())
    return Baseline(build(config), vocabulary, config)


def vocabulary_of(contender: Contender, corpus: Corpus, learnt: Path) -> Vocabulary:
    """The bytes; or the tokens of a file; or tokens learnt from the training text, kept in the file `learnt`."""
    if contender.tokenizer is not None:
        return BPE.read(Path(contender.tokenizer), contender.vocabulary)
    if contender.vocabulary is None:
        return Bytes()
    if not learnt.is_file():
        BPE.learn(corpus.sample(LEARN), contender.vocabulary).save(learnt)
    return BPE.read(learnt)


def with_vocabulary(config: BaselineConfig, vocabulary: Vocabulary, sample: list[bytes]) -> BaselineConfig:
    """The configuration of a baseline over a vocabulary, with the mean size of its tokens in a sample."""
    tokens = sum(len(vocabulary.encode(text, bos=False)) for text in sample)
    token_bytes = max(1.0, sum(map(len, sample)) / tokens)
    return config.model_copy(update={"vocabulary": vocabulary.size, "token_bytes": token_bytes})


def check_inputs(study: Study) -> None:
    """Raises UserError for what would only be missed in the middle of a study: a tokenizer, or a package."""
    for name, model in study.models.items():
        if model.tokenizer is not None:
            BPE.read(Path(model.tokenizer), model.vocabulary)
        config = study.network(name, study.sizes(name)[0])
        if isinstance(config, BaselineConfig):
            with torch.device("meta"):
                build(config)


def leak(model: LM | Baseline, text: bytes) -> float:
    """How far logits move at most before a place where the text is changed; raises UserError where they do.

    Several places are tried, near each other and apart: a leak may reach ahead by a patch, and no further.
    """
    ids_N = model.encode(text)[:256]
    before_NV, worst = model.logits(ids_N[None])[0], 0.0
    size = len(ids_N)
    for place in {1, size // 3, size // 2, size // 2 + 1, size - 1} & set(range(1, size)):
        changed_N = ids_N.clone()
        changed_N[place] = OFFSET + (int(ids_N[place]) - OFFSET + 7) % 256
        worst = max(worst, float((model.logits(changed_N[None])[0, :place] - before_NV[:place]).abs().max()))
    if worst > TOLERANCE:
        raise UserError(f"this model sees the future: a later byte moves earlier logits by {worst:.2g}")
    return worst
