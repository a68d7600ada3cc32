"""The cache of the local encoder: the KV cache of its stack, the recent ids for n-grams, and the byte states of the
open patch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..config import StackConfig
from .cache import StackCache
from .rows import Column, Positions, Rows, restored, rows_of

STATES = 16  # capacity in bytes of the open patch at first; it doubles for longer patches


class RecentIds:
    """The newest ids of each row, newest last: those that the next n-grams include. Zeros stand before the start of a
    text."""

    def __init__(self, reach: int, rows: int, reserve: int, device: torch.device | str) -> None:
        self.reach = reach
        self.ids_RK = torch.zeros(rows, reach + reserve, dtype=torch.int64, device=device)

    def rows(self, numbers: Sequence[int] | None = None) -> Rows:
        return rows_of(tuple(range(len(self.ids_RK)) if numbers is None else numbers), self.ids_RK.device)

    def extend(self, rows: Rows, ids_BN: Tensor) -> Tensor:
        """The `reach` ids before the new ids, followed by the new ids: (B, reach + N). The new ids are stored."""
        seen = torch.cat([rows.take(self.ids_RK), ids_BN], 1)
        rows.put(self.ids_RK, seen[:, ids_BN.shape[1] :])
        return seen[:, seen.shape[1] - self.reach - ids_BN.shape[1] :]

    def crop(self, row: int, count: int) -> None:
        """Remove the newest `count` ids of a row."""
        self.ids_RK[row] = self.ids_RK[row].roll(count)

    def clear(self, row: int) -> None:
        self.ids_RK[row] = 0

    def state(self) -> dict[str, Any]:
        return {"ids": self.ids_RK.clone()}

    def load(self, state: dict[str, Any]) -> None:
        self.ids_RK = restored(state, "ids", self.ids_RK)


class ByteStates:
    """Byte states of the open patch of each row, kept until the patch closes: one ring buffer per layer that patches
    attend to. The state of position p is stored in column p mod L. Positions are those of the encoder's stack."""

    def __init__(self, readings: int, rows: int, dim: int, device: torch.device | str, dtype: torch.dtype) -> None:
        self.data_SRLd = torch.zeros(readings, rows, STATES, dim, device=device, dtype=dtype)

    def make_room(self, count: int, lengths: list[int]) -> None:
        """Grow to at least `count` states per row; `lengths` are the numbers of positions of the rows."""
        old = self.data_SRLd.shape[2]
        if count <= old:
            return
        readings, rows, _, dim = self.data_SRLd.shape
        new = max(count, 2 * old)
        data = self.data_SRLd.new_zeros(readings, rows, new, dim)
        for row, length in enumerate(lengths):
            positions = torch.arange(max(0, length - old), length, device=data.device)
            data[:, row, positions % new] = self.data_SRLd[:, row, positions % old]
        self.data_SRLd = data

    def push(self, positions: Positions, states: Sequence[Tensor]) -> None:
        """Store the states (R, d) of one new position of each row, one entry per layer."""
        column = Column(self.data_SRLd, positions)
        for layer, x_Rd in enumerate(states):
            column.put(layer, x_Rd[:, None])

    def extend(self, row: int, states: Sequence[Tensor], length: int) -> None:
        """Store the newest of the states (1, N, d) of one row, per layer; `length` is its number of positions with them
        included."""
        room = self.data_SRLd.shape[2]
        count = min(room, states[0].shape[1])
        columns = torch.arange(length - count, length, device=self.data_SRLd.device) % room
        for data_RLd, x_1Nd in zip(self.data_SRLd, states, strict=True):
            data_RLd[row, columns] = x_1Nd[0, -count:]

    def newest(self, rows: Rows, position_R: Tensor, count: int) -> list[Tensor]:
        """The newest `count` states (R, count, d) of the rows, oldest first; `position_R` are their numbers of
        positions."""
        back = torch.arange(-count, 0, device=position_R.device)
        columns_RL = (position_R[:, None] + back) % self.data_SRLd.shape[2]
        return [data_RLd[rows.index[:, None], columns_RL] for data_RLd in self.data_SRLd]

    def clear(self, row: int) -> None:
        self.data_SRLd[:, row].zero_()

    def state(self) -> dict[str, Any]:
        return {"states": self.data_SRLd.clone()}

    def load(self, state: dict[str, Any]) -> None:
        self.data_SRLd = restored(state, "states", self.data_SRLd, 2)


class EncoderCache:
    """KV cache, recent ids and byte states as one object, with the methods of a `StackCache`, here `stack`."""

    def __init__(
        self,
        config: StackConfig,
        readings: int,
        reach: int,
        rows: int,
        reserve: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """`readings`: number of layers that patches attend to. `reach`: length of the longest n-gram minus 1."""
        self.stack = StackCache(config, rows, reserve, device, dtype)
        self.ids = RecentIds(reach, rows, reserve, device)
        self.states = ByteStates(readings, rows, config.dim, device, dtype)

    def crop(self, row: int, count: int) -> None:
        self.stack.crop(row, count)
        self.ids.crop(row, count)

    def clear(self, row: int) -> None:
        for part in (self.stack, self.ids, self.states):
            part.clear(row)

    def state(self) -> dict[str, Any]:
        return {"stack": self.stack.state(), "ids": self.ids.state(), "states": self.states.state()}

    def load(self, state: dict[str, Any]) -> None:
        self.stack.load(state["stack"])
        self.ids.load(state["ids"])
        self.states.load(state["states"])
