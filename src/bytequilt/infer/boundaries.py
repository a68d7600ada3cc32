"""Patch boundaries of a session: the entropy model and the rule, with the state of both for each row."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..model.rows import Rows, restored
from ..patching import rules
from ..patching.patcher import Patcher
from .steps import Steps


class Boundaries:
    """Decides which ids close their patch. All work is done on the device, and nothing is copied to the host."""

    def __init__(self, patcher: Patcher, steps: Steps, rows: int, reserve: int, device: torch.device) -> None:
        self.patcher, self.steps, self.device = patcher, steps, device
        self.cache = patcher.cache(rows, reserve)
        """The cache of the entropy model; None if the rule needs no entropy."""
        self.state_RF = rules.start(patcher.rule, rows, device)
        """The state of the rule for each row."""
        self.kept = reserve + 1 if reserve else 0
        self.states_RKF = self.state_RF[:, None].repeat(1, self.kept, 1)
        """Earlier states of the rule, which a crop can restore: the state after id i is in column i mod K."""

    def step(self, ids_n: Tensor, rows: Rows, places: Sequence[int], text: bool) -> Tensor:
        """Process the next id (n,) of each of these rows. Returns (n,) bool: True for an id that closes its patch.

        `places` are the numbers of ids that the rows have read so far. `text` promises that no id is a BOS.
        """
        nats_n = self.steps.nats(ids_n, self.cache, rows, text)
        closes_n, state_nF = rules.step(self.patcher.rule, rows.take(self.state_RF), ids_n, nats_n)
        rows.put(self.state_RF, state_nF)
        if self.kept:
            columns = torch.tensor([place % self.kept for place in places], device=self.device)
            self.states_RKF[rows.index, columns] = state_nF
        return closes_n

    def feed(self, ids_N: Tensor, row: int, rows: Rows, place: int, single: bool) -> Tensor:
        """Process the next ids (N,) of one row. Returns (N,) bool: True for an id that closes its patch.

        `place` is the number of ids that the row has read so far. `single` promises that the only BOS of the row is its
        first id.
        """
        nats_N = self.steps.nats_feed(ids_N, self.cache, rows, single)
        closes_N, states_NF = rules.feed(self.patcher.rule, self.state_RF[row : row + 1], ids_N, nats_N)
        self.state_RF[row] = states_NF[-1]
        if self.kept:
            columns = torch.arange(place, place + len(ids_N), device=self.device)[-self.kept :] % self.kept
            self.states_RKF[row, columns] = states_NF[-self.kept :]
        return closes_N

    def crop(self, row: int, count: int, place: int) -> None:
        """Remove the newest `count` ids of a row; `place` ids remain."""
        if self.cache is not None:
            self.cache.crop(row, count)
        start_F = rules.start(self.patcher.rule, 1, self.device)[0]
        self.state_RF[row] = self.states_RKF[row, (place - 1) % self.kept] if place else start_F

    def clear(self, row: int) -> None:
        if self.cache is not None:
            self.cache.clear(row)
        self.state_RF[row] = rules.start(self.patcher.rule, 1, self.device)[0]

    def state(self) -> dict[str, Any]:
        cache = {} if self.cache is None else {"cache": self.cache.state()}
        return {"rule": self.state_RF.clone(), "earlier": self.states_RKF.clone(), **cache}

    def load(self, state: dict[str, Any]) -> None:
        if self.cache is not None:
            self.cache.load(state["cache"])
        self.state_RF = restored(state, "rule", self.state_RF)
        self.states_RKF = restored(state, "earlier", self.states_RKF)
