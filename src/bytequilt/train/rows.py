"""AdamW for tables of which a step reads few rows: hash embeddings and byte embeddings.

Dense AdamW moves every row at every step: a row that is not read goes on by its momentum, which shrinks. Here a row
stands still until it is read, and then makes up for all those steps at once, in closed form. Of what dense AdamW
without weight decay does, only its `eps` inside a gap is neglected. (Moments that stand still as well, as in
SparseAdam, train a worse model.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..model.embedding import Embedding
from ..model.hashing import HashEmbedding
from .drift import CHUNK, Moments, Step, catch_up_, caught_up, drifted, update_


@dataclass
class Read:
    """The rows of a table that a step reads: their caught-up values, which collect the gradient."""

    rows_U: Tensor | slice
    values_UD: Tensor
    slot_U: Tensor | None = None
    """Where rows are padded with repeats of the last: the place whose gradient counts for each."""

    @property
    def grads_UD(self) -> Tensor:
        grads_UD = self.values_UD.grad
        assert grads_UD is not None
        return grads_UD if self.slot_U is None else grads_UD.index_select(0, self.slot_U)


def distinct(places_M: Tensor, size: int, fixed: bool) -> tuple[Tensor | slice, Tensor, Tensor | None]:
    """Rows of a table of `size`, each once; where in them each of `places_M` is; and `Read.slot_U`.

    A table that has no more rows than are asked for is taken whole. With `fixed`, shapes do not depend on values, and
    the device is not read: M rows, the last of them repeated.
    """
    if len(places_M) >= size:
        return slice(None), places_M, None
    if not fixed:
        return *places_M.unique(return_inverse=True), None
    sorted_M, order_M = places_M.sort()
    slot_M = torch.cat([torch.zeros_like(sorted_M[:1]), (sorted_M[1:] != sorted_M[:-1]).long()]).cumsum(0)
    rows_M = sorted_M[-1:].repeat(len(sorted_M)).scatter_(0, slot_M, sorted_M)
    count = torch.arange(len(sorted_M), device=sorted_M.device)
    return rows_M, torch.empty_like(slot_M).scatter_(0, order_M, slot_M), count.minimum(slot_M[-1])


Part = tuple[Tensor | slice, Tensor]
"""Rows of a table, all or some, and their gradients."""


def summed(parts: list[Part], weight_RD: Tensor, fixed: bool) -> tuple[Tensor | slice, Tensor | None, Tensor]:
    """Rows, `slot_U` and gradients of several parts of a table together."""
    if len(parts) == 1 and isinstance(parts[0][0], slice):
        return parts[0][0], None, parts[0][1]
    everything = torch.arange(len(weight_RD), device=weight_RD.device)
    rows_M = torch.cat([everything if isinstance(rows, slice) else rows for rows, _ in parts])
    grads_MD = torch.cat([grads for _, grads in parts])
    rows_U, where_M, slot_U = distinct(rows_M, len(weight_RD), fixed)
    count = len(weight_RD) if isinstance(rows_U, slice) else len(rows_U)
    return rows_U, slot_U, weight_RD.new_zeros(count, weight_RD.shape[1]).index_add_(0, where_M, grads_MD)


def own(x: Tensor) -> Tensor:
    """What this process has of a tensor: all of it, or its part where the tensor is sharded."""
    return x.to_local() if isinstance(x, DTensor) else x


def like(x: Tensor, weight: Tensor) -> Tensor:
    """The part of a tensor that goes with this process's part of a weight, as a part of the whole."""
    return DTensor.from_local(x, weight.device_mesh, weight.placements) if isinstance(weight, DTensor) else x


