"""Speed of decoding, training and scoring on this machine, ours alone or in turns with a peer of Hugging Face's."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from ..config import TrainConfig
from ..info import count_parameters
from ..lm import LM
from ..view.progress import progress
from .decode import WARMUP, corpus, english, prefilled
from .peers import LLAMAS, HuggingFaceBLT, Llama
from .timing import Turn, in_turns, machine, ratios, speeds, timed

Setting = dict[str, int]
"""Arguments of a measure by name: `prompt`, `output`, `rows`; `rows`, `row_bytes`; `size`, `context`. All in bytes."""
TOKEN = 4.4  # bytes of a peer's token where a model does not say how long its patches are


class Ours:
    """Our model. The classes of peers.py have the same methods, each of which measures one turn."""

    def __init__(self, lm: LM) -> None:
        self.lm, self.optimizers = lm, []

    def about(self, setting: Setting, training: bool) -> dict[str, Any]:
        """The facts about this side's network that are printed with its measurements, such as its number of parameters.
        `training` is True where training is measured, in which the entropy model takes no part."""
        scorer = 0 if training else count_parameters(self.lm.patcher.model)
        return {"parameters": count_parameters(self.lm.model) + scorer}

    def decode(self, prompt: int, output: int, rows: int) -> Turn:
        """Bytes fed to each row behind a prompt."""
        ids_RN = english(rows, prompt + WARMUP + output)
        session = prefilled(self.lm, ids_RN[:, : prompt + 1])
        ids_NR = ids_RN[:, prompt + 1 :].T.tolist()
        for ids_R in ids_NR[:WARMUP]:
            session.step(ids_R)

        def work() -> int:
            for ids_R in ids_NR[WARMUP:]:
                session.step(ids_R)
            return rows * output

        return timed(work)

    def train(self, rows: int, row_bytes: int) -> Turn:
        """A step as `bytequilt train` takes it, on patches that were decided before."""
        from ..data.batches import Batch  # needs the extra `train`
        from ..train.loop import step
        from ..train.optim import optimizers_of
        from ..train.tasks import LanguageTask

        config, network = TrainConfig(steps=1, rows=rows, row_bytes=row_bytes, lr=1e-4), self.lm.model.train()
        if not self.optimizers:
            for weight in network.parameters():
                weight.data = weight.data.contiguous()  # training does not lay weights out for steps of one row
            self.optimizers = optimizers_of(network, config)
        ids_BN = english(rows, row_bytes - 1)
        closes_BN = self.lm.patcher(ids_BN).closes_BN
        batch, task = Batch.of(ids_BN, closes_BN, torch.ones_like(closes_BN)), LanguageTask(self.lm, [])

        def work() -> int:
            step(task, [batch], self.optimizers, config, False)
            return rows * row_bytes

        return timed(work)

    def score(self, size: int, context: int) -> Turn:
        """Bits per byte of one document, read in windows of so many bytes."""
        text = corpus(size)

        def work() -> int:
            self.lm.score_documents([text], context=context)
            return len(text)

        return timed(work)


def side_by_side(
    lm: LM,
    name: str,
    measure: str,
    settings: Sequence[Setting],
    peer: str | None = None,
    repeats: int = 3,
    int8: bool = False,
) -> dict[str, Any]:
    """Measure settings of `decode`, `train` or `score`, each side a turn after the other, a first turn uncounted.

    `settings` have the speeds of each `side` and, with a peer, the `ratio` of ours over its: `processor`, in seconds of
    the processor, and `seconds`, by the clock, each with `median`, `min` and `max`. The `ratio` of the whole is that
    of all turns. `int8`: a Llama has weights of eight bits. Raises UserError where the peer cannot be had, before
    anything is measured.
    """
    sides: dict[str, Ours | Llama | HuggingFaceBLT] = {name: Ours(lm)}
    if peer is not None:
        sides[peer] = Llama(peer, lm, lm.patch_bytes or TOKEN, int8) if peer in LLAMAS else HuggingFaceBLT(lm)
    training, measured, all_turns = measure == "train", [], [[] for _ in sides]
    about = [[side.about(setting, training) for side in sides.values()] for setting in settings]
    with progress() as bar:
        line = bar.add_task(measure, total=len(settings) * len(sides) * (repeats + 1))
        for setting, networks in zip(settings, about, strict=True):
            works = {title: partial(getattr(side, measure), **setting) for title, side in sides.items()}
            turns = in_turns(works, repeats, lambda: bar.update(line, advance=1))
            for own, of_all in zip(turns.values(), all_turns, strict=True):
                of_all += own
            shown = [
                {"side": title} | speeds(taken) | network
                for (title, taken), network in zip(turns.items(), networks, strict=True)
            ]
            ratio = {"ratio": ratios(*turns.values())} if peer is not None else {}
            measured.append(setting | {"sides": shown} | ratio)
    report = {"measure": measure, "peer": peer, "machine": machine(), "threads": torch.get_num_threads()}
    ratio = {"ratio": ratios(*all_turns)} if peer is not None else {}
    return report | {"repeats": repeats, "settings": measured} | ratio