class Rows(torch.optim.Optimizer):
    """AdamW of touched rows, without weight decay, for tables that are modules of kind Embedding or HashEmbedding.

    It stands between a table and its readers: what they read with gradients is caught up, and remembered. Without
    gradients they read the table itself, and `catch_up` must come before.
    """

    def __init__(self, tables: list[Embedding | HashEmbedding], lr: float, betas: tuple[float, float]) -> None:
        group = {"params": [table.weight for table in tables], "weight_decay": 0.0, "peak": lr}
        super().__init__([group], {"lr": lr, "betas": betas, "eps": 1e-8, "step": 0})
        self.tables = tables
        self.moments = {table.weight: Moments.of(own(table.weight.detach())) for table in tables}
        self.reads: dict[Tensor, list[Read]] = {}
        self.fixed = any(table.weight.device.type != "cpu" for table in tables)
        """Whether shapes must not depend on values, for the device would have to be read."""
        for table in tables:
            table.gather = self._reader(table)

    def detach(self) -> None:
        """Catch up and let go of the tables."""
        self.catch_up()
        for table in self.tables:
            table.gather = None

    @torch.no_grad()
    def catch_up(self) -> None:
        """Bring every row to the last step: before evaluation and export."""
        for weight, moments in self.moments.items():
            catch_up_(own(weight.detach()), moments, self._step)

    @torch.no_grad()
    def caught_up(self, weight: Tensor) -> Tensor:
        """A copy of a table as `catch_up` would leave it, in the memory of the CPU."""
        parts = (slice(begin, begin + CHUNK) for begin in range(0, len(weight), CHUNK))
        return torch.cat([caught_up(weight, self.moments[weight], rows, self._step.eps).cpu() for rows in parts])

    def leaves(self) -> list[Tensor]:
        """One tensor a table, whose `grad` is the gradient of the rows that were read, each row once."""
        return [leaf for weight in self.reads for leaf in self.leaves_of(weight)]

    def leaves_of(self, weight: Tensor) -> list[Tensor]:
        """The leaf of one table; none where no row was read."""
        return [view.values_UD for view in self._merged(weight)]

    def rows_of(self, weight: Tensor) -> list[Tensor | slice]:
        """The rows that its leaves are of."""
        return [view.rows_U for view in self._merged(weight)]

    @torch.no_grad()
    def put(self, weight: Tensor, parts: list[Part]) -> None:
        """Take these gradients of a table, added up, in the place of all that was read of it."""
        rows_U, slot_U, grads_UD = summed(parts, own(weight), self.fixed)
        values_UD = caught_up(own(weight), self.moments[weight], rows_U, self._step.eps)
        values_UD.grad = grads_UD
        self.reads[weight] = [Read(rows_U, values_UD, slot_U)]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step of the rows that were read since the last; the others fall behind."""
        self.param_groups[0]["step"] += 1
        now = self._step
        for weight, moments in self.moments.items():
            for view in self._merged(weight):
                update_(own(weight.detach()), moments, view.rows_U, view.values_UD.detach(), view.grads_UD, now)
            moments.drift_S = drifted(moments.drift_S, now)
        self.reads.clear()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget what was read."""
        self.reads.clear()

    def state_dict(self) -> dict[str, Any]:
        """What goes on bit for bit: rows as they are, not caught up."""
        state = [
            {name: like(x, weight) if x.ndim == 2 else x for name, x in vars(moments).items()}
            | {"weight": weight.detach()}
            for weight, moments in self.moments.items()
        ]
        return {"state": dict(enumerate(state)), "param_groups": super().state_dict()["param_groups"]}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put a state back."""
        for number, (weight, moments) in enumerate(self.moments.items()):
            state = state_dict["state"][number]
            weight.copy_(state["weight"])
            for name in vars(moments):
                setattr(moments, name, own(state[name]).to(weight.device))
        (group,) = state_dict["param_groups"]
        self.param_groups[0] |= {name: value for name, value in group.items() if name != "params"}

    # ------------------------------------------------------------------------------------------------------ inside

    @property
    def _step(self) -> Step:
        group = self.param_groups[0]
        return Step(group["step"], group["lr"], group["betas"], group["eps"])

    def _reader(self, table: Embedding | HashEmbedding) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        def gather(places: Tensor) -> tuple[Tensor, Tensor]:
            weight = table.weight
            if not torch.is_grad_enabled():
                return own(weight), places
            rows_U, where_M, slot_U = distinct(places.flatten(), len(weight), self.fixed)
            reads = self.reads.get(weight, [])
            if isinstance(rows_U, slice) and reads and isinstance(reads[0].rows_U, slice):
                return reads[0].values_UD, where_M.view(places.shape)  # the same again, whose gradient adds up
            with torch.no_grad():
                values_UD = caught_up(own(weight), self.moments[weight], rows_U, self._step.eps)
            self.reads[weight] = [*self._merged(weight), Read(rows_U, values_UD.requires_grad_(), slot_U)]
            return values_UD, where_M.view(places.shape)

        return gather

    @torch.no_grad()
    def _merged(self, weight: Tensor) -> list[Read]:
        """All that was read of a table and has a gradient, as one; none where nothing was."""
        reads = [view for view in self.reads.get(weight, []) if view.values_UD.grad is not None]
        if len(reads) > 1:
            self.put(weight, [(view.rows_U, view.values_UD.grad) for view in reads])
            reads = self.reads[weight]
        return reads
